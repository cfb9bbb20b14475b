// What this machine does at best: the denominators that timings are compared with.
#pragma once

#include <cstddef>

#include "core/export.h"

namespace fusedsplit {

// Fused multiply-adds per second, each counted as two operations, of one thread or of all of them at once, by
// the active ISA on float32 values that never leave the registers.
double fma_rate_of_thread();
FUSEDSPLIT_EXPORT double fma_rate();

// Seconds that all threads together take to read a buffer of so many bytes, each its own part, again and
// again.
FUSEDSPLIT_EXPORT double read_seconds(size_t bytes);

}  // namespace fusedsplit
