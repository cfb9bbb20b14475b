// The numbers that training was tuned by, each with its reason. "Bits": whether another number gives other bits.
#pragma once

#include <cstddef>

namespace fusedsplit {

// A step's products, in operations, from which its rows are cut into two shards; half of it makes another worker worth
// having: workers spin from step to step, so that a fork costs less than a microsecond. Bits: yes.
constexpr double kWorkOfTwoShards = 6e5;
// Rows of a shard at least: of two, and of more, whose sums would cost more than they bring with fewer. Bits: yes.
constexpr ptrdiff_t kLeastShardRows = 16;
constexpr ptrdiff_t kShardRows = 128;
// So many rows are one shard where workers can share its chains: each weight gradient is written once. Of plans that are
// nothing but chains, med, wide and large take 1.14, 1.08 and 1.21 times less at 64 rows, 1.06, 1.02 and 1.09 at 128
// (two threads). Others wait for what joins the chains: F(256) gains 1.15 at 32 rows and loses 2 % at 64. Bits: yes.
constexpr ptrdiff_t kOneShardRows = 128;
constexpr ptrdiff_t kOneShardFewRows = 48;
// Where chains that two workers share evenly are such a part of the work. Bits: yes, of few rows.
constexpr double kEvenShare = 0.8;
// What part of the workers shards alone must keep busy, or chains are shared. Bits: no.
constexpr double kBusyWorkers = 0.75;
// Elements of rows that are laid out, or turned from outputs into gradients, as one task, and its rows at least. Bits:
// yes, of losses, which are summed by these tasks.
constexpr ptrdiff_t kTaskElements = 1 << 12;
constexpr ptrdiff_t kLeastTaskRows = 8;

// Elements that are updated as one task, and of these a part at a time whose gradient stays in level 1. Bits: of the
// second, yes, where gradients are clipped by a norm.
constexpr ptrdiff_t kUpdateTask = 1 << 12;
constexpr ptrdiff_t kUpdatePart = 1 << 10;
// Elements of kernels that are packed as one task. Bits: no.
constexpr ptrdiff_t kPackTask = 1 << 13;

}  // namespace fusedsplit
