// Everything that is not a product: merges, operations over a row, mixtures. Plain loops that the compiler
// vectorizes for the ISA of the unit that includes this file.

namespace fusedsplit {
namespace {

// Enough sums to keep two units busy whose results take four or five cycles.
template <class T>
double spin_fma(ptrdiff_t rounds, T* sink) {
  constexpr int kSums = 12;
  Vec<T> sums[kSums];
  const Vec<T> factor = set1(T(0.999));
  for (int j = 0; j < kSums; ++j) sums[j] = set1(T(j));
  for (ptrdiff_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kSums; ++j) sums[j] = fma(sums[j], factor, factor);
  for (int j = 1; j < kSums; ++j) sums[0] = sums[0] + sums[j];
  *sink = reduce_add(sums[0]);
  return 2.0 * static_cast<double>(rounds * kSums * kLanes<T>);
}

template <class T>
void activate_rows(int kind, T alpha, ptrdiff_t m, ptrdiff_t n, T* y, ptrdiff_t ldy) {
  FUSEDSPLIT_ASSERT(is_activation(kind));
  check_rows<T>(m, n, y, ldy, y, ldy);
  if (kind != kLinearKind) activate<T>(kind, alpha, m, n, y, ldy);
}

template <class T>
void activation_grad(const ActivationGrad<T>& g) {
  check_activation_grad(g);
  activate_grad<T>(g.kind, g.alpha, g.m, g.n, g.ref.data, g.ref.ld, g.dy.data, g.dy.ld, g.dz.data, g.dz.ld);
}

template <class T>
void copy_rows(ptrdiff_t m, ptrdiff_t n, const T* x, ptrdiff_t ldx, T* y, ptrdiff_t ldy, bool add) {
  check_rows<T>(m, n, x, ldx, y, ldy);
  for (ptrdiff_t i = 0; i < m; ++i, x += ldx, y += ldy) {
    if (add) {
      for (ptrdiff_t j = 0; j < n; ++j) y[j] += x[j];
    } else {
      __builtin_memcpy(y, x, static_cast<size_t>(n) * sizeof(T));
    }
  }
}

// tf.maximum and tf.minimum: a NaN on either side gives NaN.
template <class T>
FUSEDSPLIT_INLINE T fold_pair(int op, T a, T b) {
  switch (op) {
    case kOpAdd:
      return a + b;
    case kOpMul:
      return a * b;
    case kOpMax:
      return a >= b || a != a ? a : b;
    default:
      return a <= b || a != a ? a : b;
  }
}

template <class T>
FUSEDSPLIT_INLINE T term_at(const MergeSource<T>& s, ptrdiff_t row, ptrdiff_t column) {
  return s.scale * s.x[row * s.ldx + (s.repeat ? 0 : column)];
}

template <class T, int OP>
FUSEDSPLIT_INLINE void fold_next(T* __restrict y, const MergeSource<T>& s, ptrdiff_t row, ptrdiff_t begin,
                                 ptrdiff_t n) {
  const T* __restrict x = s.x + row * s.ldx + (s.repeat ? 0 : begin);
  const T scale = s.scale;
  if (s.repeat) {
    const T v = scale * *x;
    for (ptrdiff_t j = 0; j < n; ++j) y[j] = fold_pair(OP, y[j], v);
  } else {
    for (ptrdiff_t j = 0; j < n; ++j) y[j] = fold_pair(OP, y[j], scale * x[j]);
  }
}

// Columns [begin, begin + n) of one row of a fold; of nothing it is the empty sum.
template <class T>
void fold_row(const MergeRows<T>& g, ptrdiff_t row, ptrdiff_t begin, ptrdiff_t n, T* y) {
  for (ptrdiff_t j = 0; j < n; ++j) y[j] = g.count ? term_at(g.sources[0], row, begin + j) : T(0);
  for (ptrdiff_t s = 1; s < g.count; ++s) {
    switch (g.op) {
      case kOpAdd:
        fold_next<T, kOpAdd>(y, g.sources[s], row, begin, n);
        break;
      case kOpMul:
        fold_next<T, kOpMul>(y, g.sources[s], row, begin, n);
        break;
      case kOpMax:
        fold_next<T, kOpMax>(y, g.sources[s], row, begin, n);
        break;
      default:
        fold_next<T, kOpMin>(y, g.sources[s], row, begin, n);
    }
  }
}

template <class T>
void merge_rows(const MergeRows<T>& g) {
  check_merge(g, false);
  const bool plain = !g.gain && !g.shift && g.gain_const == T(1) && g.shift_const == T(0);
  for (ptrdiff_t i = 0; i < g.m; ++i) {
    T* __restrict y = g.y + i * g.ldy;
    for (ptrdiff_t begin = 0; begin < g.n; begin += kMergeTile)
      fold_row(g, i, begin, min_of(kMergeTile, g.n - begin), y + begin);
    if (plain) continue;
    if (g.gain) {
      for (ptrdiff_t j = 0; j < g.n; ++j) y[j] *= g.gain[j];
    } else {
      for (ptrdiff_t j = 0; j < g.n; ++j) y[j] *= g.gain_const;
    }
    if (g.shift) {
      for (ptrdiff_t j = 0; j < g.n; ++j) y[j] += g.shift[j];
    } else {
      for (ptrdiff_t j = 0; j < g.n; ++j) y[j] += g.shift_const;
    }
  }
}

// Hands one source its part of the gradient: d[j] for columns [begin, begin + n) of a row.
template <class T>
void give(const MergeSource<T>& s, ptrdiff_t row, ptrdiff_t begin, ptrdiff_t n, const T* d) {
  if (!s.grad) return;
  T* __restrict to = s.grad + row * s.ldgrad;
  if (s.repeat) {
    T sum = 0;
    for (ptrdiff_t j = 0; j < n; ++j) sum += d[j];
    *to = s.add || begin > 0 ? *to + s.scale * sum : s.scale * sum;
  } else if (s.add) {
    for (ptrdiff_t j = 0; j < n; ++j) to[begin + j] += s.scale * d[j];
  } else {
    for (ptrdiff_t j = 0; j < n; ++j) to[begin + j] = s.scale * d[j];
  }
}

// Products of all other factors by prefix and suffix products: never a quotient, so zeros are right.
template <class T>
void give_factors(const MergeRows<T>& g, ptrdiff_t row, ptrdiff_t begin, ptrdiff_t n, const T* d, T* suffix,
                  ptrdiff_t tile) {
  for (ptrdiff_t j = 0; j < n; ++j) suffix[(g.count - 1) * tile + j] = 1;
  for (ptrdiff_t s = g.count - 1; s > 0; --s)
    for (ptrdiff_t j = 0; j < n; ++j)
      suffix[(s - 1) * tile + j] = suffix[s * tile + j] * term_at(g.sources[s], row, begin + j);
  T prefix[kMergeTile], part[kMergeTile];
  for (ptrdiff_t j = 0; j < n; ++j) prefix[j] = d[j];
  for (ptrdiff_t s = 0; s < g.count; ++s) {
    for (ptrdiff_t j = 0; j < n; ++j) part[j] = prefix[j] * suffix[s * tile + j];
    give(g.sources[s], row, begin, n, part);
    for (ptrdiff_t j = 0; j < n; ++j) prefix[j] *= term_at(g.sources[s], row, begin + j);
  }
}

// The gradient goes to the winner of the fold; at a tie the earlier source wins, and a NaN loses to what
// follows it, as in the gradients of tf.maximum and tf.minimum.
template <class T>
void give_winner(const MergeRows<T>& g, ptrdiff_t row, ptrdiff_t begin, ptrdiff_t n, const T* d) {
  T best[kMergeTile], part[kMergeTile];
  ptrdiff_t winner[kMergeTile];
  for (ptrdiff_t j = 0; j < n; ++j) {
    best[j] = term_at(g.sources[0], row, begin + j);
    winner[j] = 0;
  }
  for (ptrdiff_t s = 1; s < g.count; ++s)
    for (ptrdiff_t j = 0; j < n; ++j) {
      const T x = term_at(g.sources[s], row, begin + j);
      const bool keeps = g.op == kOpMax ? best[j] >= x : best[j] <= x;
      winner[j] = keeps ? winner[j] : s;
      best[j] = fold_pair(g.op, best[j], x);
    }
  for (ptrdiff_t s = 0; s < g.count; ++s) {
    for (ptrdiff_t j = 0; j < n; ++j) part[j] = winner[j] == s ? d[j] : T(0);
    give(g.sources[s], row, begin, n, part);
  }
}

template <class T>
void merge_grad(const MergeGrad<T>& g) {
  check_merge_grad(g);
  const MergeRows<T>& merge = g.merge;
  T d[kMergeTile], folded[kMergeTile];
  if (g.gain_sums)
    for (ptrdiff_t j = 0; j < merge.n; ++j) g.gain_sums[j] = 0;
  for (ptrdiff_t i = 0; i < merge.m; ++i)
    for (ptrdiff_t begin = 0; begin < merge.n; begin += g.tile) {
      const ptrdiff_t n = min_of(g.tile, merge.n - begin);
      const T* dz = g.dz + i * g.lddz + begin;
      if (g.gain_sums) {
        fold_row(merge, i, begin, n, folded);
        for (ptrdiff_t j = 0; j < n; ++j) g.gain_sums[begin + j] += dz[j] * folded[j];
      }
      for (ptrdiff_t j = 0; j < n; ++j)
        d[j] = dz[j] * (merge.gain ? merge.gain[begin + j] : merge.gain_const);
      if (merge.op == kOpAdd) {
        for (ptrdiff_t s = 0; s < merge.count; ++s) give(merge.sources[s], i, begin, n, d);
      } else if (merge.op == kOpMul) {
        give_factors(merge, i, begin, n, d, g.suffix, g.tile);
      } else {
        give_winner(merge, i, begin, n, d);
      }
    }
}

template <class T>
void mix_rows(const MixRows<T>& g) {
  check_mix(g, false);
  for (ptrdiff_t i = 0; i < g.m; ++i) {
    T* __restrict y = g.y + i * g.ldy;
    const T* gate = g.gate.x + i * g.gate.ldx;
    for (ptrdiff_t e = 0; e < g.count; ++e) {
      const T* __restrict x = g.experts[e].x + i * g.experts[e].ldx;
      const T w = gate[e];
      if (e == 0) {
        for (ptrdiff_t j = 0; j < g.n; ++j) y[j] = w * x[j];
      } else {
        for (ptrdiff_t j = 0; j < g.n; ++j) y[j] += w * x[j];
      }
    }
  }
}

template <class T>
FUSEDSPLIT_INLINE T dot_product(ptrdiff_t n, const T* x, const T* y) {
  Vec<T> acc = zero<T>();
  ptrdiff_t j = 0;
  for (; j + kLanes<T> <= n; j += kLanes<T>) acc = fma(load(x + j), load(y + j), acc);
  if (j < n) acc = fma(load_first(x + j, n - j), load_first(y + j, n - j), acc);
  return reduce_add(acc);
}

template <class T>
void mix_grad(const MixRows<T>& g) {
  check_mix(g, true);
  for (ptrdiff_t i = 0; i < g.m; ++i) {
    const T* dy = g.dy + i * g.lddy;
    const T* gate = g.gate.x + i * g.gate.ldx;
    // The whole gate first: an expert may be the same columns, and then adds.
    for (ptrdiff_t e = 0; e < g.count && g.gate.grad; ++e) {
      T* to = g.gate.grad + i * g.gate.ldgrad + e;
      const T d = dot_product(g.n, dy, g.experts[e].x + i * g.experts[e].ldx);
      *to = g.gate.add ? *to + d : d;
    }
    for (ptrdiff_t e = 0; e < g.count; ++e) {
      MergeSource<T> expert = g.experts[e];
      expert.scale = gate[e];
      give(expert, i, 0, g.n, dy);
    }
  }
}

}  // namespace
}  // namespace fusedsplit
