// Elementary functions over Vec<T>: what the activations are made of. Include after a vec/<isa>.h.
//
// All of them are right with denormals flushed to zero (a result below the smallest normal number may be
// zero), keep NaN, and use no table: polynomials fitted for the least largest relative error, and at most one
// division.
#pragma once

#include "core/vec/common.h"

namespace fusedsplit {
namespace {

// Where the exponential of a type ends, and how its argument is reduced. ln2_hi has so few bits that n *
// ln2_hi is exact for every n in range, with or without fma. 1.5 * 2^(mantissa bits), once added, leaves the
// nearest integer in the low bits.
template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kLn2Hi = 0x1.63p-1f, kLn2Lo = -0x1.bd0106p-13f, kRound = 0x1.8p23f;
  static constexpr float kLowest = -0x1.5d589ep+6f, kHighest = 0x1.62e42ep+6f;  // ln(2^-126), ln(largest)
  static constexpr int kMantissaBits = 23;
};
template <>
struct ExpConstants<double> {
  static constexpr double kLn2Hi = 0x1.62e42feep-1, kLn2Lo = 0x1.a39ef35793c76p-33, kRound = 0x1.8p52;
  static constexpr double kLowest = -0x1.6232bdd7abcd2p+9, kHighest = 0x1.62e42fefa39efp+9;
  static constexpr int kMantissaBits = 52;
};

// c0 + c1 x + c2 x^2 + ...
template <class T>
FUSEDSPLIT_INLINE Vec<T> poly(Vec<T>, T c0) {
  return set1(c0);
}
template <class T, class... Rest>
FUSEDSPLIT_INLINE Vec<T> poly(Vec<T> x, T c0, T c1, Rest... rest) {
  return fma(poly<T>(x, c1, rest...), x, set1(c0));
}

// a * b exactly, as the sum of two numbers.
template <class T>
struct Pair {
  Vec<T> hi, lo;
};

template <class T>
FUSEDSPLIT_INLINE Pair<T> exact_product(Vec<T> a, Vec<T> b) {
  const Vec<T> hi = a * b;
  if (kHasFma) return {hi, fma(a, b, -hi)};
  // Dekker: halves of the mantissas multiply without rounding.
  const VecInt<T> upper = set1_int<T>(-(IntLane<T>{1} << (ExpConstants<T>::kMantissaBits + 2) / 2));
  const Vec<T> a1 = as_float(as_int(a) & upper), a2 = a - a1;
  const Vec<T> b1 = as_float(as_int(b) & upper), b2 = b - b1;
  return {hi, (((a1 * b1 - hi) + a1 * b2) + a2 * b1) + a2 * b2};
}

// e^r - 1 for |r| <= 0.352: half of ln 2, and what a low part may add.
FUSEDSPLIT_INLINE VecF32 expm1_reduced(VecF32 r) {
  const VecF32 q = poly<float>(r, 0x1p-1f, 0x1.555554p-3f, 0x1.5554a6p-5f, 0x1.111194p-7f, 0x1.6d7cep-10f,
                               0x1.a03146p-13f);
  return fma(q, r * r, r);
}
FUSEDSPLIT_INLINE VecF64 expm1_reduced(VecF64 r) {
  const VecF64 q =
      poly<double>(r, 0x1.0000000000005p-1, 0x1.5555555555535p-3, 0x1.5555555551c1bp-5, 0x1.111111111a04cp-7,
                   0x1.6c16c180abd66p-10, 0x1.a01a0170e842fp-13, 0x1.a019a1b593f45p-16, 0x1.71de8cfa35c96p-19,
                   0x1.28a7c8c34571ap-22, 0x1.ae6be0fa06e3dp-26);
  return fma(q, r * r, r);
}

// e^(hi + lo) = 2^n (1 + m), where lo is small beside 1. 2^n is given as the bits that n adds to an exponent.
template <class T>
struct ExpParts {
  VecInt<T> n_bits;
  Vec<T> m;

  // 2^n, for n that gives a normal number.
  FUSEDSPLIT_INLINE Vec<T> scale() const { return add_bits(set1(T(1)), n_bits); }
};

// lo is added after the multiple of ln 2 is taken from hi, so that it counts in full.
template <class T>
FUSEDSPLIT_INLINE ExpParts<T> exp_parts(Vec<T> hi, const Vec<T>* lo = nullptr) {
  using C = ExpConstants<T>;
  const Vec<T> shifted = fma(hi, set1(T(0x1.71547652b82fep0)), set1(C::kRound));
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> upper = fma(n, set1(-C::kLn2Hi), hi);
  const Vec<T> r = lo ? upper + fma(n, set1(-C::kLn2Lo), *lo) : fma(n, set1(-C::kLn2Lo), upper);
  return {as_int(shifted) << C::kMantissaBits, expm1_reduced(r)};
}

// e^x for every x; or e^(x + lo), lo small as for exp_parts.
template <class T>
FUSEDSPLIT_INLINE Vec<T> exp_any(Vec<T> x, const Vec<T>* lo = nullptr) {
  using C = ExpConstants<T>;
  const ExpParts<T> e = exp_parts<T>(x, lo);
  // Adding n to the exponent of 1 + m reaches 2^128, which is no float, and so the largest results.
  const Vec<T> y = add_bits(T(1) + e.m, e.n_bits);
  const Vec<T> sum = lo ? x + *lo : x;
  const Vec<T> above = x * T(__builtin_inf());  // infinity, or NaN for NaN
  return select(sum < C::kLowest, zero<T>(), select(sum <= C::kHighest, y, above));
}

// e^(hi + lo) for hi <= 0 (softmax, and all that is symmetric); small lo as for exp_parts.
template <class T>
FUSEDSPLIT_INLINE Vec<T> exp_nonpositive(Vec<T> hi, const Vec<T>* lo = nullptr) {
  const ExpParts<T> e = exp_parts<T>(hi, lo);
  const Vec<T> scale = e.scale();
  // Without fma the product scale * m would underflow long before the result does.
  const Vec<T> y = kHasFma ? fma(scale, e.m, scale) : scale * (T(1) + e.m);
  return select(hi < ExpConstants<T>::kLowest, zero<T>(), y);
}

// e^x - 1 and e^x for x <= 0. Past -50 they are -1 and next to nothing for both types.
template <class T>
struct Expm1 {
  Vec<T> minus_one, exp;
};
template <class T>
FUSEDSPLIT_INLINE Expm1<T> expm1_and_exp(Vec<T> x) {
  const ExpParts<T> e = exp_parts<T>(max(set1(T(-50)), x));
  const Vec<T> scale = e.scale();
  return {fma(scale, e.m, scale - T(1)), fma(scale, e.m, scale)};
}
template <class T>
FUSEDSPLIT_INLINE Vec<T> expm1_nonpositive(Vec<T> x) {
  return expm1_and_exp<T>(x).minus_one;
}

// ln(1 + u) for 0 <= u <= 1.
FUSEDSPLIT_INLINE VecF32 log1p_unit(VecF32 u) {
  return u * poly<float>(u, 1.f, -0x1.ffffd2p-2f, 0x1.554ddp-2f, -0x1.ff23e6p-3f, 0x1.934b54p-3f,
                         -0x1.3a435ep-3f, 0x1.b4ae08p-4f, -0x1.d6b08cp-5f, 0x1.4917ccp-6f, -0x1.af49bep-9f);
}
// 2 atanh(s) with s = u / (2 + u): one division in place of some twelve more terms. The division's rounding
// is kept small beside the result by taking u - u^2 / (2 + u) for 2 s.
FUSEDSPLIT_INLINE VecF64 log1p_unit(VecF64 u) {
  const VecF64 s = u / (2. + u), z = s * s;
  const VecF64 g =
      poly<double>(z, 0x1.5555555555535p-1, 0x1.99999999a0688p-2, 0x1.2492492092d3cp-2, 0x1.c71c741932950p-3,
                   0x1.745cb4759284cp-3, 0x1.3b1dd17c15230p-3, 0x1.106849bdba118p-3, 0x1.efd0023c6984fp-4,
                   0x1.55d5913b23dd3p-4, 0x1.5c56d747fa3cfp-3);
  return u - s * fma(-z, g, u);
}

// ln(x): the exponent times ln 2, and the logarithm of a mantissa in [1 / sqrt(2), sqrt(2)), so that nothing cancels
// around 1. Zero and what is flushed to it give -infinity, a negative x NaN.
template <class T>
FUSEDSPLIT_INLINE Vec<T> log_any(Vec<T> x) {
  using C = ExpConstants<T>;
  constexpr T kRoot = T(0x1.6a09e667f3bcdp0);
  const VecInt<T> one = as_int(set1(T(1))), bits = as_int(x) - one;
  // 1 + mantissa, and the exponent as a number, both exact.
  const Vec<T> upper = as_float((as_int(x) & set1_int<T>((IntLane<T>{1} << C::kMantissaBits) - 1)) | one);
  const VecInt<T> above = upper >= kRoot;
  const Vec<T> exponent =
      __builtin_convertvector(bits >> C::kMantissaBits, Vec<T>) + select(above, set1(T(1)), zero<T>());
  const Vec<T> m = select(above, T(0.5) * upper, upper);
  const VecInt<T> below = m < T(1);
  const Vec<T> part = log1p_unit(select(below, (T(1) - m) / m, m - T(1)));
  const Vec<T> y = fma(exponent, set1(C::kLn2Hi), fma(exponent, set1(C::kLn2Lo), select(below, -part, part)));
  const Vec<T> finite = select(x < T(__builtin_inf()), y, x);  // infinity and NaN as they are
  constexpr T least = sizeof(T) == 4 ? T(0x1p-126) : T(0x1p-1022);
  const Vec<T> none = select(x < T(0), set1(T(__builtin_nan(""))), set1(T(-__builtin_inf())));
  return select(x < least, none, finite);
}

// With Phi the normal distribution and phi its density, for t >= 0:
//   mills_value / mills_divisor = e^(t^2/2) Phi(-t)
//   mills_slope / mills_divisor = e^(t^2/2) (Phi(-t) - t phi(t))
// which is all of them but their exponential fall. The second has its own numerator, not a difference of the
// first, to be accurate around its root at 0.75. The fits hold up to kMillsEnd, beyond which Phi(-t) is below
// the smallest normal number.
template <class T>
constexpr T kMillsEnd = sizeof(T) == 4 ? T(14) : T(39);

FUSEDSPLIT_INLINE VecF32 mills_divisor(VecF32 t) {
  return poly<float>(t, 1.f, 0x1.abc74ep+0f, 0x1.32765ep+0f, 0x1.dd300ep-2f, 0x1.9c991p-4f, 0x1.4c6a8p-7f);
}
FUSEDSPLIT_INLINE VecF32 mills_value(VecF32 t) {
  return poly<float>(t, 0x1p-1f, 0x1.bf0a4p-2f, 0x1.7494e8p-3f, 0x1.492eccp-5f, 0x1.093baap-8f);
}
FUSEDSPLIT_INLINE VecF32 mills_slope(VecF32 t) {
  return poly<float>(t, 0x1p-1f, 0x1.342f66p-5f, -0x1.f0584ep-2f, -0x1.bfe534p-2f, -0x1.7473c2p-3f,
                     -0x1.49349cp-5f, -0x1.093ac8p-8f);
}

FUSEDSPLIT_INLINE VecF64 mills_divisor(VecF64 t) {
  return poly<double>(t, 1., 0x1.3a15d56b4ecf3p+1, 0x1.68986df11c9d3p+1, 0x1.003417eb6957ep+1,
                      0x1.f5dd55c1fe511p-1, 0x1.64b9eb40a2b2dp-2, 0x1.78ce2fc766332p-4, 0x1.28f32afbbbf92p-6,
                      0x1.57face0504e63p-9, 0x1.18ca9bef5e1f6p-12, 0x1.257a0ac3a362bp-16,
                      0x1.2dd26889ca856p-21);
}
FUSEDSPLIT_INLINE VecF64 mills_value(VecF64 t) {
  return poly<double>(t, 0x1p-1, 0x1.a7e98137fbebcp-1, 0x1.5bfbb65cea387p-1, 0x1.6df548a3d2a0cp-2,
                      0x1.0e77b56fd0b16p-3, 0x1.243df20c806edp-5, 0x1.d2e8041825ff4p-8, 0x1.10a0708d906d0p-10,
                      0x1.bf233a9e40717p-14, 0x1.d452338222ac6p-18, 0x1.e1a3593cf4c69p-23);
}
FUSEDSPLIT_INLINE VecF64 mills_slope(VecF64 t) {
  return poly<double>(t, 0x1p-1, 0x1.b74eaf32b4727p-2, -0x1.3272de50c9977p-2, -0x1.8872aebec3828p-1,
                      -0x1.553986edc4b7dp-1, -0x1.6be656bc90f38p-2, -0x1.0e09194439debp-3,
                      -0x1.2420acf94d3e9p-5, -0x1.d2e07d86cb6dep-8, -0x1.10a0708dec1e9p-10,
                      -0x1.bf233a9e29b5cp-14, -0x1.d4523382261a5p-18, -0x1.e1a3593cf44dcp-23);
}

}  // namespace
}  // namespace fusedsplit
