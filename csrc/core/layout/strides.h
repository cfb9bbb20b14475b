// How far the rows of a buffer lie apart.
#pragma once

#include <cstddef>

#include "core/layout/constants.h"

namespace fusedsplit {

inline ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t unit) { return (n + unit - 1) / unit * unit; }

// The stride of a buffer: an odd number of cache lines, so that a column of it spreads over all sets, unless
// a tile reads it whole.
inline ptrdiff_t buffer_ld(ptrdiff_t width, ptrdiff_t unit) {
  const ptrdiff_t ld = round_up(width, unit);
  return width <= kWholeLines * unit || ld / unit % 2 ? ld : ld + unit;
}

// What is kept for backward goes to memory and back, so it is packed closer; but never a multiple of 1 KiB.
inline ptrdiff_t kept_ld(ptrdiff_t width, ptrdiff_t unit) {
  const ptrdiff_t ld = round_up(width, unit);
  return ld / unit % kBadLines ? ld : ld + unit;
}

}  // namespace fusedsplit
