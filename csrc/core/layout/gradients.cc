// How gradients come in, pass through activations, and add up.
#include <algorithm>
#include <map>

#include "core/layout/passes.h"

namespace fusedsplit {
namespace {

// Whether the gradients of two steps pass through the same function of the same tensor.
bool same_entrance(const Step& a, const Step& b) {
  const auto activation = [](const Step& s) {
    return s.kind == StepKind::kDense || s.kind == StepKind::kMerge ? s.activation : Activation{};
  };
  const Activation x = activation(a), y = activation(b);
  return x.kind == y.kind && x.alpha == y.alpha && activation_grad_needs(x.kind, x.alpha) != GradNeeds::kPre;
}

}  // namespace

// For each gradient of a source: does it set its columns or add to them? A value whose columns are first
// written by halves, or not at all, or by sources of one node that only partly agree, starts as zeros and is
// only added to.
Layout order_gradients(Layout layout) {
  struct Set {
    ptrdiff_t stop;
    size_t node;
  };
  std::vector<std::map<ptrdiff_t, Set>> sets(
      layout.places.size());  // by value: start -> set; none meets another
  for (size_t i = layout.nodes.size(); i-- > 0;) {
    Node& node = layout.nodes[i];
    node.grad_add.assign(node.step.sources.size(), 0);
    for (size_t s = 0; s < node.step.sources.size(); ++s) {
      const Range& r = node.step.sources[s].range;
      bool& zeroed = layout.places[static_cast<size_t>(r.value)].grad_zeroed;
      if (zeroed) continue;
      auto& ranges = sets[static_cast<size_t>(r.value)];
      const auto after = ranges.upper_bound(r.start);
      const auto before = after == ranges.begin() ? ranges.end() : std::prev(after);
      if (before != ranges.end() && before->second.stop >= r.stop) {
        const bool same = before->first == r.start && before->second.stop == r.stop;
        zeroed = !same && before->second.node == i;
        node.grad_add[s] = 1;
        continue;
      }
      zeroed = (before != ranges.end() && before->second.stop > r.start) ||
               (after != ranges.end() && after->first < r.stop);
      if (!zeroed) ranges.emplace_hint(after, r.start, Set{r.stop, i});
    }
  }
  for (size_t v = 0; v < layout.places.size(); ++v) {
    ptrdiff_t columns = 0;
    for (const auto& [start, set] : sets[v]) columns += set.stop - start;
    if (columns != layout.places[v].width) layout.places[v].grad_zeroed = true;
  }
  for (Node& node : layout.nodes)
    for (size_t s = 0; s < node.step.sources.size(); ++s) {
      const Place& place = layout.places[static_cast<size_t>(node.step.sources[s].range.value)];
      if (place.grad_zeroed || place.role == Role::kOutput) node.grad_add[s] = 1;
    }
  return layout;
}

// The gradient of an output that no step reads enters through the activation of who wrote it. Neighbours
// with the same activation enter together: whole rows of large tensors are read at once.
Layout find_entries(Layout layout) {
  for (size_t n = 0; n < layout.nodes.size(); ++n) {
    const Step& step = layout.nodes[n].step;
    const Place& place = layout.places[static_cast<size_t>(step.dst.value)];
    if (place.role != Role::kOutput || place.read) continue;
    layout.nodes[n].masked = true;
    layout.entries.push_back({step.dst, n});
  }
  const auto position = [](const Entry& e) { return std::make_pair(e.range.value, e.range.start); };
  std::sort(layout.entries.begin(), layout.entries.end(),
            [&](const Entry& a, const Entry& b) { return position(a) < position(b); });
  size_t kept = 0;
  for (const Entry& entry : layout.entries) {
    Entry* before = kept ? &layout.entries[kept - 1] : nullptr;
    if (before && before->range.value == entry.range.value && before->range.stop == entry.range.start &&
        same_entrance(layout.nodes[before->node].step, layout.nodes[entry.node].step)) {
      before->range.stop = entry.range.stop;
    } else {
      layout.entries[kept++] = entry;
    }
  }
  layout.entries.resize(kept);
  return layout;
}

// Where a relu's output is read once, as a whole, by a Dense, that product's epilogue applies its
// derivative.
Layout find_masks(Layout layout) {
  const std::vector<int> reads = count_reads(layout.nodes, layout.places.size());
  std::vector<ptrdiff_t> writer(layout.places.size(), -1);
  for (size_t n = 0; n < layout.nodes.size(); ++n)
    writer[static_cast<size_t>(layout.nodes[n].step.dst.value)] = static_cast<ptrdiff_t>(n);
  for (Node& node : layout.nodes) {
    if (node.step.kind != StepKind::kDense || node.step.point >= 0) continue;
    const Range& r = node.step.sources[0].range;
    const size_t v = static_cast<size_t>(r.value);
    if (layout.places[v].role != Role::kHidden) continue;
    if (reads[v] != 1 || r.width() != layout.places[v].width || writer[v] < 0) continue;
    Node& from = layout.nodes[static_cast<size_t>(writer[v])];
    const bool relu = (from.step.kind == StepKind::kDense || from.step.kind == StepKind::kMerge) &&
                      from.step.activation.kind == ActivationKind::kRelu;
    if (relu && from.step.dst.width() == layout.places[v].width) from.masked = node.masks = true;
  }
  return layout;
}

}  // namespace fusedsplit
