// Losses of rows and their gradients. Included by ISA units, after the rows.
//
// Each is what Keras' function of that name gives on TensorFlow, gradients at ties and kinks included.

namespace fusedsplit {
namespace {

// What one element adds to its row, and the derivative by the prediction.
template <class T>
struct LossTerm {
  Vec<T> value, slope;
};

// One where x is positive, minus one where it is negative, x itself (0 or NaN) elsewhere.
template <class T>
FUSEDSPLIT_INLINE Vec<T> sign_of(Vec<T> x) {
  return select(x > T(0), set1(T(1)), select(x < T(0), set1(T(-1)), x));
}

// x in [low, high], and a derivative that only what lies there has.
template <class T>
FUSEDSPLIT_INLINE Vec<T> clip(Vec<T> x, T low, T high) {
  return min(set1(high), max(set1(low), x));
}
template <class T>
FUSEDSPLIT_INLINE Vec<T> inside(Vec<T> x, T low, T high, Vec<T> slope) {
  return select((x >= low) & (x <= high), slope, zero<T>());
}

template <LossKind K, class T>
FUSEDSPLIT_INLINE LossTerm<T> loss_term(const LossRows<T>& g, Vec<T> p, Vec<T> t) {
  using L = LossKind;
  const T epsilon = g.epsilon;
  (void)epsilon;
  if constexpr (K == L::kMeanSquaredError) {
    const Vec<T> e = p - t;
    return {e * e, e + e};
  } else if constexpr (K == L::kMeanAbsoluteError) {
    const Vec<T> e = p - t;
    return {abs(e), sign_of<T>(e)};
  } else if constexpr (K == L::kMeanSquaredLogarithmicError) {
    const Vec<T> least = set1(epsilon), shifted = max(least, p) + T(1);
    const Vec<T> e = log_any<T>(shifted) - log_any<T>(max(least, t) + T(1));
    return {e * e, select(p >= epsilon, (e + e) / shifted, zero<T>())};
  } else if constexpr (K == L::kMeanAbsolutePercentageError) {
    const Vec<T> scale = T(100) / max(set1(epsilon), abs(t)), e = p - t;
    return {abs(e) * scale, sign_of<T>(e) * scale};
  } else if constexpr (K == L::kHuber) {
    const Vec<T> e = p - t, far = abs(e);
    const VecInt<T> near = far <= g.delta;
    // e - e: an infinite error has no derivative, as in TensorFlow.
    return {select(near, T(0.5) * e * e, g.delta * far - T(0.5) * g.delta * g.delta),
            select(near, e, g.delta * sign_of<T>(e)) + (e - e)};
  } else if constexpr (K == L::kLogCosh) {
    const Vec<T> e = p - t;
    // ln 2 as the float32 that Keras takes off in float64 as well.
    return {e + softplus<T>(T(-2) * e) - T(0x1.62e43p-1), tanh<T>(e)};
  } else if constexpr (K == L::kPoisson) {
    const Vec<T> q = p + epsilon;
    return {p - t * log_any<T>(q), T(1) - t / q};
  } else if constexpr (K == L::kKlDivergence) {
    const Vec<T> q = clip<T>(p, epsilon, T(1)), truth = clip<T>(t, epsilon, T(1));
    return {truth * log_any<T>(truth / q), inside<T>(p, epsilon, T(1), -truth / q)};
  } else if constexpr (K == L::kHinge || K == L::kSquaredHinge) {
    const Vec<T> margin = T(1) - t * p, lost = max(zero<T>(), margin);
    const Vec<T> slope = select(margin >= T(0), -t, zero<T>());
    if constexpr (K == L::kHinge) return {lost, slope};
    return {lost * lost, (lost + lost) * slope};
  } else if constexpr (K == L::kBinaryCrossentropy) {
    const T high = T(1) - epsilon;
    const Vec<T> q = clip<T>(p, epsilon, high), rest = T(1) - q, other = T(1) - t;
    return {-(t * log_any<T>(q) + other * log_any<T>(rest)),
            inside<T>(p, epsilon, high, other / rest - t / q)};
  } else {
    static_assert(K == L::kBinaryCrossentropyLogits, "every other loss looks at whole rows");
    const Vec<T> e = exp_nonpositive<T>(-abs(p));
    return {relu<T>(p) - p * t + log1p_unit(e), logistic<T>(p).value - t};
  }
}

constexpr bool is_mean(LossKind kind) { return kind != LossKind::kKlDivergence; }

template <class T>
FUSEDSPLIT_INLINE Vec<T> target_of(const LossRows<T>& g, Vec<T> t) {
  return fma(t, set1(g.target_scale), set1(g.target_shift));
}

template <class T>
FUSEDSPLIT_INLINE T row_factor(const LossRows<T>& g, ptrdiff_t i) {
  return g.weights ? g.factor * g.weights[i] : g.factor;
}

// Puts a gradient where it goes.
template <class T>
FUSEDSPLIT_INLINE void give_grad(const LossRows<T>& g, ptrdiff_t i, ptrdiff_t j, Vec<T> d, ptrdiff_t lanes) {
  T* const to = g.grad.data + i * g.grad.ld + j;
  store_part(to, g.add ? load_part(to, lanes) + d : d, lanes);
}

// One column: rows take the lanes of vectors.
template <LossKind K, class T>
void loss_column(const LossRows<T>& g) {
  constexpr ptrdiff_t kWide = kLanes<T>;
  for (ptrdiff_t i = 0; i < g.m; i += kWide) {
    const ptrdiff_t lanes = min_of(kWide, g.m - i);
    const LossTerm<T> term = loss_term<K, T>(g, load_part(g.y.data + i, lanes),
                                             target_of<T>(g, load_part(g.target.data + i, lanes)));
    store_part(g.values + i, term.value, lanes);
    if (!g.grad.data) continue;
    const Vec<T> factor = g.weights ? g.factor * load_part(g.weights + i, lanes) : set1(g.factor);
    T d[kWide];
    store(d, term.slope * factor);
    for (ptrdiff_t l = 0; l < lanes; ++l) {
      T* const to = g.grad.data + (i + l) * g.grad.ld;
      *to = g.add ? *to + d[l] : d[l];
    }
  }
}

template <LossKind K, class T>
void loss_elements(const LossRows<T>& g) {
  if (g.n == 1 && g.y.ld == 1 && g.target.ld == 1) return loss_column<K, T>(g);
  const T share = is_mean(K) ? T(1) / static_cast<T>(g.n) : T(1);
  for (ptrdiff_t i = 0; i < g.m; ++i) {
    const T* const y = g.y.data + i * g.y.ld;
    const T* const t = g.target.data + i * g.target.ld;
    const Vec<T> factor = set1(row_factor(g, i) * share);
    const T sum =
        sum_of<T>(g.n, [&](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes) __attribute__((always_inline)) {
          const LossTerm<T> term =
              loss_term<K, T>(g, load_part(y + j, lanes), target_of<T>(g, load_part(t + j, lanes)));
          if (g.grad.data) give_grad<T>(g, i, j, term.slope * factor, lanes);
          return acc + first_lanes<T>(term.value, lanes);
        });
    g.values[i] = is_mean(K) ? sum / static_cast<T>(g.n) : sum;
  }
}

template <class T>
FUSEDSPLIT_INLINE T log_of(T x) {
  return log_any<T>(set1(x))[0];
}

// One where column j + lane is the row's class.
template <class T>
FUSEDSPLIT_INLINE Vec<T> one_hot(ptrdiff_t label, ptrdiff_t j) {
  VecInt<T> index{};
  for (int i = 0; i < static_cast<int>(kLanes<T>); ++i) index[i] = i;
  const IntLane<T> at = static_cast<IntLane<T>>(label >= j && label - j < kLanes<T> ? label - j : -1);
  return select(index == set1_int<T>(at), set1(T(1)), zero<T>());
}

// A row's targets: those given, or one for the class of the sparse losses.
template <bool kSparse, class T>
FUSEDSPLIT_INLINE Vec<T> row_target(const LossRows<T>& g, ptrdiff_t i, ptrdiff_t j, ptrdiff_t lanes) {
  if (kSparse) return one_hot<T>(g.labels[i], j);
  return target_of<T>(g, load_part(g.target.data + i * g.target.ld + j, lanes));
}

// sum of t (log(sum of e^x) - x), whose derivative TensorFlow takes as softmax - t whatever t sums to.
template <bool kSparse, class T>
void crossentropy_logits_row(const LossRows<T>& g, ptrdiff_t i) {
  const T* const x = g.y.data + i * g.y.ld;
  const Vec<T> top = set1(row_max(g.n, x));
  const auto exponential = [&](ptrdiff_t j, ptrdiff_t lanes) __attribute__((always_inline)) {
    return first_lanes<T>(exp_nonpositive<T>(load_part(x + j, lanes) - top), lanes);
  };
  const T sum = sum_of<T>(g.n, [&](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes)
                                   __attribute__((always_inline)) { return acc + exponential(j, lanes); });
  const T whole = log_of(sum);
  if (kSparse) {
    g.values[i] = whole - (x[g.labels[i]] - top[0]);
  } else {
    g.values[i] =
        sum_of<T>(g.n, [&](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes) __attribute__((always_inline)) {
          const Vec<T> term =
              row_target<kSparse, T>(g, i, j, lanes) * (whole - (load_part(x + j, lanes) - top));
          return acc + first_lanes<T>(term, lanes);
        });
  }
  if (!g.grad.data) return;
  const Vec<T> factor = set1(row_factor(g, i)), share = set1(T(1) / sum);
  for (ptrdiff_t j = 0; j < g.n; j += kLanes<T>) {
    const ptrdiff_t lanes = min_of(kLanes<T>, g.n - j);
    const Vec<T> d = exponential(j, lanes) * share - row_target<kSparse, T>(g, i, j, lanes);
    give_grad<T>(g, i, j, d * factor, lanes);
  }
}

// -sum of t log(clip(y / sum of y)).
template <class T>
void crossentropy_row(const LossRows<T>& g, ptrdiff_t i) {
  const T* const y = g.y.data + i * g.y.ld;
  const T low = g.epsilon, high = T(1) - g.epsilon;
  const Vec<T> whole = set1(row_sum(g.n, y));
  const auto part = [&](ptrdiff_t j, ptrdiff_t lanes)
                        __attribute__((always_inline)) { return load_part(y + j, lanes) / whole; };
  const auto slope = [&](ptrdiff_t j, ptrdiff_t lanes) __attribute__((always_inline)) {
    const Vec<T> q = part(j, lanes);
    return inside<T>(q, low, high, -row_target<false, T>(g, i, j, lanes) / clip<T>(q, low, high));
  };
  g.values[i] = -sum_of<T>(g.n, [&](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes) __attribute__((always_inline)) {
    const Vec<T> term = row_target<false, T>(g, i, j, lanes) * log_any<T>(clip<T>(part(j, lanes), low, high));
    return acc + first_lanes<T>(term, lanes);
  });
  if (!g.grad.data) return;
  const T common =
      sum_of<T>(g.n, [&](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes) __attribute__((always_inline)) {
        return acc + first_lanes<T>(slope(j, lanes) * part(j, lanes), lanes);
      });
  const Vec<T> factor = set1(row_factor(g, i));
  for (ptrdiff_t j = 0; j < g.n; j += kLanes<T>) {
    const ptrdiff_t lanes = min_of(kLanes<T>, g.n - j);
    give_grad<T>(g, i, j, (slope(j, lanes) - common) / whole * factor, lanes);
  }
}

// The softmax crossentropy of log(clip(y)): log(sum of clip(y)) - log(clip(y[label])).
template <class T>
void sparse_crossentropy_row(const LossRows<T>& g, ptrdiff_t i) {
  const T* const y = g.y.data + i * g.y.ld;
  const T low = g.epsilon, high = T(1) - g.epsilon;
  const T sum = sum_of<T>(g.n, [&](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes) __attribute__((always_inline)) {
    return acc + first_lanes<T>(clip<T>(load_part(y + j, lanes), low, high), lanes);
  });
  const T own = clip<T>(set1(y[g.labels[i]]), low, high)[0];
  g.values[i] = log_of(sum) - log_of(own);
  if (!g.grad.data) return;
  const Vec<T> factor = set1(row_factor(g, i)), share = set1(T(1) / sum), lost = set1(T(1) / own);
  for (ptrdiff_t j = 0; j < g.n; j += kLanes<T>) {
    const ptrdiff_t lanes = min_of(kLanes<T>, g.n - j);
    const Vec<T> d = share - one_hot<T>(g.labels[i], j) * lost;
    give_grad<T>(g, i, j, inside<T>(load_part(y + j, lanes), low, high, d) * factor, lanes);
  }
}

// max(0, 1 + max((1 - t) y) - sum of t y); what reaches the maximum shares its gradient.
template <class T>
void categorical_hinge_row(const LossRows<T>& g, ptrdiff_t i) {
  const T* const y = g.y.data + i * g.y.ld;
  const T* const t = g.target.data + i * g.target.ld;
  const auto truth = [&](ptrdiff_t j) { return g.target_scale * t[j] + g.target_shift; };
  T positive = 0, negative = (1 - truth(0)) * y[0];
  ptrdiff_t winners = 0;
  for (ptrdiff_t j = 0; j < g.n; ++j) {
    positive += truth(j) * y[j];
    negative = fold_pair(kOpMax, negative, (1 - truth(j)) * y[j]);
  }
  const T margin = negative - positive + 1;
  g.values[i] = margin < 0 ? T(0) : margin;
  if (!g.grad.data) return;
  for (ptrdiff_t j = 0; j < g.n; ++j) winners += (1 - truth(j)) * y[j] == negative;
  const T factor = margin >= 0 ? row_factor(g, i) : T(0);
  for (ptrdiff_t j = 0; j < g.n; ++j) {
    const T wins = static_cast<T>((1 - truth(j)) * y[j] == negative) / static_cast<T>(winners);
    T* const to = g.grad.data + i * g.grad.ld + j;
    const T d = factor * ((1 - truth(j)) * wins - truth(j));
    *to = g.add ? *to + d : d;
  }
}

template <class T>
ptrdiff_t first_largest(ptrdiff_t n, const T* x) {
  ptrdiff_t best = 0;
  for (ptrdiff_t j = 1; j < n; ++j)
    if (x[j] > x[best]) best = j;
  return best;
}

template <class T>
void accuracy_row(const LossRows<T>& g, ptrdiff_t i) {
  const T* const y = g.y.data + i * g.y.ld;
  const T* const t = g.target.data + i * g.target.ld;
  const LossKind kind = static_cast<LossKind>(g.kind);
  if (kind == LossKind::kSparseCategoricalAccuracy) {
    g.values[i] = static_cast<T>(first_largest(g.n, y) == g.labels[i]);
  } else if (kind == LossKind::kCategoricalAccuracy) {
    g.values[i] = static_cast<T>(first_largest(g.n, y) == first_largest(g.n, t));
  } else {
    ptrdiff_t right = 0;
    for (ptrdiff_t j = 0; j < g.n; ++j) right += t[j] == static_cast<T>(y[j] > g.delta);
    g.values[i] = static_cast<T>(right) / static_cast<T>(g.n);
  }
}

template <class T>
void loss_row(const LossRows<T>& g, ptrdiff_t i) {
  using L = LossKind;
  switch (static_cast<L>(g.kind)) {
    case L::kCategoricalHinge:
      return categorical_hinge_row(g, i);
    case L::kCategoricalCrossentropy:
      return crossentropy_row(g, i);
    case L::kCategoricalCrossentropyLogits:
      return crossentropy_logits_row<false>(g, i);
    case L::kSparseCategoricalCrossentropy:
      return sparse_crossentropy_row(g, i);
    case L::kSparseCategoricalCrossentropyLogits:
      return crossentropy_logits_row<true>(g, i);
    default:
      return accuracy_row(g, i);
  }
}

template <class T>
void loss_rows(const LossRows<T>& g) {
  using L = LossKind;
  check_loss(g);
  switch (static_cast<L>(g.kind)) {
    case L::kMeanSquaredError:
      return loss_elements<L::kMeanSquaredError>(g);
    case L::kMeanAbsoluteError:
      return loss_elements<L::kMeanAbsoluteError>(g);
    case L::kMeanSquaredLogarithmicError:
      return loss_elements<L::kMeanSquaredLogarithmicError>(g);
    case L::kMeanAbsolutePercentageError:
      return loss_elements<L::kMeanAbsolutePercentageError>(g);
    case L::kHuber:
      return loss_elements<L::kHuber>(g);
    case L::kLogCosh:
      return loss_elements<L::kLogCosh>(g);
    case L::kPoisson:
      return loss_elements<L::kPoisson>(g);
    case L::kKlDivergence:
      return loss_elements<L::kKlDivergence>(g);
    case L::kHinge:
      return loss_elements<L::kHinge>(g);
    case L::kSquaredHinge:
      return loss_elements<L::kSquaredHinge>(g);
    case L::kBinaryCrossentropy:
      return loss_elements<L::kBinaryCrossentropy>(g);
    case L::kBinaryCrossentropyLogits:
      return loss_elements<L::kBinaryCrossentropyLogits>(g);
    default:
      for (ptrdiff_t i = 0; i < g.m; ++i) loss_row(g, i);
  }
}

}  // namespace
}  // namespace fusedsplit
