#include "core/layout/layout.h"

#include <utility>

#include "core/layout/constants.h"
#include "core/layout/passes.h"
#include "core/runtime/assert.h"

namespace fusedsplit {
Layout make_layout(const Plan& plan, size_t bytes, ptrdiff_t most, bool own) {
  FUSEDSPLIT_ASSERT(bytes == sizeof(float) || bytes == sizeof(double));
  const ptrdiff_t unit = kCacheLine / static_cast<ptrdiff_t>(bytes);
  Layout layout = place_values(slice_plan(plan, unit, most), unit);
  layout = place_nodes(std::move(layout), unit);
  layout = place_params(std::move(layout), plan, own);
  layout = find_joins(std::move(layout), unit);
  layout = place_packings(std::move(layout));
  layout = find_folds(std::move(layout));
  layout = find_second_pass(std::move(layout), unit);
  layout = order_gradients(std::move(layout));
  layout = find_entries(std::move(layout));
  layout = find_masks(std::move(layout));
  layout = find_chains(std::move(layout));
  layout = reuse_buffers(std::move(layout));
  return size_blocks(std::move(layout), bytes);
}

}  // namespace fusedsplit
