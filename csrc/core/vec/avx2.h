// The vector layer on AVX2 with FMA. See vec/common.h.
#pragma once

#include <immintrin.h>

#define FUSEDSPLIT_VEC_BYTES 32
#include "core/vec/common.h"

namespace fusedsplit {
namespace {

constexpr bool kHasFma = true;

// a * b + c with one rounding.
FUSEDSPLIT_INLINE VecF32 fma(VecF32 a, VecF32 b, VecF32 c) { return _mm256_fmadd_ps(a, b, c); }
FUSEDSPLIT_INLINE VecF64 fma(VecF64 a, VecF64 b, VecF64 c) { return _mm256_fmadd_pd(a, b, c); }

// The larger (smaller) of a and b; b where either is NaN or where they are equal, so max(0, x) and min(c, x)
// keep a NaN of x: the rule of the x86 instruction.
FUSEDSPLIT_INLINE VecF32 max(VecF32 a, VecF32 b) { return _mm256_max_ps(a, b); }
FUSEDSPLIT_INLINE VecF64 max(VecF64 a, VecF64 b) { return _mm256_max_pd(a, b); }
FUSEDSPLIT_INLINE VecF32 min(VecF32 a, VecF32 b) { return _mm256_min_ps(a, b); }
FUSEDSPLIT_INLINE VecF64 min(VecF64 a, VecF64 b) { return _mm256_min_pd(a, b); }

// The sum of the lanes by halves, low half + high half each time.
FUSEDSPLIT_INLINE float reduce_add(VecF32 v) {
  const __m128 half = _mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1);
  const __m128 pair = half + _mm_movehl_ps(half, half);
  return pair[0] + pair[1];
}
FUSEDSPLIT_INLINE double reduce_add(VecF64 v) {
  const __m128d pair = _mm256_castpd256_pd128(v) + _mm256_extractf128_pd(v, 1);
  return pair[0] + pair[1];
}

FUSEDSPLIT_INLINE __m256i first_lanes_32(ptrdiff_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FUSEDSPLIT_INLINE __m256i first_lanes_64(ptrdiff_t n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}

// The first n lanes, 0 <= n <= lanes; the other lanes load as zero, and their memory is not touched.
FUSEDSPLIT_INLINE VecF32 load_first(const float* p, ptrdiff_t n) {
  return _mm256_maskload_ps(p, first_lanes_32(n));
}
FUSEDSPLIT_INLINE VecF64 load_first(const double* p, ptrdiff_t n) {
  return _mm256_maskload_pd(p, first_lanes_64(n));
}
FUSEDSPLIT_INLINE void store_first(float* p, VecF32 v, ptrdiff_t n) {
  _mm256_maskstore_ps(p, first_lanes_32(n), v);
}
FUSEDSPLIT_INLINE void store_first(double* p, VecF64 v, ptrdiff_t n) {
  _mm256_maskstore_pd(p, first_lanes_64(n), v);
}

}  // namespace
}  // namespace fusedsplit
