// Operations over the columns of a row, and their derivatives. Included by ISA units.

namespace fusedsplit {
namespace {

constexpr int kExponentialKind = static_cast<int>(ActivationKind::kExponential);

template <class T>
T row_max(ptrdiff_t n, const T* x) {
  T best = x[0];
  for (ptrdiff_t j = 1; j < n; ++j) best = fold_pair(kOpMax, best, x[j]);
  return best;
}

// Four sums at a time; the order depends on n alone.
template <class T>
T row_sum(ptrdiff_t n, const T* x) {
  Vec<T> acc[4] = {};
  ptrdiff_t j = 0;
  for (; j + 4 * kLanes<T> <= n; j += 4 * kLanes<T>)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) acc[v] = acc[v] + load(x + j + v * kLanes<T>);
  for (; j + kLanes<T> <= n; j += kLanes<T>) acc[0] = acc[0] + load(x + j);
  if (j < n) acc[1] = acc[1] + load_first(x + j, n - j);
  return reduce_add((acc[0] + acc[1]) + (acc[2] + acc[3]));
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

template <class T>
void row(int op, ptrdiff_t m, ptrdiff_t n, const T* x, ptrdiff_t ldx, T* y, ptrdiff_t ldy) {
  for (ptrdiff_t i = 0; i < m; ++i, x += ldx, y += ldy) {
    if (op == kRowSoftmax) {
      softmax_row(n, x, y);
    } else {
      *y = op == kRowMean ? row_sum(n, x) / static_cast<T>(n) : row_max(n, x);
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
void row_grad(int op, ptrdiff_t m, ptrdiff_t n, const T* x, ptrdiff_t ldx, const T* y, ptrdiff_t ldy,
              const T* dy, ptrdiff_t lddy, T* dx, ptrdiff_t lddx, bool add) {
  for (ptrdiff_t i = 0; i < m; ++i, x += ldx, y += ldy, dy += lddy, dx += lddx) {
    const T common = row_grad_common(op, n, x, y, dy);
    if (add) {
      for (ptrdiff_t j = 0; j < n; ++j) dx[j] += row_grad_at(op, j, x, y, dy, common);
    } else {
      for (ptrdiff_t j = 0; j < n; ++j) dx[j] = row_grad_at(op, j, x, y, dy, common);
    }
  }
}

}  // namespace
}  // namespace fusedsplit
