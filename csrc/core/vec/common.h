// The part of the vector layer that is the same on every ISA. Not for direct use: vec/<isa>.h defines
// FUSEDSPLIT_VEC_BYTES, includes this file, and adds what the compiler's own vectors cannot say, or say
// slowly (fma, max, masked tails, sums over the lanes). Exactly one vec/<isa>.h may be included by
// a translation unit.
//
// Everything is in an anonymous namespace and always inlined: no symbol of an ISA unit can be merged with,
// and so replaced by, the same function compiled for another ISA. For the same reason no STL header may
// appear here.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef FUSEDSPLIT_VEC_BYTES
#error "include vec/baseline.h, vec/avx2.h, vec/avx512.h or vec/neon.h instead"
#endif

#define FUSEDSPLIT_INLINE inline __attribute__((always_inline))

namespace fusedsplit {
namespace {

// Native vectors of the ISA's width, and the integer vectors that comparisons give (all ones: true).
typedef float VecF32 __attribute__((vector_size(FUSEDSPLIT_VEC_BYTES)));
typedef double VecF64 __attribute__((vector_size(FUSEDSPLIT_VEC_BYTES)));
typedef int32_t VecI32 __attribute__((vector_size(FUSEDSPLIT_VEC_BYTES)));
typedef int64_t VecI64 __attribute__((vector_size(FUSEDSPLIT_VEC_BYTES)));
typedef uint32_t VecU32 __attribute__((vector_size(FUSEDSPLIT_VEC_BYTES)));
typedef uint64_t VecU64 __attribute__((vector_size(FUSEDSPLIT_VEC_BYTES)));

template <class T>
struct VecTypes;
template <>
struct VecTypes<float> {
  typedef VecF32 Float;
  typedef VecI32 Int;
  typedef int32_t IntLane;
};
template <>
struct VecTypes<double> {
  typedef VecF64 Float;
  typedef VecI64 Int;
  typedef int64_t IntLane;
};

template <class T>
using Vec = typename VecTypes<T>::Float;
template <class T>
using VecInt = typename VecTypes<T>::Int;
template <class T>
using IntLane = typename VecTypes<T>::IntLane;

template <class T>
constexpr ptrdiff_t kLanes = FUSEDSPLIT_VEC_BYTES / static_cast<ptrdiff_t>(sizeof(T));

// Vectors half as wide, on ISAs where they are faster by more than they do less.
template <class T>
struct Half {
  static constexpr ptrdiff_t kLanes = 0;
};

// Loads and stores need no alignment.
template <class T>
FUSEDSPLIT_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

FUSEDSPLIT_INLINE void store(float* p, VecF32 v) { __builtin_memcpy(p, &v, sizeof(v)); }
FUSEDSPLIT_INLINE void store(double* p, VecF64 v) { __builtin_memcpy(p, &v, sizeof(v)); }

template <class T>
FUSEDSPLIT_INLINE Vec<T> zero() {
  return Vec<T>{};
}

// x in every lane. The zero is subtracted, not added, because x - 0 is x for x = -0 too, and folds away.
template <class T>
FUSEDSPLIT_INLINE Vec<T> set1(T x) {
  return x - Vec<T>{};
}

template <class T>
FUSEDSPLIT_INLINE VecInt<T> set1_int(IntLane<T> x) {
  return x + VecInt<T>{};
}

// Bit casts.
FUSEDSPLIT_INLINE VecI32 as_int(VecF32 v) { return reinterpret_cast<VecI32>(v); }
FUSEDSPLIT_INLINE VecI64 as_int(VecF64 v) { return reinterpret_cast<VecI64>(v); }
FUSEDSPLIT_INLINE VecF32 as_float(VecI32 v) { return reinterpret_cast<VecF32>(v); }
FUSEDSPLIT_INLINE VecF64 as_float(VecI64 v) { return reinterpret_cast<VecF64>(v); }

// v with `bits` added to its own; as unsigned numbers, which may overflow.
FUSEDSPLIT_INLINE VecF32 add_bits(VecF32 v, VecI32 bits) {
  return reinterpret_cast<VecF32>(reinterpret_cast<VecU32>(v) + reinterpret_cast<VecU32>(bits));
}
FUSEDSPLIT_INLINE VecF64 add_bits(VecF64 v, VecI64 bits) {
  return reinterpret_cast<VecF64>(reinterpret_cast<VecU64>(v) + reinterpret_cast<VecU64>(bits));
}

// mask ? a : b, lane by lane; mask is the result of a comparison of vectors.
FUSEDSPLIT_INLINE VecF32 select(VecI32 mask, VecF32 a, VecF32 b) { return mask ? a : b; }
FUSEDSPLIT_INLINE VecF64 select(VecI64 mask, VecF64 a, VecF64 b) { return mask ? a : b; }

// The sign bit alone, and everything else.
FUSEDSPLIT_INLINE VecF32 sign_bit(VecF32 v) { return as_float(as_int(v) & set1_int<float>(INT32_MIN)); }
FUSEDSPLIT_INLINE VecF64 sign_bit(VecF64 v) { return as_float(as_int(v) & set1_int<double>(INT64_MIN)); }
FUSEDSPLIT_INLINE VecF32 abs(VecF32 v) { return as_float(as_int(v) & set1_int<float>(INT32_MAX)); }
FUSEDSPLIT_INLINE VecF64 abs(VecF64 v) { return as_float(as_int(v) & set1_int<double>(INT64_MAX)); }

// Magnitude (its sign bit must be clear) with the sign of `sign`, which is a result of sign_bit().
template <class V>
FUSEDSPLIT_INLINE V with_sign(V magnitude, V sign) {
  return as_float(as_int(magnitude) | as_int(sign));
}

// The largest lane; NaN if any lane is NaN.
template <class T>
FUSEDSPLIT_INLINE T reduce_max(Vec<T> v) {
  T lane[kLanes<T>];
  __builtin_memcpy(lane, &v, sizeof(v));
  T best = lane[0];
  for (ptrdiff_t i = 1; i < kLanes<T>; ++i) best = lane[i] > best || lane[i] != lane[i] ? lane[i] : best;
  return best;
}

}  // namespace
}  // namespace fusedsplit
