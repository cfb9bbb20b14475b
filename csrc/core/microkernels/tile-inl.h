// The register tile: MR rows x NV vectors of C stay in registers for a whole chunk of K. Included by ISA
// units.

namespace fusedsplit {
namespace {

constexpr ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }
constexpr ptrdiff_t min_of(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
constexpr ptrdiff_t max_of(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }

template <class T>
struct TileArgs {
  ptrdiff_t k;       // terms of this chunk
  ptrdiff_t k_full;  // of these, how many may load the last vector of B whole without leaving B
  const T* a;
  ptrdiff_t lda;
  const T* b;
  ptrdiff_t ldb;
  T* c;
  ptrdiff_t ldc;
  ptrdiff_t last;  // lanes of the last vector that are columns of C
  const T* init;   // where sums start; null: zero
  bool add;
  bool relu;
  const T* mask;
  ptrdiff_t ldmask;
  const FoldRows<T>* fold;  // null: none, or not by tiles
  const T* with;            // where this tile finds and puts what the fold is about
  T* y;
};

template <class T>
using TileFn = void (*)(const TileArgs<T>&);

template <class T>
FUSEDSPLIT_INLINE Vec<T> load_part(const T* p, ptrdiff_t n) {
  return n == kLanes<T> ? load(p) : load_first(p, n);
}

template <class T>
FUSEDSPLIT_INLINE void store_part(T* p, Vec<T> v, ptrdiff_t n) {
  if (n == kLanes<T>) {
    store(p, v);
  } else {
    store_first(p, v, n);
  }
}

// Element (i, k) of A. Rows are reached from one pointer per three of them, so that the addressing fits the
// integer registers.
template <class T, bool kColumns>
FUSEDSPLIT_INLINE T tile_element(const T* const* group, ptrdiff_t lda, int i, ptrdiff_t k) {
  return kColumns ? group[0][k * lda + i] : group[i / 3][(i % 3) * lda + k];
}

// One term of every sum of the tile.
template <class T, int MR, int NV, bool kColumns>
FUSEDSPLIT_INLINE void tile_term(Vec<T> (&acc)[MR][NV], const T* const* group, ptrdiff_t lda, ptrdiff_t k,
                                 const Vec<T> (&b)[NV]) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    const Vec<T> a = set1(tile_element<T, kColumns>(group, lda, i, k));
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = fma(a, b[j], acc[i][j]);
  }
}

// f(accumulator, row, column offset, lanes in use) for each of them; `last` is a constant where it can be.
template <class T, int MR, int NV, class F>
FUSEDSPLIT_INLINE void for_tile(Vec<T> (&acc)[MR][NV], ptrdiff_t last, F f) {
  constexpr ptrdiff_t kWide = kLanes<T>;
  if (last == kWide) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) f(acc[i][j], i, j * kWide, kWide);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) f(acc[i][j], i, j * kWide, j + 1 < NV ? kWide : last);
    }
  }
}

// Sums and products alone: with all four, code would grow by another quarter, and maxima gained nothing.
template <class T>
FUSEDSPLIT_INLINE Vec<T> fold_vectors(int op, Vec<T> a, Vec<T> b) {
  return op == kOpAdd ? a + b : a * b;
}

template <class T, int MR, int NV>
FUSEDSPLIT_INLINE void tile_fold_with(const TileArgs<T>& t, int op, Vec<T> (&acc)[MR][NV]) {
  const Vec<T> scale = set1(t.fold->with_scale);
  const ptrdiff_t ld = t.fold->ldwith;
  for_tile<T>(acc, t.last, [&](Vec<T>& v, int i, ptrdiff_t at, ptrdiff_t n) __attribute__((always_inline)) {
    v = fold_vectors<T>(op, scale * load_part(t.with + i * ld + at, n), v);
  });
}

template <class T, int MR, int NV>
FUSEDSPLIT_INLINE void tile_fold(const TileArgs<T>& t, Vec<T> (&acc)[MR][NV]) {
  const FoldRows<T>& fold = *t.fold;
  const Vec<T> scale = set1(fold.scale);
  for_tile<T>(acc, kLanes<T>,
              [&](Vec<T>& v, int, ptrdiff_t, ptrdiff_t) __attribute__((always_inline)) { v = scale * v; });
  if (fold.with && fold.op == kOpAdd) tile_fold_with<T, MR, NV>(t, kOpAdd, acc);
  if (fold.with && fold.op == kOpMul) tile_fold_with<T, MR, NV>(t, kOpMul, acc);
  if (fold.relu)
    for_tile<T>(acc, kLanes<T>, [&](Vec<T>& v, int, ptrdiff_t, ptrdiff_t) __attribute__((always_inline)) {
      v = select(v < zero<T>(), zero<T>(), v);
    });
  for_tile<T>(acc, t.last, [&](Vec<T>& v, int i, ptrdiff_t at, ptrdiff_t n) __attribute__((always_inline)) {
    store_part(t.y + i * fold.ldy + at, v, n);
  });
}

template <class T, int MR, int NV, bool kColumns>
FUSEDSPLIT_INLINE void tile_finish(const TileArgs<T>& t, Vec<T> (&acc)[MR][NV]) {
  if (t.add)
    for_tile<T>(acc, t.last, [&](Vec<T>& v, int i, ptrdiff_t at, ptrdiff_t n) __attribute__((always_inline)) {
      v = load_part(t.c + i * t.ldc + at, n) + v;
    });
  if (t.relu)
    for_tile<T>(acc, kLanes<T>, [&](Vec<T>& v, int, ptrdiff_t, ptrdiff_t) __attribute__((always_inline)) {
      v = select(v < zero<T>(), zero<T>(), v);
    });
  if (t.mask)
    for_tile<T>(acc, t.last, [&](Vec<T>& v, int i, ptrdiff_t at, ptrdiff_t n) __attribute__((always_inline)) {
      // A factor, not a choice: as in TensorFlow a NaN or an infinity that is masked gives NaN.
      v = v * select(load_part(t.mask + i * t.ldmask + at, n) > zero<T>(), set1(T(1)), zero<T>());
    });
  if constexpr (!kColumns) {
    if (t.fold && t.fold->only) return tile_fold<T, MR, NV>(t, acc);
  }
  for_tile<T>(acc, t.last, [&](Vec<T>& v, int i, ptrdiff_t at, ptrdiff_t n) __attribute__((always_inline)) {
    store_part(t.c + i * t.ldc + at, v, n);
  });
  if constexpr (!kColumns) {
    if (t.fold) tile_fold<T, MR, NV>(t, acc);
  }
}

// The sums of a tile of one vector, of which no more than half the lanes are columns.
template <class T, int MR, bool kColumns>
FUSEDSPLIT_INLINE void tile_half(const TileArgs<T>& t, Vec<T> (&acc)[MR][1], const T* const* group) {
  typedef Half<T> H;
  typename H::Vec sums[MR];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) sums[i] = t.init ? H::load_first(t.init, t.last) : H::set1(0);
  const T* b = t.b;
  const ptrdiff_t lda = t.lda, ldb = t.ldb;
  const auto term = [&](typename H::Vec v, ptrdiff_t k) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
      sums[i] = H::fma(H::set1(tile_element<T, kColumns>(group, lda, i, k)), v, sums[i]);
  };
  ptrdiff_t k = 0;
  for (; k < t.k_full; ++k, b += ldb) term(H::load(b), k);
  for (; k < t.k; ++k, b += ldb) term(H::load_first(b, t.last), k);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) acc[i][0] = H::widen(sums[i]);
}

// kColumns: A is k x m, else m x k.
template <class T, int MR, int NV, bool kColumns>
void tile(const TileArgs<T>& t) {
  constexpr ptrdiff_t kWide = kLanes<T>;
  Vec<T> acc[MR][NV];
#pragma GCC unroll 8
  for (int j = 0; j < NV; ++j) {
    Vec<T> v = zero<T>();
    if (t.init) v = j + 1 < NV ? load(t.init + j * kWide) : load_part(t.init + j * kWide, t.last);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) acc[i][j] = v;
  }
  // Fetches C while the sums run, since its lines may have to come from memory before they can be written: 3
  // to 9 % on wide and large at 4096 rows, nothing where C is in cache.
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) __builtin_prefetch(t.c + i * t.ldc + j * kWide, 1);
  }
  const T* group[(MR + 2) / 3];
#pragma GCC unroll 8
  for (int g = 0; g < (MR + 2) / 3; ++g) group[g] = t.a + (kColumns ? 0 : 3 * g * t.lda);
  if constexpr (NV == 1 && Half<T>::kLanes > 0) {
    if (t.last <= Half<T>::kLanes) {
      tile_half<T, MR, kColumns>(t, acc, group);
      return tile_finish<T, MR, NV, kColumns>(t, acc);
    }
  }
  const T* b = t.b;
  const ptrdiff_t lda = t.lda, ldb = t.ldb;
  ptrdiff_t k = 0;
  Vec<T> terms[NV];
  for (; k < t.k_full; ++k, b += ldb) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) terms[j] = load(b + j * kWide);
    tile_term<T, MR, NV, kColumns>(acc, group, lda, k, terms);
  }
  for (; k < t.k; ++k, b += ldb) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j)
      terms[j] = j + 1 < NV ? load(b + j * kWide) : load_part(b + j * kWide, t.last);
    tile_term<T, MR, NV, kColumns>(acc, group, lda, k, terms);
  }
  tile_finish<T, MR, NV, kColumns>(t, acc);
}

// The tiles of the unit, as data: for a panel of `vectors` columns, the tallest tile and one for each
// height.

template <class T>
struct TileColumn {
  int vectors;
  int max_rows;
  TileFn<T> fn[kMaxTileRows + 1];  // by rows; entry 0 is unused
};

template <class T, int NV, bool kColumns, int MAX>
struct TileColumnOf {
  template <int MR>
  static constexpr TileFn<T> at() {
    if constexpr (MR >= 1 && MR <= MAX) {
      return &tile<T, MR, NV, kColumns>;
    } else {
      return nullptr;
    }
  }
  static constexpr TileColumn<T> value = {NV,
                                          MAX,
                                          {at<0>(), at<1>(), at<2>(), at<3>(), at<4>(), at<5>(), at<6>(),
                                           at<7>(), at<8>(), at<9>(), at<10>(), at<11>(), at<12>()}};
};

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr const int (&kTileRows)[9] = kTileRows32;
#else
constexpr const int (&kTileRows)[9] = kTileRows16;
#endif

template <class T, bool kColumns>
const TileColumn<T>& tile_column(ptrdiff_t vectors) {
  switch (vectors) {
    case 1:
      return TileColumnOf<T, 1, kColumns, kTileRows[1]>::value;
    case 2:
      return TileColumnOf<T, 2, kColumns, kTileRows[2]>::value;
    case 3:
      return TileColumnOf<T, 3, kColumns, kTileRows[3]>::value;
    case 4:
      return TileColumnOf<T, 4, kColumns, kTileRows[4]>::value;
    default:
      return TileColumnOf<T, 8, kColumns, kTileRows[8]>::value;
  }
}

}  // namespace
}  // namespace fusedsplit
