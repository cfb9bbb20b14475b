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

// Elements that are updated as one task, and of these a part at a time whose gradient stays in level 1. Bits: of the
// second, yes, where gradients are clipped by a norm.
constexpr ptrdiff_t kUpdateTask = 1 << 12;
constexpr ptrdiff_t kUpdatePart = 1 << 10;
// Elements of packed kernels from which workers share their packing. Bits: no.
constexpr ptrdiff_t kSharedPacking = 1 << 16;

}  // namespace fusedsplit
