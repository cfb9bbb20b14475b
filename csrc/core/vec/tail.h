// Partial loads and stores and sums over the lanes for 16-byte vectors without masked memory access. Included
// by vec/<isa>.h only.
#pragma once

#include "core/vec/common.h"

namespace fusedsplit {
namespace {

// The first n lanes, 0 <= n <= lanes; the other lanes load as zero, and their memory is not touched. The
// loops run over constant bounds so that they unroll into a few moves.
template <class T>
FUSEDSPLIT_INLINE Vec<T> load_first(const T* p, ptrdiff_t n) {
  Vec<T> v{};
  for (ptrdiff_t i = 0; i < kLanes<T>; ++i)
    if (i < n) v[i] = p[i];
  return v;
}

FUSEDSPLIT_INLINE void store_first(float* p, VecF32 v, ptrdiff_t n) {
  for (ptrdiff_t i = 0; i < kLanes<float>; ++i)
    if (i < n) p[i] = v[i];
}

FUSEDSPLIT_INLINE void store_first(double* p, VecF64 v, ptrdiff_t n) {
  for (ptrdiff_t i = 0; i < kLanes<double>; ++i)
    if (i < n) p[i] = v[i];
}

// The sum of the lanes by halves, low half + high half each time.
FUSEDSPLIT_INLINE float reduce_add(VecF32 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
FUSEDSPLIT_INLINE double reduce_add(VecF64 v) { return v[0] + v[1]; }

}  // namespace
}  // namespace fusedsplit
