// Which buffers share their place.
#include <algorithm>
#include <utility>

#include "core/layout/passes.h"

namespace fusedsplit {
namespace {

// From so many buffers in use at once on, which no model comes near, each later one has its own place: the search
// for a free one takes longer the more there are.
constexpr size_t kMostBuffers = size_t{1} << 14;

// Where a buffer is free again, the next one that is needed goes: buffers are then few, and warm.
class BufferPool {
 public:
  ptrdiff_t width() const { return width_; }

  // A place for a buffer in use from the `begin`-th node to the `end`-th, both included. Calls are in the
  // order of `begin`.
  ptrdiff_t take(ptrdiff_t ld, ptrdiff_t begin, ptrdiff_t end) {
    if (used_.size() >= kMostBuffers) return std::exchange(width_, width_ + ld);
    used_.erase(std::remove_if(used_.begin(), used_.end(), [&](const Used& u) { return u.end < begin; }),
                used_.end());
    ptrdiff_t offset = 0;
    auto at = used_.begin();
    for (; at != used_.end() && at->offset - offset < ld; ++at) offset = at->offset + at->ld;
    used_.insert(at, {offset, ld, end});
    width_ = std::max(width_, offset + ld);
    return offset;
  }

 private:
  struct Used {
    ptrdiff_t offset, ld, end;
  };
  std::vector<Used> used_;  // by offset
  ptrdiff_t width_ = 0;
};

}  // namespace

Layout reuse_buffers(Layout layout) {
  const ptrdiff_t count = static_cast<ptrdiff_t>(layout.nodes.size());
  std::vector<ptrdiff_t> first(layout.places.size(), -1),
      last(layout.places.size(), -1);  // nodes that touch a value
  for (ptrdiff_t n = 0; n < count; ++n) {
    const auto touch = [&](int value) {
      const size_t v = static_cast<size_t>(value);
      if (first[v] < 0) first[v] = n;
      last[v] = n;
    };
    const int fold = layout.nodes[static_cast<size_t>(n)].fold;
    if (fold >= 0) touch(layout.nodes[layout.folds[static_cast<size_t>(fold)].merge].step.dst.value);
    touch(layout.nodes[static_cast<size_t>(n)].step.dst.value);
    const int join = layout.nodes[static_cast<size_t>(n)].join;
    if (join >= 0) {  // all of it is written where the first of it is, and in use until the last
      const std::vector<size_t>& nodes = layout.joins[static_cast<size_t>(join)].nodes;
      if (static_cast<size_t>(n) == nodes.front() || static_cast<size_t>(n) == nodes.back())
        for (size_t i : nodes) touch(layout.nodes[i].step.dst.value);
    }
    for (const Source& s : layout.nodes[static_cast<size_t>(n)].step.sources) touch(s.range.value);
  }
  std::vector<char> elided(layout.places.size());
  for (const Node& node : layout.nodes)
    if (node.elided) elided[static_cast<size_t>(node.step.dst.value)] = 1;
  BufferPool values, grads;
  // Gradients of outputs, and those that start as zeros, are filled before the first node runs.
  for (size_t v = 0; v < layout.places.size(); ++v) {
    Place& place = layout.places[v];
    if (first[v] < 0 || place.role == Role::kInput) continue;
    if (place.role == Role::kOutput || place.grad_zeroed) place.grad = grads.take(place.ld, 0, count);
  }
  std::vector<size_t> starts(layout.places.size()), ends(layout.places.size());
  for (size_t v = 0; v < layout.places.size(); ++v) starts[v] = ends[v] = v;
  std::stable_sort(starts.begin(), starts.end(), [&](size_t a, size_t b) { return first[a] < first[b]; });
  std::stable_sort(ends.begin(), ends.end(), [&](size_t a, size_t b) { return last[a] > last[b]; });
  for (size_t v : starts)
    if (layout.places[v].role == Role::kHidden && first[v] >= 0 && !elided[v])
      layout.places[v].brief = values.take(layout.places[v].ld, first[v], last[v]);
  for (size_t v : ends)
    if (layout.places[v].role == Role::kHidden && first[v] >= 0 && !layout.places[v].grad_zeroed)
      layout.places[v].grad = grads.take(layout.places[v].ld, count - 1 - last[v], count - 1 - first[v]);
  layout.brief_width = values.width();
  layout.grad_width = grads.width();
  for (Place& place : layout.places) {
    if (place.role == Role::kInput) continue;
    place.own_grad = layout.own_grad_width;
    layout.own_grad_width += place.ld;
  }
  return layout;
}

}  // namespace fusedsplit
