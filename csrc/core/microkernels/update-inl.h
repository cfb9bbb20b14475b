// Sums of gradients over shards, and what optimizers make of them: plain loops that the compiler vectorizes for the ISA
// of the unit that includes this file.

namespace fusedsplit {
namespace {

// Elements whose gradient, scaled and clipped, stays in level 1.
constexpr ptrdiff_t kUpdateTile = 256;

template <class T>
void sum_shards(const ShardSum<T>& s) {
  FUSEDSPLIT_ASSERT(s.shards >= 1 && s.shards <= kMostShards && (s.shards & (s.shards - 1)) == 0);
  T tile[kMostShards / 2][kUpdateTile];
  if (s.shards == 1) {
    __builtin_memcpy(s.to, s.first, static_cast<size_t>(s.n) * sizeof(T));
    return;
  }
  for (ptrdiff_t begin = 0; begin < s.n; begin += kUpdateTile) {
    const ptrdiff_t n = min_of(kUpdateTile, s.n - begin);
    for (ptrdiff_t l = 0; l < s.shards / 2; ++l) {
      const T* const a = s.first + 2 * l * s.stride + begin;
      const T* const b = a + s.stride;
      T* const to = s.shards == 2 ? s.to + begin : tile[l];
      for (ptrdiff_t j = 0; j < n; ++j) to[j] = a[j] + b[j];
    }
    for (ptrdiff_t left = s.shards / 4; left > 0; left /= 2)
      for (ptrdiff_t l = 0; l < left; ++l) {
        T* const to = left == 1 ? s.to + begin : tile[l];
        for (ptrdiff_t j = 0; j < n; ++j) to[j] = tile[2 * l][j] + tile[2 * l + 1][j];
      }
  }
}

template <class T>
double sum_squares(ptrdiff_t n, const T* x) {
  double sum = 0;
  for (ptrdiff_t begin = 0; begin < n; begin += kUpdateTile)
    sum += static_cast<double>(sum_of<T>(min_of(kUpdateTile, n - begin),
                                         [at = x + begin](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes)
                                             __attribute__((always_inline)) {
                                               const Vec<T> v = load_part(at + j, lanes);
                                               return fma(v, v, acc);
                                             }));
  return sum;
}

// l1 * sum of |w| + l2 * sum of w^2, whose gradient is added to g; a null g: only the value.
template <class T>
double regularize(ptrdiff_t n, T l1, T l2, const T* w, T* g) {
  double absolutes = 0;
  for (ptrdiff_t begin = 0; l1 != T(0) && begin < n; begin += kUpdateTile)
    absolutes += static_cast<double>(
        sum_of<T>(min_of(kUpdateTile, n - begin),
                  [at = w + begin](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes)
                      __attribute__((always_inline)) { return acc + abs(load_part(at + j, lanes)); }));
  const double squares = l2 != T(0) ? sum_squares(n, w) : 0;
  if (g && l1 != T(0))
    for (ptrdiff_t j = 0; j < n; ++j) g[j] += w[j] > 0 ? l1 : w[j] < 0 ? -l1 : l1 * w[j];
  if (g && l2 != T(0))
    for (ptrdiff_t j = 0; j < n; ++j) g[j] += T(2) * l2 * w[j];
  return static_cast<double>(l1) * absolutes + static_cast<double>(l2) * squares;
}

FUSEDSPLIT_INLINE float sqrt_of(float x) { return __builtin_sqrtf(x); }
FUSEDSPLIT_INLINE double sqrt_of(double x) { return __builtin_sqrt(x); }

template <class T>
FUSEDSPLIT_INLINE T sign_of_one(T x) {
  return x > 0 ? T(1) : x < 0 ? T(-1) : x;
}

// Where a tile of a slot begins; a slot that the optimizer has not is null.
template <class T>
FUSEDSPLIT_INLINE T* tile_of(T* slot, ptrdiff_t begin) {
  return slot ? slot + begin : slot;
}

// One tile of an update: n elements from `begin` on, g their gradient.
template <OptimizerKind K, class T>
FUSEDSPLIT_INLINE void update_tile(const Update<T>& u, ptrdiff_t begin, ptrdiff_t n, const T* __restrict g) {
  using O = OptimizerKind;
  T* __restrict w = u.w + begin;
  T* __restrict m = tile_of(u.m, begin);
  T* __restrict v = tile_of(u.v, begin);
  T* __restrict extra = tile_of(u.extra, begin);
  const T rate = u.rate, beta_1 = u.beta_1, beta_2 = u.beta_2, epsilon = u.epsilon;
  const T rest_1 = u.rest_1, rest_2 = u.rest_2;
  const T rate_m = u.rate_m, rate_g = u.rate_g, scale_v = u.scale_v;
  for (ptrdiff_t j = 0; j < n; ++j) {
    if constexpr (K == O::kSgd) w[j] -= rate * g[j];
    if constexpr (K == O::kMomentum || K == O::kNesterov) {
      const T step = rate * g[j], moved = beta_1 * m[j] - step;
      m[j] = moved;
      w[j] += K == O::kMomentum ? moved : beta_1 * moved - step;
    }
    if constexpr (K == O::kAdam || K == O::kAmsgrad || K == O::kNadam) {
      const T mean = m[j] + (g[j] - m[j]) * rest_1;
      const T square = v[j] + (g[j] * g[j] - v[j]) * rest_2;
      m[j] = mean;
      v[j] = square;
      if constexpr (K == O::kAdam) w[j] -= mean * rate / (sqrt_of(square) + epsilon);
      if constexpr (K == O::kAmsgrad) {
        const T most = extra[j] > square || extra[j] != extra[j] ? extra[j] : square;
        extra[j] = most;
        w[j] -= mean * rate / (sqrt_of(most) + epsilon);
      }
      if constexpr (K == O::kNadam)
        w[j] -= (rate_m * mean + rate_g * g[j]) * rate / (sqrt_of(square * scale_v) + epsilon);
    }
    if constexpr (K == O::kAdagrad) {
      const T sum = v[j] + g[j] * g[j];
      v[j] = sum;
      w[j] -= rate * g[j] / sqrt_of(sum + epsilon);
    }
    if constexpr (K == O::kLion) {
      w[j] -= rate * sign_of_one(beta_1 * m[j] + rest_1 * g[j]);
      m[j] = beta_2 * m[j] + rest_2 * g[j];
    }
  }
}

// With and without a momentum or average gradients.
template <class T>
void rmsprop_tile(const Update<T>& u, ptrdiff_t begin, ptrdiff_t n, const T* __restrict g) {
  T* __restrict w = u.w + begin;
  T* __restrict v = u.v + begin;
  const T rate = u.rate, rho = u.beta_2, rest = u.rest_2, epsilon = u.epsilon;
  T step[kUpdateTile];
  for (ptrdiff_t j = 0; j < n; ++j) {
    v[j] = rho * v[j] + rest * (g[j] * g[j]);
    step[j] = v[j];
  }
  if (u.extra) {
    T* __restrict average = u.extra + begin;
    for (ptrdiff_t j = 0; j < n; ++j) {
      average[j] = rho * average[j] + rest * g[j];
      step[j] -= average[j] * average[j];
    }
  }
  for (ptrdiff_t j = 0; j < n; ++j) step[j] = rate * g[j] / sqrt_of(step[j] + epsilon);
  if (u.m) {
    T* __restrict m = u.m + begin;
    const T momentum = u.beta_1;
    for (ptrdiff_t j = 0; j < n; ++j) step[j] = m[j] = momentum * m[j] + step[j];
  }
  for (ptrdiff_t j = 0; j < n; ++j) w[j] -= step[j];
}

template <OptimizerKind K, class T>
void update_all(const Update<T>& u) {
  const bool plain = u.scale == T(1) && u.clip == T(0);
  for (ptrdiff_t begin = 0; begin < u.n; begin += kUpdateTile) {
    const ptrdiff_t n = min_of(kUpdateTile, u.n - begin);
    const T* g = u.g + begin;
    T changed[kUpdateTile];
    if (!plain) {
      const T scale = u.scale, high = u.clip > T(0) ? u.clip : T(__builtin_inf());
      // NaN stays NaN.
      for (ptrdiff_t j = 0; j < n; ++j) {
        const T d = scale * g[j], below = d > high ? high : d;
        changed[j] = below < -high ? -high : below;
      }
      g = changed;
    }
    if (u.decay != T(0)) {
      T* const w = u.w + begin;
      for (ptrdiff_t j = 0; j < n; ++j) w[j] -= w[j] * u.decay;
    }
    if constexpr (K == OptimizerKind::kRmsprop) {
      rmsprop_tile(u, begin, n, g);
    } else {
      update_tile<K>(u, begin, n, g);
    }
  }
}

template <class T>
void update(const Update<T>& u) {
  using O = OptimizerKind;
  FUSEDSPLIT_ASSERT(u.kind >= 0 && u.kind < static_cast<int>(O::kCount) && u.g && u.w);
  switch (static_cast<O>(u.kind)) {
    case O::kSgd:
      return update_all<O::kSgd>(u);
    case O::kMomentum:
      return update_all<O::kMomentum>(u);
    case O::kNesterov:
      return update_all<O::kNesterov>(u);
    case O::kAdam:
      return update_all<O::kAdam>(u);
    case O::kAmsgrad:
      return update_all<O::kAmsgrad>(u);
    case O::kRmsprop:
      return update_all<O::kRmsprop>(u);
    case O::kAdagrad:
      return update_all<O::kAdagrad>(u);
    case O::kNadam:
      return update_all<O::kNadam>(u);
    default:
      return update_all<O::kLion>(u);
  }
}

// average = momentum * average + (1 - momentum) * w.
template <class T>
void average_weights(ptrdiff_t n, T momentum, const T* w, T* average) {
  for (ptrdiff_t j = 0; j < n; ++j) average[j] = momentum * average[j] + (T(1) - momentum) * w[j];
}

}  // namespace
}  // namespace fusedsplit
