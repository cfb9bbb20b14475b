// The vector layer on AVX-512 (F, DQ, BW, VL). See vec/common.h.
#pragma once

#include <immintrin.h>

#define FUSEDSPLIT_VEC_BYTES 64
#include "core/vec/common.h"

namespace fusedsplit {
namespace {

constexpr bool kHasFma = true;

// a * b + c with one rounding.
FUSEDSPLIT_INLINE VecF32 fma(VecF32 a, VecF32 b, VecF32 c) { return _mm512_fmadd_ps(a, b, c); }
FUSEDSPLIT_INLINE VecF64 fma(VecF64 a, VecF64 b, VecF64 c) { return _mm512_fmadd_pd(a, b, c); }

// The larger (smaller) of a and b; b where either is NaN or where they are equal, so max(0, x) and min(c, x)
// keep a NaN of x: the rule of the x86 instruction. The masked forms of intrinsics are used because GCC 12
// warns of an uninitialized value inside the plain ones.
FUSEDSPLIT_INLINE VecF32 max(VecF32 a, VecF32 b) { return _mm512_maskz_max_ps(0xFFFF, a, b); }
FUSEDSPLIT_INLINE VecF64 max(VecF64 a, VecF64 b) { return _mm512_maskz_max_pd(0xFF, a, b); }
FUSEDSPLIT_INLINE VecF32 min(VecF32 a, VecF32 b) { return _mm512_maskz_min_ps(0xFFFF, a, b); }
FUSEDSPLIT_INLINE VecF64 min(VecF64 a, VecF64 b) { return _mm512_maskz_min_pd(0xFF, a, b); }

// The sum of the lanes by halves, low half + high half each time.
FUSEDSPLIT_INLINE float reduce_add(VecF32 v) {
  const __m256 half = _mm512_maskz_extractf32x8_ps(0xFF, v, 0) + _mm512_maskz_extractf32x8_ps(0xFF, v, 1);
  const __m128 quarter = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
  const __m128 pair = quarter + _mm_movehl_ps(quarter, quarter);
  return pair[0] + pair[1];
}
FUSEDSPLIT_INLINE double reduce_add(VecF64 v) {
  const __m256d half = _mm512_maskz_extractf64x4_pd(0xF, v, 0) + _mm512_maskz_extractf64x4_pd(0xF, v, 1);
  const __m128d pair = _mm256_castpd256_pd128(half) + _mm256_extractf128_pd(half, 1);
  return pair[0] + pair[1];
}

// The first n lanes, 0 <= n <= lanes; the other lanes load as zero, and their memory is not touched.
FUSEDSPLIT_INLINE VecF32 load_first(const float* p, ptrdiff_t n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
FUSEDSPLIT_INLINE VecF64 load_first(const double* p, ptrdiff_t n) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
}
FUSEDSPLIT_INLINE void store_first(float* p, VecF32 v, ptrdiff_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
FUSEDSPLIT_INLINE void store_first(double* p, VecF64 v, ptrdiff_t n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), v);
}

// Zen 4 multiplies two of these in the time of a whole one: layers of eight columns train a fifth faster.
template <class T>
struct HalfOf {
  static constexpr ptrdiff_t kLanes = fusedsplit::kLanes<T> / 2;
  typedef T Vec __attribute__((vector_size(FUSEDSPLIT_VEC_BYTES / 2)));
  static FUSEDSPLIT_INLINE Vec load(const T* p) {
    Vec v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  }
  static FUSEDSPLIT_INLINE Vec set1(T x) { return x - Vec{}; }
};
template <>
struct Half<float> : HalfOf<float> {
  static FUSEDSPLIT_INLINE Vec load_first(const float* p, ptrdiff_t n) {
    return _mm256_maskz_loadu_ps(static_cast<__mmask8>((1u << n) - 1), p);
  }
  static FUSEDSPLIT_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_maskz_fmadd_ps(0xFF, a, b, c); }
  static FUSEDSPLIT_INLINE VecF32 widen(Vec v) { return _mm512_maskz_broadcast_f32x8(0x00FF, v); }
};
template <>
struct Half<double> : HalfOf<double> {
  static FUSEDSPLIT_INLINE Vec load_first(const double* p, ptrdiff_t n) {
    return _mm256_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
  }
  static FUSEDSPLIT_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_maskz_fmadd_pd(0xF, a, b, c); }
  static FUSEDSPLIT_INLINE VecF64 widen(Vec v) { return _mm512_maskz_broadcast_f64x4(0x0F, v); }
};

}  // namespace
}  // namespace fusedsplit
