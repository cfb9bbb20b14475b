// The vector layer in the compiler's own 16-byte vectors: SSE2 on x86-64, whatever else has none of its own.
// No FMA. See vec/common.h.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define FUSEDSPLIT_VEC_BYTES 16
#include "core/vec/common.h"
#include "core/vec/tail.h"

namespace fusedsplit {
namespace {

constexpr bool kHasFma = false;

// a * b + c, rounded twice.
FUSEDSPLIT_INLINE VecF32 fma(VecF32 a, VecF32 b, VecF32 c) { return a * b + c; }
FUSEDSPLIT_INLINE VecF64 fma(VecF64 a, VecF64 b, VecF64 c) { return a * b + c; }

// The larger (smaller) of a and b; b where either is NaN or where they are equal, so max(0, x) and min(c, x)
// keep a NaN of x: the rule of the x86 instruction.
#if defined(__SSE2__)
FUSEDSPLIT_INLINE VecF32 max(VecF32 a, VecF32 b) { return _mm_max_ps(a, b); }
FUSEDSPLIT_INLINE VecF64 max(VecF64 a, VecF64 b) { return _mm_max_pd(a, b); }
FUSEDSPLIT_INLINE VecF32 min(VecF32 a, VecF32 b) { return _mm_min_ps(a, b); }
FUSEDSPLIT_INLINE VecF64 min(VecF64 a, VecF64 b) { return _mm_min_pd(a, b); }
#else
FUSEDSPLIT_INLINE VecF32 max(VecF32 a, VecF32 b) { return select(a > b, a, b); }
FUSEDSPLIT_INLINE VecF64 max(VecF64 a, VecF64 b) { return select(a > b, a, b); }
FUSEDSPLIT_INLINE VecF32 min(VecF32 a, VecF32 b) { return select(a < b, a, b); }
FUSEDSPLIT_INLINE VecF64 min(VecF64 a, VecF64 b) { return select(a < b, a, b); }
#endif

}  // namespace
}  // namespace fusedsplit
