// The kernels on the baseline: SSE2 on x86-64, the compiler's 16-byte vectors elsewhere.
#if defined(__aarch64__)
#include "core/vec/neon.h"
#else
#include "core/vec/baseline.h"
#endif

#define FUSEDSPLIT_UNIT_NAME "baseline"
#define FUSEDSPLIT_UNIT_FN isa_unit_baseline
#include "core/microkernels/unit-inl.h"
