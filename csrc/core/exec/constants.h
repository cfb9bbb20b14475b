// The numbers that execution was tuned by, each with its reason and what was measured. None changes bits: how the
// work is shared out must not show.
#pragma once

#include <cstddef>

namespace fusedsplit {

// Operations for which one more worker is worth having; below that sharing costs more than it brings. Bits: no.
constexpr double kWorkPerWorker = 3e6;
// Operations for which a parked worker is woken: it comes 20 us late. Bits: no.
constexpr double kWorkToWake = 2e7;
// What reading a weight costs, in operations: with few rows it takes longer than the products. Bits: no.
constexpr double kWorkPerWeight = 16;

// Rows from which packing the kernels for the call pays: 2 to 5 % on wide and large from here on, while at 32
// to 256 rows packing costs 2 to 20 %. Bits: no.
constexpr ptrdiff_t kPackRows = 512;

// Rows from which it pays to put the operands of joins side by side: these are small, and reads of the source
// are saved as well. Bits: no.
constexpr ptrdiff_t kJoinRows = 128;

// Fewer rows than this for each worker are not worth cutting into blocks. Bits: no.
constexpr ptrdiff_t kFewRows = 48;

// Columns to which a Dense is cut where few rows leave nothing else to share out. Bits: no, since only inference does.
constexpr ptrdiff_t kFewColumns = 128;

// Where a stage is one chain and rows are few, workers share the columns of each Dense of so many operations or more,
// in parts of about so many columns: training steps of 32 rows by three Dense of 256, 512 and 1024 take 1.5, 1.7 and
// 1.6 times less with two threads; below that handing over costs what it brings. Bits: no.
constexpr double kSharedWork = 1e6;
constexpr ptrdiff_t kSharedColumns = 64;

// How much more than its share the longest chain of a stage may take of the work. Bits: no.
constexpr double kLopsided = 1.3;

// Rows of an output's gradient that are masked at a time, by all the steps that write the output: large
// tensors are read by whole rows. Bits: no.
constexpr ptrdiff_t kMaskedRows = 8;

// Elements of a param's gradient that are reduced as one task. Bits: no.
constexpr ptrdiff_t kReduceSize = 1 << 15;

// What one task of the second pass computes of a kernel's gradient: it stays in a level-2 cache, and so do the
// columns of A and of dZ that a block brings. Bits: no.
constexpr ptrdiff_t kSecondPassRows = 128;
constexpr ptrdiff_t kSecondPassColumns = 512;

}  // namespace fusedsplit
