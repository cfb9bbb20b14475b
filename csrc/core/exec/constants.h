// The numbers that execution was tuned by, each with its reason and what was measured. None changes bits: how the
// work is shared out must not show.
#pragma once

#include <cstddef>

namespace fusedsplit {

// Operations for which one more worker is worth having; below that sharing costs more than it brings. Bits: no.
constexpr double kWorkPerWorker = 3e6;
// At inference so many times less, since it hands over once: a frozen call of 8 rows on med takes 4.5 us and not 7.6, of 4
// rows 2.8 and not 4.0. With gradients a row of head would take 11.6 and not 6.4. Bits: no.
constexpr double kInferenceShares = 3;
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
// Nor are fewer than this at inference where all kernels together are so few bytes that each worker keeps its own copy
// of them in level 2: blocks hand over once, chains at each stage. 3 to 12 % on wide, frozen, with 8 to 90 rows, and the
// more the fewer chains there are. Bits: no.
constexpr ptrdiff_t kFewRowsCached = 4;
constexpr ptrdiff_t kCachedKernels = 1 << 19;

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
