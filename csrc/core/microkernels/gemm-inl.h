// Products of any size from register tiles, and the packing of their right operands. Included by ISA units.

namespace fusedsplit {
namespace {

// Chunk i of a sum of k terms: near-equal chunks, which depend on k alone.
struct Chunks {
  ptrdiff_t k, count;
  explicit Chunks(ptrdiff_t terms, ptrdiff_t most = kChunk)
      : k(terms), count(max_of(1, ceil_div(terms, most))) {}
  ptrdiff_t begin(ptrdiff_t i) const { return k * i / count; }
};

// A panel is the columns that one tile covers. Many rows: panels of two vectors and, for an odd number of
// vectors, one of three, never a lone one. So also in packed operands.
FUSEDSPLIT_INLINE ptrdiff_t panel_vectors(ptrdiff_t left) { return left == 3 || left == 1 ? left : 2; }

// Few rows: the widest panel that fits, to have enough independent sums under way.
template <class T>
FUSEDSPLIT_INLINE ptrdiff_t panel_vectors_few(ptrdiff_t left, ptrdiff_t m) {
  if (left >= 8 && m <= kTileRows[8]) return 8;
  if (left >= 4 && m <= kTileRows[4]) return 4;
  return left >= 3 ? 3 : left;
}

// Operands packed wide: as few rows read them.
FUSEDSPLIT_INLINE ptrdiff_t panel_vectors_wide(ptrdiff_t left) {
  return left >= 8 ? 8 : left >= 4 ? 4 : left;
}

// Whether a product of few columns has partial sums.
constexpr bool is_dot(ptrdiff_t k, ptrdiff_t n) { return n <= kDotMaxColumns && k >= kDotMinTerms; }

// One panel over one chunk: tiles of near-equal heights down the rows.
template <class T, bool kColumns>
void panel_rows(const TileColumn<T>& column, ptrdiff_t m, TileArgs<T> args) {
  const ptrdiff_t tiles = ceil_div(m, column.max_rows), rows = m / tiles, taller = m % tiles;
  for (ptrdiff_t t = 0; t < tiles; ++t) {
    const ptrdiff_t height = rows + (t < taller);
    column.fn[height](args);
    args.a += kColumns ? height : height * args.lda;
    args.c += height * args.ldc;
    if (args.mask) args.mask += height * args.ldmask;
    if (args.fold) {
      if (args.with) args.with += height * args.fold->ldwith;
      args.y += height * args.fold->ldy;
    }
  }
}

// What remains to be done to a finished panel when the activation is not one that tiles apply in registers.
template <class T>
void panel_activation(const Gemm<T>& g, ptrdiff_t column, ptrdiff_t width) {
  T* c = g.c + column;
  if (g.pre)
    for (ptrdiff_t i = 0; i < g.m; ++i)
      __builtin_memcpy(g.pre + i * g.ldpre + column, c + i * g.ldc, static_cast<size_t>(width) * sizeof(T));
  activate<T>(g.activation, g.alpha, g.m, width, c, g.ldc);
}

// The fold of a panel that is in the level-1 cache, where its activation kept tiles from doing it in registers.
template <class T>
void panel_fold(const Gemm<T>& g, ptrdiff_t column, ptrdiff_t width) {
  const FoldRows<T>& fold = g.fold;
  const Vec<T> scale = set1(fold.scale), with_scale = set1(fold.with_scale);
  for (ptrdiff_t i = 0; i < g.m; ++i)
    for (ptrdiff_t j = 0; j < width; j += kLanes<T>) {
      const ptrdiff_t n = min_of(kLanes<T>, width - j), at = column + j;
      Vec<T> v = scale * load_part(g.c + i * g.ldc + at, n);
      if (fold.with)
        v = fold_vectors<T>(fold.op, with_scale * load_part(fold.with + i * fold.ldwith + at, n), v);
      if (fold.relu) v = select(v < zero<T>(), zero<T>(), v);
      store_part(fold.y + i * fold.ldy + at, v, n);
    }
}

// A product that reads A down its columns, few of them, has chunks half as long.
template <class T>
Chunks chunks_of_columns(const Gemm<T>& g) {
  return Chunks(g.k, g.whole_m <= kFewColumnsOfA ? kChunk / 2 : kChunk);
}

// Columns [column, column + width) of a product, all of K, given these columns of B, a row every `ldb`.
template <class T, bool kColumns>
void panel(const Gemm<T>& g, ptrdiff_t column, ptrdiff_t vectors, const T* b, ptrdiff_t ldb) {
  constexpr ptrdiff_t kWide = kLanes<T>;
  const ptrdiff_t padded = vectors * kWide, width = min_of(padded, g.n - column);
  const Chunks chunks = kColumns ? chunks_of_columns(g) : Chunks(g.k);
  const bool in_registers = g.activation <= kReluKind && !g.pre;
  TileArgs<T> args;
  args.lda = g.lda;
  args.ldb = ldb;
  args.c = g.c + column;
  args.ldc = g.ldc;
  args.last = width - (vectors - 1) * kWide;
  args.ldmask = g.ldmask;
  const bool folds = g.fold.y && in_registers;
  if (folds) {
    args.with = g.fold.with ? g.fold.with + column : nullptr;
    args.y = g.fold.y + column;
  }
  // Whole vectors may be loaded up to the row from which they would reach beyond the end of B.
  ptrdiff_t full = g.k;
  if (!g.packed && padded != width) full = g.exact ? 0 : max_of(0, g.k - ceil_div(padded - width, g.ldb));
  bool begun = false;
  for (ptrdiff_t i = 0; i < chunks.count; ++i) {
    const ptrdiff_t begin = max_of(chunks.begin(i), g.k_begin), end = min_of(chunks.begin(i + 1), g.k_end);
    const bool last = i + 1 == chunks.count || chunks.begin(i + 1) >= g.k_end;
    if (begin >= end && !(last && !begun)) continue;
    args.k = max_of(0, end - begin);
    args.k_full = max_of(0, min_of(full, end) - begin);
    args.a = g.a + (kColumns ? begin * g.lda : begin);
    args.b = b + begin * args.ldb;
    if (kColumns && g.sums)
      column_sums(args.k, width, args.b, args.ldb, g.sums + column, begun || g.add_sums);
    args.init = begun || !g.bias ? nullptr : g.bias + column;
    args.add = begun || g.add;
    args.relu = last && in_registers && g.activation == kReluKind;
    args.mask = last && g.mask ? g.mask + column : nullptr;
    args.fold = last && folds ? &g.fold : nullptr;
    panel_rows<T, kColumns>(tile_column<T, kColumns>(vectors), g.m, args);
    begun = true;
    if (last) break;
  }
  if (!in_registers) panel_activation(g, column, width);
  if (g.fold.y && !folds) panel_fold(g, column, width);
}

template <class T>
void gemm_dot(const Gemm<T>& g);

template <class T>
void gemm(const Gemm<T>& g) {
  check_gemm(g);
  constexpr ptrdiff_t kWide = kLanes<T>;
  if (is_dot(g.k, g.n) && !g.by_panels) return gemm_dot(g);
  const bool few = g.m < kManyRows && (!g.packed || g.wide);
  ptrdiff_t left = ceil_div(g.n, kWide), column = 0;
  while (left > 0) {
    // A panel of B as it was packed, of which a tile may take less; or all of it.
    const ptrdiff_t together = !g.packed ? left : g.wide ? panel_vectors_wide(left) : panel_vectors(left);
    const T* b = g.packed ? g.b + column * g.k : g.b + column;
    const ptrdiff_t ldb = g.packed ? together * kWide : g.ldb;
    for (ptrdiff_t done = 0; done < together;) {
      const ptrdiff_t rest = together - done;
      const ptrdiff_t vectors = few ? panel_vectors_few<T>(rest, g.m) : panel_vectors(rest);
      panel<T, false>(g, column, vectors, b + done * kWide, ldb);
      column += vectors * kWide;
      done += vectors;
    }
    left -= together;
  }
}

// C^T by panels over the rows of C, for a C of so few columns that its rows would leave vectors empty.
template <class T>
void gemm_tn_narrow(const Gemm<T>& g) {
  constexpr ptrdiff_t kWide = kLanes<T>;
  T transposed[kNarrowColumns * 3 * kWide];
  for (ptrdiff_t row = 0; row < g.m;) {
    const ptrdiff_t vectors = min_of(3, ceil_div(g.m - row, kWide)), padded = vectors * kWide;
    Gemm<T> t;
    t.m = g.n;
    t.n = min_of(padded, g.m - row);
    t.k = t.k_end = g.k;
    t.whole_m = g.whole_m;
    t.a = g.b;
    t.lda = g.ldb;
    t.b = g.a + row;
    t.ldb = g.lda;
    t.c = transposed;
    t.ldc = padded;
    panel<T, true>(t, 0, vectors, t.b, t.ldb);
    for (ptrdiff_t i = 0; i < t.n; ++i) {
      T* c = g.c + (row + i) * g.ldc;
      for (ptrdiff_t j = 0; j < g.n; ++j) c[j] = (g.add ? c[j] : T(0)) + transposed[j * padded + i];
    }
    row += t.n;
  }
}

template <class T>
void gemm_tn(const Gemm<T>& g) {
  check_gemm_tn(g);
  constexpr ptrdiff_t kWide = kLanes<T>;
  if ((g.n < kNarrowColumns && g.m >= kWide) || g.m == 0) {
    const Chunks chunks = chunks_of_columns(g);
    for (ptrdiff_t i = 0; i < chunks.count && g.sums; ++i)
      column_sums(chunks.begin(i + 1) - chunks.begin(i), g.n, g.b + chunks.begin(i) * g.ldb, g.ldb, g.sums,
                  i > 0 || g.add_sums);
    return gemm_tn_narrow(g);
  }
  ptrdiff_t left = ceil_div(g.n, kWide);
  for (ptrdiff_t column = 0; left > 0;) {
    const ptrdiff_t vectors = g.k <= kShortSums ? panel_vectors_few<T>(left, 1) : panel_vectors(left);
    panel<T, true>(g, column, vectors, g.b + column, g.ldb);
    column += vectors * kWide;
    left -= vectors;
  }
}

// The sum of 16 terms that lie in 16 / lanes vectors.
template <class T>
FUSEDSPLIT_INLINE T sum_dot(Vec<T>* v) {
  constexpr int kCount = static_cast<int>(kDotSums / kLanes<T>);
  for (int half = kCount / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] = v[i] + v[i + half];
  return reduce_add(v[0]);
}

// out[i][j] += sum over a chunk of a[i][k] * b[j][k], for R rows; b is transposed, a row every ldb.
template <class T, int R>
void dot_rows(ptrdiff_t k, ptrdiff_t n, const T* a, ptrdiff_t lda, const T* b, ptrdiff_t ldb, T* out) {
  constexpr int kCount = static_cast<int>(kDotSums / kLanes<T>);
  constexpr ptrdiff_t kWide = kLanes<T>;
  for (ptrdiff_t j = 0; j < n; ++j) {
    Vec<T> acc[R][kCount] = {};
    ptrdiff_t at = 0;
    for (; at + kDotSums <= k; at += kDotSums)
#pragma GCC unroll 4
      for (int c = 0; c < kCount; ++c) {
        const Vec<T> w = load(b + j * ldb + at + c * kWide);
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i) acc[i][c] = fma(load(a + i * lda + at + c * kWide), w, acc[i][c]);
      }
    if (at < k) {
#pragma GCC unroll 4
      for (int c = 0; c < kCount; ++c) {
        const ptrdiff_t valid = min_of(kWide, max_of(0, k - at - c * kWide));
        const Vec<T> w = load_first(b + j * ldb + at + c * kWide, valid);
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i)
          acc[i][c] = fma(load_first(a + i * lda + at + c * kWide, valid), w, acc[i][c]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) out[i * kDotMaxColumns + j] += sum_dot<T>(acc[i]);
  }
}

// Sums and epilogue of `rows` rows of a narrow product are kept here while K passes.
template <class T>
void dot_finish(const Gemm<T>& g, ptrdiff_t row, ptrdiff_t rows, const T* sums) {
  for (ptrdiff_t i = row; i < row + rows; ++i, sums += kDotMaxColumns)
    for (ptrdiff_t j = 0; j < g.n; ++j) {
      T* c = g.c + i * g.ldc + j;
      const T v = sums[j] + (g.add ? *c : T(0));
      // A factor, as in tile_finish.
      *c = g.mask ? v * static_cast<T>(g.mask[i * g.ldmask + j] > T(0)) : v;
    }
}

// A product of few columns. Its right operand is used transposed: as packed, or as it is if it is one
// column, or else transposed here again for every strip of rows, which is for few rows.
template <class T>
void gemm_dot(const Gemm<T>& g) {
  const Chunks chunks(g.k);
  const bool in_place = g.packed || (g.n == 1 && g.ldb == 1);
  T transposed[kDotMaxColumns * kChunk];
  for (ptrdiff_t row = 0, rows; row < g.m; row += rows) {
    rows = g.m - row >= 4 ? 4 : 1;
    T sums[4 * kDotMaxColumns];
    for (ptrdiff_t i = 0; i < rows * kDotMaxColumns; ++i)
      sums[i] = g.bias && i % kDotMaxColumns < g.n ? g.bias[i % kDotMaxColumns] : T(0);
    for (ptrdiff_t i = 0; i < chunks.count; ++i) {
      const ptrdiff_t begin = max_of(chunks.begin(i), g.k_begin), end = min_of(chunks.begin(i + 1), g.k_end);
      if (begin >= end) continue;
      const T* b = g.b + begin;
      if (!in_place) {
        for (ptrdiff_t k = begin; k < end; ++k)
          for (ptrdiff_t j = 0; j < g.n; ++j) transposed[j * kChunk + k - begin] = g.b[k * g.ldb + j];
        b = transposed;
      }
      const ptrdiff_t ldb = in_place ? ceil_div(g.k, kPad) * kPad : kChunk;
      const T* a = g.a + row * g.lda + begin;
      if (rows == 4) {
        dot_rows<T, 4>(end - begin, g.n, a, g.lda, b, ldb, sums);
      } else {
        dot_rows<T, 1>(end - begin, g.n, a, g.lda, b, ldb, sums);
      }
    }
    dot_finish(g, row, rows, sums);
  }
  if (g.activation != kLinearKind || g.pre) panel_activation(g, 0, g.n);
  if (g.fold.y) panel_fold(g, 0, g.n);
}

// B by panels, each k x padded width, so that a tile reads it front to back; the padding is zero. B of a
// narrow product: its transpose, rows padded. `at(k, n)` is an element of B.
template <class T, class At>
FUSEDSPLIT_INLINE void pack_elements(ptrdiff_t k, ptrdiff_t n, T* to, bool wide, At at) {
  if (is_dot(k, n)) {
    const ptrdiff_t padded = ceil_div(k, kPad) * kPad;
    for (ptrdiff_t j = 0; j < n; ++j, to += padded)
      for (ptrdiff_t i = 0; i < padded; ++i) to[i] = i < k ? at(i, j) : T(0);
    return;
  }
  ptrdiff_t left = ceil_div(n, kLanes<T>);
  for (ptrdiff_t column = 0; left > 0;) {
    const ptrdiff_t vectors = wide ? panel_vectors_wide(left) : panel_vectors(left);
    const ptrdiff_t padded = vectors * kLanes<T>, width = min_of(padded, n - column);
    for (ptrdiff_t i = 0; i < k; ++i, to += padded) {
      for (ptrdiff_t j = 0; j < width; ++j) to[j] = at(i, column + j);
      for (ptrdiff_t j = width; j < padded; ++j) to[j] = 0;
    }
    column += padded;
    left -= vectors;
  }
}

template <class T, int NV>
FUSEDSPLIT_INLINE void pack_row(const T* from, T* to) {
  Vec<T> v[NV];
#pragma GCC unroll 3
  for (int j = 0; j < NV; ++j) v[j] = load(from + j * kLanes<T>);
#pragma GCC unroll 3
  for (int j = 0; j < NV; ++j) store(to + j * kLanes<T>, v[j]);
}

template <class T>
void pack(ptrdiff_t k, ptrdiff_t n, const T* b, ptrdiff_t ldb, T* to) {
  check_pack(k, n, b, holds_rows(ldb, k, n), to);
  if (is_dot(k, n) || n % kLanes<T> != 0)
    return pack_elements<T>(k, n, to, false, [=](ptrdiff_t i, ptrdiff_t j) { return b[i * ldb + j]; });
  // A few rows of B at a time, each read from end to end.
  for (ptrdiff_t first = 0; first < k; first += kPackedRows) {
    const ptrdiff_t rows = min_of(kPackedRows, k - first);
    ptrdiff_t left = n / kLanes<T>;
    for (ptrdiff_t column = 0; left > 0;) {
      const ptrdiff_t vectors = panel_vectors(left), width = vectors * kLanes<T>;
      for (ptrdiff_t i = first; i < first + rows; ++i) {
        const T* from = b + i * ldb + column;
        T* at = to + column * k + i * width;
        if (vectors == 2) {
          pack_row<T, 2>(from, at);
        } else if (vectors == 3) {
          pack_row<T, 3>(from, at);
        } else {
          pack_row<T, 1>(from, at);
        }
      }
      column += width;
      left -= vectors;
    }
  }
}

template <class T>
void pack_wide(ptrdiff_t k, ptrdiff_t n, const T* b, ptrdiff_t ldb, T* to) {
  check_pack(k, n, b, holds_rows(ldb, k, n), to);
  pack_elements<T>(k, n, to, true, [=](ptrdiff_t i, ptrdiff_t j) { return b[i * ldb + j]; });
}

// The rows of a panel are columns of what is given: it is read by short pieces of its rows.
template <class T>
void pack_transposed(ptrdiff_t k, ptrdiff_t n, const T* b, ptrdiff_t ldb, T* to) {
  check_pack(k, n, b, holds_rows(ldb, n, k), to);
  if (is_dot(k, n) || n % kLanes<T> != 0) {
    return pack_elements<T>(k, n, to, false, [=](ptrdiff_t i, ptrdiff_t j) { return b[j * ldb + i]; });
  }
  ptrdiff_t left = n / kLanes<T>;
  for (ptrdiff_t column = 0; left > 0;) {
    const ptrdiff_t vectors = panel_vectors(left), width = vectors * kLanes<T>;
    for (ptrdiff_t first = 0; first < k; first += kPackedTerms)
      for (ptrdiff_t j = 0; j < width; ++j) {
        const T* from = b + (column + j) * ldb;
        for (ptrdiff_t i = first; i < min_of(first + kPackedTerms, k); ++i) to[i * width + j] = from[i];
      }
    to += k * width;
    column += width;
    left -= vectors;
  }
}

}  // namespace
}  // namespace fusedsplit
