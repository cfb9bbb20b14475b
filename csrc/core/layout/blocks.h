// How rows are cut into shards and blocks.
#pragma once

#include <vector>

#include "core/layout/layout.h"

namespace fusedsplit {

// How rows are cut in training. It depends on the number of rows alone, never on threads, since weight
// gradients are sums over blocks and then over shards.
struct Blocks {
  Blocks(const Layout& layout, ptrdiff_t rows);
  Blocks(const Layout& layout, ptrdiff_t rows, ptrdiff_t shards);

  ptrdiff_t rows = 0;
  ptrdiff_t shards = 1;
  ptrdiff_t block_rows = 1;

  ptrdiff_t shard_begin(ptrdiff_t shard) const { return rows * shard / shards; }
  ptrdiff_t shard_blocks(ptrdiff_t shard) const;
  // First row of a block of a shard; with block = shard_blocks(shard), the end of the shard.
  ptrdiff_t block_begin(ptrdiff_t shard, ptrdiff_t block) const;
};

struct BlockRows {
  ptrdiff_t begin, end;
};

// The blocks of all shards, one after another.
class BlockList {
 public:
  explicit BlockList(const Blocks& blocks);
  ptrdiff_t count() const { return first_.back(); }
  BlockRows at(ptrdiff_t i) const;

 private:
  Blocks blocks_;
  std::vector<ptrdiff_t> first_;  // by shard: its first block; and the number of all blocks
};

}  // namespace fusedsplit
