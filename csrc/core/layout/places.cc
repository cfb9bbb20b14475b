// Where values and packed kernels live.
#include <algorithm>
#include <map>
#include <tuple>

#include "core/layout/constants.h"
#include "core/layout/passes.h"
#include "core/layout/strides.h"

namespace fusedsplit {

Layout place_values(Sliced sliced, ptrdiff_t unit) {
  Layout layout;
  layout.nodes = std::move(sliced.nodes);
  int inputs = 0, outputs = 0;
  for (const Value& value : sliced.values) {
    Place place;
    place.role = value.role;
    place.width = value.width;
    place.ld = buffer_ld(value.width, unit);
    place.kept_ld = kept_ld(value.width, unit);
    if (value.role == Role::kInput) place.index = inputs++;
    if (value.role == Role::kOutput) place.index = outputs++;
    if (value.role == Role::kHidden) {
      place.kept = layout.kept_width;
      layout.kept_width += place.kept_ld;
    }
    layout.places.push_back(place);
  }
  return layout;
}

ptrdiff_t merge_tile(ptrdiff_t sources) {
  return std::clamp<ptrdiff_t>(kMostMergeTerms / sources, 1, kMergeTile);
}

Layout place_nodes(Layout layout, ptrdiff_t unit) {
  for (const Node& node : layout.nodes)
    for (const Source& source : node.step.sources)
      layout.places[static_cast<size_t>(source.range.value)].read = true;
  for (Node& node : layout.nodes) {
    const Step& step = node.step;
    const bool activated = step.kind == StepKind::kDense || step.kind == StepKind::kMerge;
    if (activated && activation_grad_needs(step.activation.kind, step.activation.alpha) == GradNeeds::kPre) {
      node.pre = layout.kept_width;
      node.pre_ld = kept_ld(step.dst.width(), unit);
      layout.kept_width += node.pre_ld;
    }
    const ptrdiff_t count = static_cast<ptrdiff_t>(step.sources.size());
    if (step.kind == StepKind::kDense) {
      const ptrdiff_t k = step.sources[0].range.width(), n = step.dst.width();
      if (n <= kDotMaxColumns) layout.narrow_size = std::max(layout.narrow_size, k * kPad);
      if (step.point >= 0) layout.live_width = std::max(layout.live_width, buffer_ld(k, unit));
      layout.flops += 2.0 * static_cast<double>(k) * static_cast<double>(n);
    } else {
      layout.max_sources = std::max(layout.max_sources, count);
    }
    if (step.kind == StepKind::kMerge) {
      if (step.merge_op == MergeOp::kMul)
        layout.max_suffix = std::max(layout.max_suffix, count * merge_tile(count));
      layout.max_merge = std::max(layout.max_merge, step.dst.width());
    }
  }
  return layout;
}

Layout place_packings(Layout layout) {
  std::map<std::tuple<int, ptrdiff_t, ptrdiff_t>, int> known;  // kernel, first column, columns
  for (size_t i = 0; i < layout.nodes.size(); ++i) {
    Node& node = layout.nodes[i];
    const Step& step = node.step;
    if (step.kind != StepKind::kDense) continue;
    const ptrdiff_t k = step.sources[0].range.width(), n = step.dst.width();
    const int next = static_cast<int>(layout.packings.size());
    const auto [at, fresh] = known.emplace(std::make_tuple(step.kernel, node.column, n), next);
    node.packing = at->second;
    if (fresh) {
      layout.packings.push_back({i, layout.packed_size, false, !node.by_panels});
      // Enough for the kernel as forward reads it and for its transpose.
      layout.packed_size += std::max(k * round_up(n, kPad), n * round_up(k, kPad));
    } else {
      Packing& packing = layout.packings[static_cast<size_t>(node.packing)];
      packing.shared = true;
      packing.forward = packing.forward || !node.by_panels;
    }
  }
  return layout;
}

}  // namespace fusedsplit
