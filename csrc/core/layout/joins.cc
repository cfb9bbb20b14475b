// Narrow products of one source that are computed as one.
#include <algorithm>
#include <map>
#include <tuple>

#include "core/layout/constants.h"
#include "core/layout/passes.h"
#include "core/layout/strides.h"

namespace fusedsplit {

namespace {

using Operands =
    std::vector<std::tuple<int, ptrdiff_t, ptrdiff_t, int>>;  // kernel, first column, columns, bias

Operands operands_of(const Layout& layout, const Join& join) {
  Operands operands;
  for (size_t i : join.nodes) {
    const Node& node = layout.nodes[i];
    operands.emplace_back(node.step.kernel, node.column, node.step.dst.width(), node.step.bias);
  }
  return operands;
}

}  // namespace

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
  std::map<Operands, ptrdiff_t> by_operands;  // their place, which the same ones of another source share
  const ptrdiff_t most = kJoinedToParams * layout.param_size;
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
    for (size_t i : join.nodes) layout.nodes[i].by_panels = true;
    const ptrdiff_t size = join.k * padded + padded;
    const auto [same, fresh] = by_operands.emplace(operands_of(layout, join), layout.joined_size);
    if (fresh && layout.joined_size + size > most) {
      by_operands.erase(same);
      continue;
    }
    join.packed = same->second;
    join.bias = join.packed + join.k * padded;
    join.fresh = fresh;
    if (fresh) layout.joined_size += size;
    layout.joined_width = std::max(layout.joined_width, padded);
    layout.join_kernel = std::max(layout.join_kernel, round_up(join.k * join.n, kPad));
    for (size_t i : join.nodes) layout.nodes[i].join = static_cast<int>(layout.joins.size());
    layout.joins.push_back(std::move(join));
  }
  return layout;
}

}  // namespace fusedsplit
