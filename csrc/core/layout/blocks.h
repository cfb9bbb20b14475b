// How rows are cut into lanes and blocks.
#pragma once

#include <vector>

#include "core/layout/layout.h"

namespace fusedsplit {

// How rows are cut in training. It depends on the number of rows alone, never on threads, since weight
// gradients are sums over blocks and then over lanes.
struct Blocks {
  Blocks(const Layout& layout, ptrdiff_t rows);

  ptrdiff_t rows = 0;
  ptrdiff_t lanes = 1;
  ptrdiff_t block_rows = 1;

  ptrdiff_t lane_begin(ptrdiff_t lane) const { return rows * lane / lanes; }
  ptrdiff_t lane_blocks(ptrdiff_t lane) const;
  // First row of a block of a lane; with block = lane_blocks(lane), the end of the lane.
  ptrdiff_t block_begin(ptrdiff_t lane, ptrdiff_t block) const;
};

struct BlockRows {
  ptrdiff_t begin, end;
};

// The blocks of all lanes, one after another.
class BlockList {
 public:
  explicit BlockList(const Blocks& blocks);
  ptrdiff_t count() const { return first_.back(); }
  BlockRows at(ptrdiff_t i) const;

 private:
  Blocks blocks_;
  std::vector<ptrdiff_t> first_;  // by lane: its first block; and the number of all blocks
};

}  // namespace fusedsplit
