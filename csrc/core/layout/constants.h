// The numbers that layouts were tuned by, each with its reason and what was measured.
//
// "Bits": whether another number gives other bits. Those that do may depend on shapes, never on threads or the machine.
#pragma once

#include <cstddef>

#include "core/microkernels/constants.h"

namespace fusedsplit {

// Bytes of a cache line, and of the longest vector. Bits: yes, where steps are cut into pieces.
constexpr ptrdiff_t kCacheLine = 64;

// Of the last vector of a piece (see kLeastPiece in plan.h) at most a part of so many of its width may be idle. Bits:
// yes, of input gradients, whose sums run over a piece.
constexpr ptrdiff_t kPieceToIdle = 8;

// Vectors of a product that may be joined with others, at most: wider ones waste little of their last vector.
// Bits: no.
constexpr ptrdiff_t kJoinedVectors = 2;

// Elements of all joined operands, as a multiple of those of all params: one join has up to 3.2 times those of its
// kernels, but with kernels that several steps share joins could ask for any multiple. Bits: no.
constexpr ptrdiff_t kJoinedToParams = 4;

// Partial products that the derivative of a Merge that multiplies keeps at a time: with more than 1024 sources it takes
// fewer than kMergeTile columns. Bits: yes, of the gradient of a source that is repeated over the columns.
constexpr ptrdiff_t kMostMergeTerms = kMergeTile << 10;

// Cache lines of a buffer's row that a tile reads whole, so that its stride needs not be odd. Bits: no.
constexpr ptrdiff_t kWholeLines = 3;
// A stride of what is kept for backward is no multiple of so many cache lines (1 KiB). Bits: no.
constexpr ptrdiff_t kBadLines = 16;

// Bytes of a block's values at inference: they are to stay in a level-2 cache of which this is about a third, its
// kernels taking more. And its rows: whole tiles, 48 at least where values are wide. Bits: no.
constexpr ptrdiff_t kBriefBytes = ptrdiff_t{384} << 10;
constexpr ptrdiff_t kLeastBriefRows = 48;
constexpr ptrdiff_t kBriefRowsUnit = kMaxTileRows;

// Rows of a block in training: one chunk of K for the weight gradients; fewer where a worker's buffers would
// take more than this, which costs large 2 % (each block reads and writes the kernel's gradient once more).
// Bits: yes, of weight gradients.
constexpr ptrdiff_t kMostRows = kChunk;
constexpr ptrdiff_t kLeastRows = 96;
constexpr ptrdiff_t kKeptRowsUnit = 16;
constexpr ptrdiff_t kMostBufferBytes = ptrdiff_t{960} << 10;

// Bytes of a block of absurdly wide plans, for which bounded scratch matters more than speed. Bits: yes, of weight
// gradients.
constexpr ptrdiff_t kMostBlockBytes = ptrdiff_t{64} << 20;

// Rows from which there are two shards: both directions of every case take 0.67 to 0.77 of the time at 96 to 256
// rows that chains side by side take, and 1.05 to 1.1 at 64 (two threads). Bits: yes, of weight gradients.
constexpr ptrdiff_t kTwoShards = 80;
// What all shards together may take, though two or more are used whatever they take. Bits: yes, of weight gradients.
constexpr ptrdiff_t kMostShardBytes = ptrdiff_t{16} << 20;

// Elements of a kernel from which its gradient waits for the second pass, where all params have so many that
// shards of them would not stay in cache: 13 % of 16 + 4 x 1 MiB of kernels; 4 + 4 MiB gain 1 % at 4096 rows and lose
// 4 % at 512, 2 + 0.5 MiB lose up to 9 %. Bits: yes, of weight gradients.
constexpr ptrdiff_t kSecondPassSize = ptrdiff_t{1} << 18;
constexpr ptrdiff_t kSecondPassTotal = ptrdiff_t{3} << 20;

}  // namespace fusedsplit
