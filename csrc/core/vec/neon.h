// The vector layer on aarch64 NEON, which always has fma. See vec/common.h.
#pragma once

#include <arm_neon.h>

#define FUSEDSPLIT_VEC_BYTES 16
#include "core/vec/common.h"
#include "core/vec/tail.h"

namespace fusedsplit {
namespace {

constexpr bool kHasFma = true;

// a * b + c with one rounding.
FUSEDSPLIT_INLINE VecF32 fma(VecF32 a, VecF32 b, VecF32 c) {
  return (VecF32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
FUSEDSPLIT_INLINE VecF64 fma(VecF64 a, VecF64 b, VecF64 c) {
  return (VecF64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}

// The larger (smaller) of a and b; b where either is NaN or where they are equal, so max(0, x) and min(c, x)
// keep a NaN of x.
FUSEDSPLIT_INLINE VecF32 max(VecF32 a, VecF32 b) { return select(a > b, a, b); }
FUSEDSPLIT_INLINE VecF64 max(VecF64 a, VecF64 b) { return select(a > b, a, b); }
FUSEDSPLIT_INLINE VecF32 min(VecF32 a, VecF32 b) { return select(a < b, a, b); }
FUSEDSPLIT_INLINE VecF64 min(VecF64 a, VecF64 b) { return select(a < b, a, b); }

}  // namespace
}  // namespace fusedsplit
