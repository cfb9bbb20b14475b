// Narrow products of one source that are computed as one.
#include <algorithm>
#include <map>
#include <tuple>

#include "core/layout/constants.h"
#include "core/layout/passes.h"
#include "core/layout/strides.h"

namespace fusedsplit {

Layout find_joins(Layout layout, ptrdiff_t unit) {
  const ptrdiff_t widest = kJoinedVectors * unit;
  const auto vectors = [unit](ptrdiff_t n) { return (n + unit - 1) / unit; };
  std::map<std::tuple<int, ptrdiff_t, ptrdiff_t>, Join> by_source;
  for (size_t i = 0; i < layout.nodes.size(); ++i) {
    const Step& step = layout.nodes[i].step;
    if (step.kind != StepKind::kDense || step.point >= 0 || step.dst.width() > widest) continue;
    const Range& source = step.sources[0].range;
    by_source[{source.value, source.start, source.stop}].nodes.push_back(i);
  }
  for (auto& [source, join] : by_source) {
    ptrdiff_t apart = 0;
    for (size_t i : join.nodes) {
      const ptrdiff_t n = layout.nodes[i].step.dst.width();
      apart += vectors(n);
      join.n += n;
    }
    // So few columns are sums over partial sums, not panels.
    if (join.n <= kDotMaxColumns) continue;
    if (join.nodes.size() < 2 || vectors(join.n) >= apart) continue;
    join.k = std::get<2>(source) - std::get<1>(source);
    const ptrdiff_t padded = round_up(join.n, kPad);
    join.packed = layout.joined_size;
    join.bias = layout.joined_size + join.k * padded;
    layout.joined_size = join.bias + padded;
    layout.joined_width = std::max(layout.joined_width, padded);
    layout.join_kernel = std::max(layout.join_kernel, round_up(join.k * join.n, kPad));
    for (size_t i : join.nodes) layout.nodes[i].join = static_cast<int>(layout.joins.size());
    layout.joins.push_back(std::move(join));
  }
  return layout;
}

}  // namespace fusedsplit
