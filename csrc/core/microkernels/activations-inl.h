// Every activation and its derivative, written once over Vec<T>. Include after a vec/<isa>.h.
//
// NaN and infinities come out as from the unfused Keras layers on TensorFlow; tests hold each against
// keras.activations. Two gradients only differ, where TensorFlow's chain of products meets 0 * infinity and a
// single product does not: an infinite upstream gradient through gelu or gelu_tanh, and gelu_tanh beyond |x|
// = 1e19, where the square overflows. In float64 TensorFlow rounds the slope of leaky_relu and the constants
// of gelu to float32; the core does not.
#pragma once

#include "core/plan/kinds.h"
#include "core/vec/math.h"

namespace fusedsplit {
namespace {

constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kSeluScaleAlpha = 1.7580993408473768599402175208123;

// gelu_tanh(x) = x / (1 + e^-z), z = x (c1 + c2 x^2) with c1 = 2 sqrt(2 / pi) and c2 = 0.044715 c1. The
// constants are cut in two; the head of c1 has so few bits that what it is part of loses nothing (see
// gelu_tanh_exp).
template <class T>
struct GeluTanhConstants {
  static constexpr double kC1 = 1.595769121605730711759784239737527,
                          kC2 = 0.07135481627260024877633875227986354;
  static constexpr T kHead1 = T(0x1.988p0), kTail1 = T(0x1.14cf50d942344p-14);
  static constexpr T kHead2 = T(kC2),
                     kTail2 = sizeof(T) == 4 ? T(kC2 - double(T(kC2))) : T(-0x1.6c843a29d1c70p-61);
};

template <class T>
FUSEDSPLIT_INLINE Vec<T> relu(Vec<T> x) {
  return max(zero<T>(), x);
}

// 1 / (1 + e^-x) and 1 / (1 + e^x): the smaller is e / (1 + e) with e = e^-|x|, and the larger what is left
// to 1, which is more accurate near 1 than a quotient of numbers near 1.
template <class T>
struct Logistic {
  Vec<T> value, rest;
};
template <class T>
FUSEDSPLIT_INLINE Logistic<T> logistic(Vec<T> x) {
  const Vec<T> e = exp_nonpositive<T>(-abs(x));
  const Vec<T> smaller = e / (T(1) + e), larger = T(1) - smaller;
  const VecInt<T> negative = x < T(0);
  return {select(negative, smaller, larger), select(negative, larger, smaller)};
}

// With e = e^(-2|x|): -(e - 1) / (1 + e), or from |x| = 0.6 on 1 - 2 e / (1 + e), which keeps the errors of
// the quotient out of the last place of the result, and so out of 1 - y^2.
template <class T>
FUSEDSPLIT_INLINE Vec<T> tanh(Vec<T> x) {
  const Expm1<T> e = expm1_and_exp<T>(T(-2) * abs(x));
  const VecInt<T> far = e.exp < T(0.3);
  const Vec<T> top = select(far, e.exp + e.exp, e.minus_one), rest = select(far, set1(T(1)), zero<T>());
  return with_sign(fma(-top, T(1) / (T(1) + e.exp), rest), sign_bit(x));
}

template <class T>
FUSEDSPLIT_INLINE Vec<T> softplus(Vec<T> x) {
  return relu<T>(x) + log1p_unit(exp_nonpositive<T>(-abs(x)));
}

// e^(-t^2/2) for t <= kMillsEnd. The square is taken exactly: its rounding error would be multiplied by up
// to 87.
template <class T>
FUSEDSPLIT_INLINE Vec<T> normal_exp(Vec<T> t) {
  const Pair<T> square = exact_product<T>(T(-0.5) * t, t);
  return exp_nonpositive<T>(square.hi, &square.lo);
}

// x Phi(x). The product ends with the exponential, so that it underflows only where the result does. The
// upper end is clamped, because infinity * 0 may arise at minus infinity only.
template <class T>
FUSEDSPLIT_INLINE Vec<T> gelu(Vec<T> x) {
  const Vec<T> end = set1(kMillsEnd<T>), t = min(end, abs(x));
  const Vec<T> part = (min(end, x) * (mills_value(t) / mills_divisor(t))) * normal_exp<T>(t);
  return select(x < T(0), part, x - part);
}

// Phi(x) + x phi(x). As in TensorFlow it is NaN at both infinities: hence x - x.
template <class T>
FUSEDSPLIT_INLINE Vec<T> gelu_slope(Vec<T> x) {
  const Vec<T> t = min(set1(kMillsEnd<T>), abs(x));
  const Vec<T> part = (mills_slope(t) / mills_divisor(t)) * normal_exp<T>(t);
  return select(x < T(0), part, T(1) - part) + (x - x);
}

// e^-z of gelu_tanh, x clamped to where that is beyond 0 or infinity for T. z is computed to twice the
// precision, or its error, multiplied by z, would show in the result.
template <class T>
FUSEDSPLIT_INLINE Vec<T> gelu_tanh_exp(Vec<T> x_any) {
  using C = GeluTanhConstants<T>;
  constexpr T end = sizeof(T) == 4 ? T(12) : T(24);
  const Vec<T> x = min(set1(end), max(set1(-end), x_any));
  const Pair<T> square = exact_product<T>(x, x);
  const Pair<T> p = exact_product<T>(set1(C::kHead2), square.hi);
  const Vec<T> v = C::kHead1 + p.hi;
  const Vec<T> rounding = p.hi - (v - C::kHead1);  // exact: v and kHead1 are multiples of the last bit of v
  const Vec<T> tails = fma(set1(C::kTail2), square.hi, fma(set1(C::kHead2), square.lo, set1(C::kTail1)));
  const Pair<T> z = exact_product<T>(-x, v);
  const Vec<T> z_low = fma(-x, (rounding + p.lo) + tails, z.lo);
  return exp_any<T>(z.hi, &z_low);
}

template <class T>
FUSEDSPLIT_INLINE Vec<T> gelu_tanh(Vec<T> x) {
  return x / (T(1) + gelu_tanh_exp<T>(x));
}

// s (1 + x (1 - s) dz/dx), s = 1 / (1 + e), e = e^-z. For positive x, 1 - s is taken as e s, which does not
// cancel.
template <class T>
FUSEDSPLIT_INLINE Vec<T> gelu_tanh_slope(Vec<T> x) {
  using C = GeluTanhConstants<T>;
  constexpr T most = sizeof(T) == 4 ? T(0x1.fffffep127) : T(0x1.fffffffffffffp1023);
  const Vec<T> e = min(set1(most), gelu_tanh_exp<T>(x)), sum = T(1) + e, quotient = T(1) / sum;
  // For negative x, where the terms nearly cancel, what rounding took from the sum (exactly this, as e >= 1).
  const Vec<T> lost = select(x < T(0), T(1) - (sum - e), zero<T>());
  const Vec<T> s = fma(-quotient * quotient, lost, quotient);
  const Vec<T> rest = select(x < T(0), T(1) - s, e * s);
  const Vec<T> near = min(set1(T(24)), max(set1(T(-24)), x));  // no overflow of the square where rest is 0
  const Vec<T> dz = fma(T(3 * C::kC2) * near, near, set1(T(C::kC1)));
  return fma(x * (s * rest), dz, s);
}

template <class T>
FUSEDSPLIT_INLINE Vec<T> silu_slope(Vec<T> x) {
  const Logistic<T> s = logistic<T>(x);
  return s.value * fma(x, s.rest, set1(T(1)));
}

// The activation of v. alpha counts for leaky_relu and elu only.
template <ActivationKind K, class T>
FUSEDSPLIT_INLINE Vec<T> activate_vec(Vec<T> v, Vec<T> alpha) {
  using A = ActivationKind;
  (void)alpha;
  if constexpr (K == A::kRelu) return relu<T>(v);
  if constexpr (K == A::kRelu6) return min(set1(T(6)), relu<T>(v));
  if constexpr (K == A::kLeakyRelu) return select(v > T(0), v, alpha * v);
  if constexpr (K == A::kElu) return select(v > T(0), v, alpha * expm1_nonpositive<T>(v));
  if constexpr (K == A::kSelu)
    return select(v < T(0), T(kSeluScaleAlpha) * expm1_nonpositive<T>(v), T(kSeluScale) * v);
  if constexpr (K == A::kGelu) return gelu<T>(v);
  if constexpr (K == A::kGeluTanh) return gelu_tanh<T>(v);
  if constexpr (K == A::kSilu) return v / (T(1) + exp_any<T>(-v));
  if constexpr (K == A::kSigmoid) return logistic<T>(v).value;
  if constexpr (K == A::kHardSigmoid) return min(set1(T(6)), relu<T>(v + T(3))) / T(6);
  if constexpr (K == A::kTanh) return tanh<T>(v);
  if constexpr (K == A::kSoftplus) return softplus<T>(v);
  if constexpr (K == A::kSoftsign) return v / (T(1) + abs(v));
  if constexpr (K == A::kExponential) return exp_any<T>(v);
  if constexpr (K == A::kLinear) return v;
}

// The derivative, from what activation_grad_needs names: a gradient is dy times this, as in TensorFlow, where
// an infinite dy at a masked element gives NaN. For elu from the output, min(y, 0) is 0 for NaN.
template <ActivationKind K, class T>
FUSEDSPLIT_INLINE Vec<T> slope_vec(Vec<T> ref, Vec<T> alpha) {
  using A = ActivationKind;
  (void)ref, (void)alpha;
  const Vec<T> one = set1(T(1)), none = zero<T>();
  if constexpr (K == A::kRelu) return select(ref > T(0), one, none);
  if constexpr (K == A::kRelu6) return select(ref > T(0), select(ref < T(6), one, none), none);
  if constexpr (K == A::kLeakyRelu) return select(ref > T(0), one, alpha);
  if constexpr (K == A::kElu) {
    // With a negative alpha ref is the pre-activation, and the output below 0 is computed again.
    Vec<T> output = min(ref, none);
    if (alpha[0] < T(0)) output = alpha * expm1_nonpositive<T>(output);
    return select(ref > T(0), one, output + alpha);
  }
  if constexpr (K == A::kSelu) return select(ref < T(0), ref + T(kSeluScaleAlpha), set1(T(kSeluScale)));
  if constexpr (K == A::kGelu) return gelu_slope<T>(ref);
  if constexpr (K == A::kGeluTanh) return gelu_tanh_slope<T>(ref);
  if constexpr (K == A::kSilu) return silu_slope<T>(ref);
  if constexpr (K == A::kSigmoid) return ref * (T(1) - ref);
  if constexpr (K == A::kHardSigmoid)
    return select(ref > T(0), select(ref < T(1), set1(T(1) / T(6)), none), none);
  if constexpr (K == A::kTanh) return fma(-ref, ref, one);
  if constexpr (K == A::kSoftplus) return logistic<T>(ref).value;
  if constexpr (K == A::kSoftsign) {
    const Vec<T> d = T(1) + abs(ref);
    return T(1) / (d * d);
  }
  if constexpr (K == A::kExponential) return ref;
  if constexpr (K == A::kLinear) return one;
}

// Calls f.template operator()<K>() for the ActivationKind K that `kind` is.
template <class F>
FUSEDSPLIT_INLINE void with_activation(int kind, F f) {
  using A = ActivationKind;
  switch (static_cast<A>(kind)) {
    case A::kRelu:
      return f.template run<A::kRelu>();
    case A::kRelu6:
      return f.template run<A::kRelu6>();
    case A::kLeakyRelu:
      return f.template run<A::kLeakyRelu>();
    case A::kElu:
      return f.template run<A::kElu>();
    case A::kSelu:
      return f.template run<A::kSelu>();
    case A::kGelu:
      return f.template run<A::kGelu>();
    case A::kGeluTanh:
      return f.template run<A::kGeluTanh>();
    case A::kSilu:
      return f.template run<A::kSilu>();
    case A::kSigmoid:
      return f.template run<A::kSigmoid>();
    case A::kHardSigmoid:
      return f.template run<A::kHardSigmoid>();
    case A::kTanh:
      return f.template run<A::kTanh>();
    case A::kSoftplus:
      return f.template run<A::kSoftplus>();
    case A::kSoftsign:
      return f.template run<A::kSoftsign>();
    case A::kExponential:
      return f.template run<A::kExponential>();
    default:
      return f.template run<A::kLinear>();
  }
}

// Rows that follow one another without a gap are one long row.
struct Extent {
  ptrdiff_t m, n;
  Extent(ptrdiff_t rows, ptrdiff_t columns, bool dense)
      : m(dense ? 1 : rows), n(dense ? rows * columns : columns) {}
};

template <class T>
struct ActivateRun {
  T alpha;
  Extent extent;
  T* y;
  ptrdiff_t ldy;

  template <ActivationKind K>
  void run() const {
    if constexpr (K == ActivationKind::kLinear) return;
    const Vec<T> a = set1(alpha);
    const ptrdiff_t n = extent.n, whole = n / kLanes<T> * kLanes<T>;
    for (ptrdiff_t row = 0; row < extent.m; ++row) {
      T* const p = y + row * ldy;
      for (ptrdiff_t i = 0; i < whole; i += kLanes<T>) store(p + i, activate_vec<K, T>(load(p + i), a));
      if (whole < n)
        store_first(p + whole, activate_vec<K, T>(load_first(p + whole, n - whole), a), n - whole);
    }
  }
};

template <class T>
struct ActivateGradRun {
  T alpha;
  Extent extent;
  const T* ref;
  ptrdiff_t ldref;
  const T* dy;
  ptrdiff_t lddy;
  T* dz;
  ptrdiff_t lddz;

  // n elements from column i of a row on; a whole vector where n is its constant length.
  template <ActivationKind K>
  FUSEDSPLIT_INLINE void at(ptrdiff_t row, ptrdiff_t i, ptrdiff_t n) const {
    const bool whole = n == kLanes<T>;
    const T* const from = dy + row * lddy + i;
    T* const to = dz + row * lddz + i;
    Vec<T> d = whole ? load(from) : load_first(from, n);
    if constexpr (activation_grad_needs(K, 0) != GradNeeds::kNothing) {
      const T* const r = ref + row * ldref + i;
      d = d * slope_vec<K, T>(whole ? load(r) : load_first(r, n), set1(alpha));
    }
    if (whole)
      store(to, d);
    else
      store_first(to, d, n);
  }

  template <ActivationKind K>
  void run() const {
    const ptrdiff_t n = extent.n, whole = n / kLanes<T> * kLanes<T>;
    for (ptrdiff_t row = 0; row < extent.m; ++row) {
      for (ptrdiff_t i = 0; i < whole; i += kLanes<T>) at<K>(row, i, kLanes<T>);
      if (whole < n) at<K>(row, whole, n - whole);
    }
  }
};

// y = activation(y), in place over m rows of n elements, a row every ldy; `kind` is an ActivationKind.
template <class T>
void activate(int kind, T alpha, ptrdiff_t m, ptrdiff_t n, T* y, ptrdiff_t ldy) {
  with_activation(kind, ActivateRun<T>{alpha, Extent(m, n, ldy == n), y, ldy});
}
template <class T>
void activate(int kind, T alpha, T* y, ptrdiff_t n) {
  activate<T>(kind, alpha, 1, n, y, n);
}

// dz = dy * derivative, where ref is the output or the pre-activation as activation_grad_needs says (not read
// where it needs nothing). dz may be dy.
template <class T>
void activate_grad(int kind, T alpha, ptrdiff_t m, ptrdiff_t n, const T* ref, ptrdiff_t ldref, const T* dy,
                   ptrdiff_t lddy, T* dz, ptrdiff_t lddz) {
  const Extent extent(m, n, ldref == n && lddy == n && lddz == n);
  with_activation(kind, ActivateGradRun<T>{alpha, extent, ref, ldref, dy, lddy, dz, lddz});
}
template <class T>
void activate_grad(int kind, T alpha, const T* ref, const T* dy, T* dz, ptrdiff_t n) {
  activate_grad<T>(kind, alpha, 1, n, ref, n, dy, n, dz, n);
}

}  // namespace
}  // namespace fusedsplit
