// Sums down columns: the gradients of biases and shifts. Included by ISA units.

namespace fusedsplit {
namespace {

// Sums of a strip of columns, four rows in flight; of the last vector `last` lanes are columns. The order of
// the sums is fixed by the rows alone.
template <class T, int NV>
FUSEDSPLIT_INLINE void column_strip(ptrdiff_t m, ptrdiff_t last, const T* z, ptrdiff_t ldz, T* sums,
                                    bool add) {
  constexpr ptrdiff_t kWide = kLanes<T>;
  const auto lanes = [last](int v) __attribute__((always_inline)) { return v + 1 < NV ? kWide : last; };
  Vec<T> acc[4][NV] = {};
  ptrdiff_t i = 0;
  for (; i + 4 <= m; i += 4, z += 4 * ldz)
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[r][v] = acc[r][v] + load_part(z + r * ldz + v * kWide, lanes(v));
  for (; i < m; ++i, z += ldz)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[0][v] = acc[0][v] + load_part(z + v * kWide, lanes(v));
#pragma GCC unroll 4
  for (int v = 0; v < NV; ++v) {
    const Vec<T> sum = (acc[0][v] + acc[1][v]) + (acc[2][v] + acc[3][v]);
    T* to = sums + v * kWide;
    store_part(to, add ? load_part(to, lanes(v)) + sum : sum, lanes(v));
  }
}

// At most kChunk rows.
template <class T>
void column_sums(ptrdiff_t m, ptrdiff_t n, const T* z, ptrdiff_t ldz, T* sums, bool add) {
  FUSEDSPLIT_ASSERT(m <= kChunk);
  check_rows<T>(m, n, z, ldz, sums, n);
  constexpr ptrdiff_t kWide = kLanes<T>;
  ptrdiff_t j = 0;
  for (; j + 2 * kWide <= n; j += 2 * kWide) column_strip<T, 2>(m, kWide, z + j, ldz, sums + j, add);
  for (; j < n; j += kWide) column_strip<T, 1>(m, min_of(kWide, n - j), z + j, ldz, sums + j, add);
}

}  // namespace
}  // namespace fusedsplit
