// Operations over the columns of a row, and their derivatives. Included by ISA units.

namespace fusedsplit {
namespace {

template <class T>
T row_max(ptrdiff_t n, const T* x) {
  T best = x[0];
  for (ptrdiff_t j = 1; j < n; ++j) best = fold_pair(kOpMax, best, x[j]);
  return best;
}

// The sum of what `add` adds: add(acc, j, lanes) takes that many columns from j on. Chunks of kChunk columns are
// summed from zero, four sums at a time, and added in order, which depends on n alone.
template <class T, class Add>
FUSEDSPLIT_INLINE T sum_of(ptrdiff_t n, const Add& add) {
  constexpr ptrdiff_t kWide = kLanes<T>;
  T sum = 0;
  for (ptrdiff_t j = 0; j < n;) {
    const ptrdiff_t end = min_of(n, j + kChunk);
    Vec<T> acc[4] = {};
    for (; j + 4 * kWide <= end; j += 4 * kWide)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) acc[v] = add(acc[v], j + v * kWide, kWide);
    for (; j + kWide <= end; j += kWide) acc[0] = add(acc[0], j, kWide);
    if (j < end) acc[1] = add(acc[1], j, end - j);
    sum += reduce_add((acc[0] + acc[1]) + (acc[2] + acc[3]));
    j = end;
  }
  return sum;
}

template <class T>
T row_sum(ptrdiff_t n, const T* x) {
  return sum_of<T>(n, [x](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes)
                          __attribute__((always_inline)) { return acc + load_part(x + j, lanes); });
}

// An infinite maximum is taken off as it is: inf - inf is NaN, as in tf.nn.softmax.
template <class T>
void softmax_row(ptrdiff_t n, const T* x, T* y) {
  const T top = row_max(n, x);
  for (ptrdiff_t j = 0; j < n; ++j) y[j] = x[j] - top;
  activate<T>(kExponentialKind, T(0), y, n);
  const T sum = row_sum(n, y);
  for (ptrdiff_t j = 0; j < n; ++j) y[j] /= sum;
}

// v with zeros in all but the first n lanes.
template <class T>
FUSEDSPLIT_INLINE Vec<T> first_lanes(Vec<T> v, ptrdiff_t n) {
  if (n == kLanes<T>) return v;
  VecInt<T> index{};
  for (int i = 0; i < static_cast<int>(kLanes<T>); ++i) index[i] = i;
  return select(index < set1_int<T>(static_cast<IntLane<T>>(n)), v, zero<T>());
}

// A row is normalized as (x - mean - rest) * scale: `rest` is what rounding took from the mean, which every column of
// a row far from zero would show.
template <class T>
struct Normal {
  T mean, rest, scale;

  FUSEDSPLIT_INLINE T at(T x) const { return (x - mean - rest) * scale; }
  FUSEDSPLIT_INLINE Vec<T> centred(const T* x, ptrdiff_t lanes) const {
    return first_lanes<T>(load_part(x, lanes) - set1(mean) - set1(rest), lanes);
  }
};

template <class T>
T mean_of_rest(ptrdiff_t n, const T* x, const Normal<T>& normal) {
  const auto add = [&](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes)
                       __attribute__((always_inline)) { return acc + normal.centred(x + j, lanes); };
  return sum_of<T>(n, add) / static_cast<T>(n);
}

template <class T>
T variance_of(ptrdiff_t n, const T* x, const Normal<T>& normal) {
  const auto add = [&](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes) __attribute__((always_inline)) {
    const Vec<T> d = normal.centred(x + j, lanes);
    return fma(d, d, acc);
  };
  return sum_of<T>(n, add) / static_cast<T>(n);
}

// How `count` rows from row `begin` on are normalized.
template <class T>
void find_normals(const RowArgs<T>& g, ptrdiff_t begin, ptrdiff_t count, Normal<T>* normals) {
  const auto x = [&](ptrdiff_t i) __attribute__((always_inline)) { return g.x.data + (begin + i) * g.x.ld; };
  for (ptrdiff_t i = 0; i < count; ++i) normals[i] = {row_sum(g.n, x(i)) / static_cast<T>(g.n), 0, 1};
  for (ptrdiff_t i = 0; i < count; ++i) normals[i].rest = mean_of_rest(g.n, x(i), normals[i]);
  for (ptrdiff_t i = 0; i < count; ++i) {
    const T variance = variance_of(g.n, x(i), normals[i]);
    normals[i].scale = static_cast<T>(1 / __builtin_sqrt(static_cast<double>(variance + g.epsilon)));
  }
}

template <class T>
void normalize(const RowArgs<T>& g) {
  Normal<T> normals[kNormalizedRows];
  for (ptrdiff_t begin = 0; begin < g.m; begin += kNormalizedRows) {
    const ptrdiff_t count = min_of(kNormalizedRows, g.m - begin);
    find_normals(g, begin, count, normals);
    for (ptrdiff_t i = 0; i < count; ++i) {
      const T* x = g.x.data + (begin + i) * g.x.ld;
      T* __restrict y = g.y.data + (begin + i) * g.y.ld;
      const Normal<T> normal = normals[i];
      for (ptrdiff_t j = 0; j < g.n; ++j) y[j] = normal.at(x[j]);
    }
  }
}

// dx = (dy - mean(dy) - y * mean(dy * y)) * scale, for y = (x - mean - rest) * scale.
template <class T>
void normalize_grad_row(ptrdiff_t n, const T* x, const Normal<T>& normal, const T* dy, T* __restrict dx,
                        bool add) {
  const T count = static_cast<T>(n);
  const T mean = row_sum(n, dy) / count;
  const auto add_product = [&](Vec<T> acc, ptrdiff_t j, ptrdiff_t lanes) __attribute__((always_inline)) {
    return fma(normal.centred(x + j, lanes) * set1(normal.scale), load_part(dy + j, lanes), acc);
  };
  const T slope = sum_of<T>(n, add_product) / count;
  const auto at = [=](ptrdiff_t j) __attribute__((always_inline)) {
    return (dy[j] - mean - normal.at(x[j]) * slope) * normal.scale;
  };
  if (add) {
    for (ptrdiff_t j = 0; j < n; ++j) dx[j] += at(j);
  } else {
    for (ptrdiff_t j = 0; j < n; ++j) dx[j] = at(j);
  }
}

// All of it comes from x again: y need not be kept.
template <class T>
void normalize_grad(const RowArgs<T>& g) {
  Normal<T> normals[kNormalizedRows];
  for (ptrdiff_t begin = 0; begin < g.m; begin += kNormalizedRows) {
    const ptrdiff_t count = min_of(kNormalizedRows, g.m - begin);
    find_normals(g, begin, count, normals);
    for (ptrdiff_t i = 0; i < count; ++i) {
      const ptrdiff_t row = begin + i;
      normalize_grad_row(g.n, g.x.data + row * g.x.ld, normals[i], g.dy.data + row * g.dy.ld,
                         g.dx.data + row * g.dx.ld, g.add);
    }
  }
}

template <class T>
void row(const RowArgs<T>& g) {
  check_row(g, false);
  if (g.op == kRowNormalize) return normalize(g);
  for (ptrdiff_t i = 0; i < g.m; ++i) {
    const T* x = g.x.data + i * g.x.ld;
    T* y = g.y.data + i * g.y.ld;
    if (g.op == kRowSoftmax) {
      softmax_row(g.n, x, y);
    } else {
      *y = g.op == kRowMean ? row_sum(g.n, x) / static_cast<T>(g.n) : row_max(g.n, x);
    }
  }
}

// The factor of each column is (dy[j] - shift) * y[j] for softmax, a constant for mean, and for max an equal
// share among the columns that reach it, as in the gradient of tf.reduce_max.
template <class T>
T row_grad_at(int op, ptrdiff_t j, const T* x, const T* y, const T* dy, T common) {
  if (op == kRowSoftmax) return (dy[j] - common) * y[j];
  // A factor, not a choice: a NaN in the row leaves no winner, and 0 * (dy / 0) is TensorFlow's NaN.
  return op == kRowMean ? common : static_cast<T>(x[j] == y[0]) * common;
}

template <class T>
T row_grad_common(int op, ptrdiff_t n, const T* x, const T* y, const T* dy) {
  if (op == kRowSoftmax) return dot_product(n, dy, y);
  if (op == kRowMean) return dy[0] / static_cast<T>(n);
  ptrdiff_t winners = 0;
  for (ptrdiff_t j = 0; j < n; ++j) winners += x[j] == y[0];
  return dy[0] / static_cast<T>(winners);
}

template <class T>
void row_grad(const RowArgs<T>& g) {
  check_row(g, true);
  if (g.op == kRowNormalize) return normalize_grad(g);
  for (ptrdiff_t i = 0; i < g.m; ++i) {
    const T* x = g.x.data + i * g.x.ld;
    const T* y = g.y.data + i * g.y.ld;
    const T* dy = g.dy.data + i * g.dy.ld;
    T* dx = g.dx.data + i * g.dx.ld;
    const T common = row_grad_common(g.op, g.n, x, y, dy);
    if (g.add) {
      for (ptrdiff_t j = 0; j < g.n; ++j) dx[j] += row_grad_at(g.op, j, x, y, dy, common);
    } else {
      for (ptrdiff_t j = 0; j < g.n; ++j) dx[j] = row_grad_at(g.op, j, x, y, dy, common);
    }
  }
}

}  // namespace
}  // namespace fusedsplit
