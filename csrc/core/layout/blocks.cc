#include "core/layout/blocks.h"

#include <algorithm>

#include "core/layout/constants.h"
#include "core/layout/passes.h"
#include "core/runtime/assert.h"

namespace fusedsplit {
Layout size_blocks(Layout layout, size_t bytes) {
  ptrdiff_t outside = 0;  // columns of the caller's tensors that are read; outputs only pass through
  for (const Place& place : layout.places)
    if (place.role != Role::kHidden && place.read) outside += place.width;
  const ptrdiff_t budget = kBriefBytes / static_cast<ptrdiff_t>(bytes);
  const auto fit = [&](ptrdiff_t width, ptrdiff_t least) {
    return std::min(kMostRows, std::max(least, budget / std::max<ptrdiff_t>(width, 1)));
  };
  layout.brief_rows = std::max<ptrdiff_t>(
      fit(layout.brief_width + outside, kLeastBriefRows) / kBriefRowsUnit * kBriefRowsUnit, kBriefRowsUnit);
  const ptrdiff_t buffers =
      layout.kept_width + layout.grad_width + 2 * layout.live_width + layout.joined_width;
  const ptrdiff_t rows = kMostBufferBytes / static_cast<ptrdiff_t>(bytes) / std::max<ptrdiff_t>(buffers, 1);
  layout.kept_rows = std::clamp(rows / kKeptRowsUnit * kKeptRowsUnit, kLeastRows, kMostRows);
  // Absurdly wide plans: bounded scratch matters more than speed.
  const ptrdiff_t most = kMostBlockBytes / static_cast<ptrdiff_t>(bytes);
  // The temporaries of either have the rows of both.
  const ptrdiff_t brief = layout.brief_width + 2 * layout.live_width + layout.joined_width;
  layout.brief_rows =
      std::max<ptrdiff_t>(1, std::min(layout.brief_rows, most / std::max<ptrdiff_t>(brief, 1)));
  layout.kept_rows =
      std::max<ptrdiff_t>(1, std::min(layout.kept_rows, most / std::max<ptrdiff_t>(buffers, 1)));
  const ptrdiff_t shard =
      layout.shard_size +
      (layout.second_pass.empty() ? 0 : (layout.second_pass_width + layout.kept_width) * layout.kept_rows);
  const ptrdiff_t shard_bytes = std::max<ptrdiff_t>(1, shard * static_cast<ptrdiff_t>(bytes));
  layout.most_shards = kMostShards;
  while (layout.most_shards > 2 && layout.most_shards * shard_bytes > kMostShardBytes)
    layout.most_shards /= 2;
  return layout;
}

Blocks::Blocks(const Layout& layout, ptrdiff_t n) : rows(n), block_rows(layout.kept_rows) {
  // A power of two, for an even share of the work.
  if (rows >= kTwoShards) shards = 2;
  while (shards < layout.most_shards && shards * kChunk < rows) shards *= 2;
}

Blocks::Blocks(const Layout& layout, ptrdiff_t n, ptrdiff_t count)
    : rows(n), shards(count), block_rows(layout.kept_rows) {}

ptrdiff_t Blocks::shard_blocks(ptrdiff_t shard) const {
  const ptrdiff_t count = shard_begin(shard + 1) - shard_begin(shard);
  return (count + block_rows - 1) / block_rows;
}

ptrdiff_t Blocks::block_begin(ptrdiff_t shard, ptrdiff_t block) const {
  FUSEDSPLIT_ASSERT(0 <= shard && shard < shards && 0 <= block && block <= shard_blocks(shard));
  const ptrdiff_t begin = shard_begin(shard), count = shard_begin(shard + 1) - begin,
                  blocks = shard_blocks(shard);
  return blocks ? begin + count * block / blocks : begin;
}

BlockList::BlockList(const Blocks& blocks) : blocks_(blocks), first_{0} {
  for (ptrdiff_t shard = 0; shard < blocks.shards; ++shard)
    first_.push_back(first_.back() + blocks.shard_blocks(shard));
}

BlockRows BlockList::at(ptrdiff_t i) const {
  FUSEDSPLIT_ASSERT(0 <= i && i < count());
  const ptrdiff_t shard = std::upper_bound(first_.begin(), first_.end(), i) - first_.begin() - 1;
  const ptrdiff_t block = i - first_[static_cast<size_t>(shard)];
  return {blocks_.block_begin(shard, block), blocks_.block_begin(shard, block + 1)};
}

}  // namespace fusedsplit
