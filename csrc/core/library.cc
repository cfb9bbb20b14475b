#include "core/library.h"

namespace fusedsplit {

const char* core_build() { return kBuild; }

}  // namespace fusedsplit
