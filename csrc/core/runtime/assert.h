// Preconditions, checked where FUSEDSPLIT_ASSERTIONS is defined (`make sanitize`) and gone everywhere else. Free of the
// STL, so that ISA units can include it.
#pragma once

namespace fusedsplit {

// Says what did not hold, and where, and ends the process.
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace fusedsplit

// A macro because it must name its file and line, and vanish: without FUSEDSPLIT_ASSERTIONS nothing is evaluated.
#if defined(FUSEDSPLIT_ASSERTIONS)
#define FUSEDSPLIT_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::fusedsplit::assertion_failed(#condition, __FILE__, __LINE__))
#else
#define FUSEDSPLIT_ASSERT(condition) static_cast<void>(sizeof((condition) ? 1 : 0))
#endif
