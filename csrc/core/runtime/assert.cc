#include "core/runtime/assert.h"

#include <cstdio>
#include <cstdlib>

namespace fusedsplit {

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "fusedsplit: %s:%d: expected %s\n", file, line, condition);
  std::abort();
}

}  // namespace fusedsplit
