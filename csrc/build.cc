#include "build.h"

namespace fusedsplit {

// Given by setup.py, to this file alone: nothing else is compiled again when they change.
const char* const kVersion = FUSEDSPLIT_VERSION;
const char* const kBuild = FUSEDSPLIT_BUILD;

}  // namespace fusedsplit
