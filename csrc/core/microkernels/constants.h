// The numbers that the kernels' speed was tuned by, each with its reason and what was measured. Free of the STL, like
// everything that ISA units include; layout reads some of them.
//
// "Bits": whether another number gives other bits. Those that do must be the same on every ISA and for every batch.
#pragma once

#include <cstddef>

namespace fusedsplit {

// Sums along K are cut into chunks of at most this many terms, each summed from zero and added in order: an
// in-order chain of thousands of terms has 5 to 14 times the error. Bits: yes.
constexpr ptrdiff_t kChunk = 256;

// Widths are padded to this many elements in scratch and in packed operands: a whole number of vectors of
// every ISA and type, so that layouts are the same for all of them. Bits: no.
constexpr ptrdiff_t kPad = 16;

// Products of at most this many columns, with sums of at least so many terms, keep so many interleaved partial sums: a
// vector along the columns would be nearly empty. Bits: yes, all three.
constexpr ptrdiff_t kDotMaxColumns = 4;
constexpr ptrdiff_t kDotMinTerms = 32;
constexpr ptrdiff_t kDotSums = 16;

// Weight gradients are summed in this many shards at most. Bits: yes, of weight gradients.
constexpr ptrdiff_t kMostShards = 16;

// Columns of a merge and of its derivative that are worked on at a time, so that they stay in registers and level 1.
// Bits: yes, of the gradient of a source that is repeated over the columns.
constexpr ptrdiff_t kMergeTile = 64;

// Heights of register tiles, by the vectors of their panel, which leave registers for the operands: 32 registers on
// AVX-512 and Arm, 16 elsewhere. Panels of one to three vectors serve many rows; four and eight few rows, where a
// narrow tile would wait for its own sums (an FMA takes four cycles and two start in each).
//
// Measured on Zen 5 (AVX-512, K of 64 to 256, operands in L1/L2): 12x2, 14x2, 8x3 and 6x4 all reach 92 to 95
// % of the register-only FMA rate, 12x1 87 %; rows read along K or down columns make no difference. Bits: no.
constexpr int kMaxTileRows = 12;
constexpr int kTileRows32[9] = {0, 12, 12, 8, 6, 0, 0, 0, 3};
constexpr int kTileRows16[9] = {0, 12, 6, 4, 3, 0, 0, 0, 1};

// Rows from which panels for many rows are used; a packed operand always has those. Bits: no.
constexpr ptrdiff_t kManyRows = 7;

// A product that reads A down its columns, these few of them, has chunks half as long: what a panel of B and
// a tile's columns of A take, whole cache lines of each row, then fits the level-1 cache. 5 to 10 % of both
// directions of wide; with more columns, writing C twice costs as much. Bits: yes, of weight gradients.
constexpr ptrdiff_t kFewColumnsOfA = 128;

// Weight gradients of fewer columns are computed as C^T, whose rows fill their vectors. Bits: yes, of weight gradients
// of two chunks.
constexpr ptrdiff_t kNarrowColumns = 8;

// Short sums are all about writing C, in long pieces of its rows; and a wide panel of B, of so few rows,
// still fits the level-1 cache. Both directions of large take 144 us instead of 300 with 2 rows, 330 instead
// of 407 with 16; from 32 rows on it would be slower. Bits: no.
constexpr ptrdiff_t kShortSums = 24;

// Rows whose sums are in flight together where rows are normalized: the last additions of each sum, and what follows
// from it, are a chain. One by one 8 columns take 32 ns a row and not 20, 64 take 41 and not 26, 256 take 72 and not
// 62; eight at a time gain 5 % more on narrow rows and lose 7 % at 1000 columns (AVX-512). Bits: no.
constexpr ptrdiff_t kNormalizedRows = 4;

// Rows of B that are packed at a time, each read from end to end; and, where B's transpose is given, terms that are
// read at a time: one cache line of floats. Bits: no.
constexpr ptrdiff_t kPackedRows = 4;
constexpr ptrdiff_t kPackedTerms = 16;

}  // namespace fusedsplit
