#include "core/layout/layout.h"

#include <algorithm>

#include "core/microkernels/kernels.h"

namespace fusedsplit {
namespace {

// Rows of a block in training: one chunk of K for the weight gradients; fewer where a worker's panels would
// take more than this, which costs large 2 % (each block reads and writes the kernel's gradient once more).
constexpr ptrdiff_t kMostRows = kChunk;
constexpr ptrdiff_t kLeastRows = 96;
constexpr ptrdiff_t kMostPanelBytes = ptrdiff_t{960} << 10;
// Rows from which there are two lanes: both directions of every case take 0.67 to 0.77 of the time at 96 to 256
// rows that chains side by side take, and 1.05 to 1.1 at 64 (two threads).
constexpr ptrdiff_t kTwoLanes = 80;
// Weight gradients are summed in this many lanes at most.
constexpr ptrdiff_t kMostLanes = 16;
// What all lanes together may take, though two or more are used whatever they take.
constexpr ptrdiff_t kMostLaneBytes = ptrdiff_t{16} << 20;

// Elements of a kernel from which its gradient is left for the second pass, where all params have so many that
// lanes of them would not stay in cache: 13 % of 16 + 4 x 1 MiB of kernels; 4 + 4 MiB gain 1 % at 4096 rows and lose
// 4 % at 512, 2 + 0.5 MiB lose up to 9 %.
constexpr ptrdiff_t kLaterSize = ptrdiff_t{1} << 18;
constexpr ptrdiff_t kLaterTotal = ptrdiff_t{3} << 20;

// Also the longest vector.
constexpr ptrdiff_t kCacheLine = 64;

// The stride of a panel: an odd number of cache lines, so that a column of it spreads over all sets, unless
// a tile reads it whole.
ptrdiff_t panel_ld(ptrdiff_t width, ptrdiff_t unit) {
  const ptrdiff_t ld = round_up(width, unit);
  return width <= 3 * unit || ld / unit % 2 ? ld : ld + unit;
}

// Where a panel is free again, the next one that is needed goes: panels are then few, and warm.
class PanelPool {
 public:
  ptrdiff_t width() const { return width_; }

  // A place for a panel in use from the `begin`-th node to the `end`-th, both included. Calls are in the
  // order of `begin`.
  ptrdiff_t take(ptrdiff_t ld, ptrdiff_t begin, ptrdiff_t end) {
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

// What is kept for backward goes to memory and back, so it is packed closer; but never a multiple of 1 KiB.
ptrdiff_t kept_ld(ptrdiff_t width, ptrdiff_t unit) {
  const ptrdiff_t ld = round_up(width, unit);
  return ld / unit % 16 ? ld : ld + unit;
}

// Whether the gradients of two steps pass through the same function of the same tensor.
bool same_entrance(const Step& a, const Step& b) {
  const auto activation = [](const Step& s) {
    return s.kind == StepKind::kDense || s.kind == StepKind::kMerge ? s.activation : Activation{};
  };
  const Activation x = activation(a), y = activation(b);
  return x.kind == y.kind && x.alpha == y.alpha && activation_grad_needs(x.kind, x.alpha) != GradNeeds::kPre;
}

}  // namespace

Layout::Layout(const Plan& plan, size_t bytes, ptrdiff_t most) {
  const ptrdiff_t unit = kCacheLine / static_cast<ptrdiff_t>(bytes);
  Sliced sliced = slice_plan(plan, unit, most);
  nodes = std::move(sliced.nodes);
  place_values(sliced.values, unit);
  place_nodes(unit);
  find_joins(unit);
  find_folds();
  place_params(plan);
  find_later(unit);
  order_gradients();
  find_entries();
  find_masks();
  find_chains();
  reuse_panels();
  size_blocks(bytes);
}

void Layout::place_values(const std::vector<Value>& values, ptrdiff_t unit) {
  int inputs = 0, outputs = 0;
  for (const Value& value : values) {
    Place place;
    place.role = value.role;
    place.width = value.width;
    place.ld = panel_ld(value.width, unit);
    place.kept_ld = kept_ld(value.width, unit);
    if (value.role == Role::kInput) place.index = inputs++;
    if (value.role == Role::kOutput) place.index = outputs++;
    if (value.role == Role::kHidden) {
      place.kept = kept_width;
      kept_width += place.kept_ld;
    }
    places.push_back(place);
  }
}

void Layout::place_nodes(ptrdiff_t unit) {
  for (const Node& node : nodes)
    for (const Source& source : node.step.sources)
      places[static_cast<size_t>(source.range.value)].read = true;
  for (Node& node : nodes) {
    const Step& step = node.step;
    const bool activated = step.kind == StepKind::kDense || step.kind == StepKind::kMerge;
    if (activated && activation_grad_needs(step.activation.kind, step.activation.alpha) == GradNeeds::kPre) {
      node.pre = kept_width;
      node.pre_ld = kept_ld(step.dst.width(), unit);
      kept_width += node.pre_ld;
    }
    const ptrdiff_t count = static_cast<ptrdiff_t>(step.sources.size());
    if (step.kind == StepKind::kDense) {
      const ptrdiff_t k = step.sources[0].range.width(), n = step.dst.width();
      node.packed = packed_size;
      // Enough for the kernel as forward reads it and for its transpose.
      packed_size += std::max(k * round_up(n, kPad), n * round_up(k, kPad));
      if (n <= kDotMaxColumns) narrow_size = std::max(narrow_size, k * kPad);
      if (step.point >= 0) masked_width = std::max(masked_width, panel_ld(k, unit));
      flops += 2.0 * static_cast<double>(k) * static_cast<double>(n);
    } else {
      max_sources = std::max(max_sources, count);
    }
    if (step.kind == StepKind::kMerge) {
      if (step.merge_op == MergeOp::kMul) max_suffix = std::max(max_suffix, count * kMergeTile);
      max_merge = std::max(max_merge, step.dst.width());
    }
  }
}

void Layout::place_params(const Plan& plan) {
  constexpr int kNobody = -1;
  std::vector<int> user(plan.params.size(), kNobody);
  std::vector<ptrdiff_t> covered(plan.params.size());  // columns whose gradient some node computes
  params.resize(plan.params.size());
  for (size_t i = 0; i < plan.params.size(); ++i) {
    params[i].cols = plan.params[i].cols;
    param_size += round_up(plan.params[i].size(), kPad);
  }
  for (const Node& node : nodes) {
    const Step& step = node.step;
    int roles = 0;
    for (int param : {step.kernel, step.bias, step.gain.param, step.shift.param}) {
      // The nodes of one step use different columns of a param; but one param may be both gain and shift.
      const int id = node.origin * 4 + roles++;
      if (param < 0) continue;
      int& first = user[static_cast<size_t>(param)];
      ParamPlace& place = params[static_cast<size_t>(param)];
      if (first != kNobody && first != id) place.zeroed = place.shared = true;
      first = id;
      covered[static_cast<size_t>(param)] += step.dst.width();
    }
    if (step.point >= 0) params[static_cast<size_t>(step.kernel)].zeroed = true;
  }
  for (size_t i = 0; i < plan.params.size(); ++i) {
    ParamPlace& place = params[i];
    if (covered[i] < place.cols) place.zeroed = true;
    place.later = param_size >= kLaterTotal && plan.params[i].rank == 2 &&
                  plan.params[i].size() >= kLaterSize && !place.zeroed;
    if (place.later) continue;
    place.offset = lane_size;
    lane_size += round_up(plan.params[i].size(), kPad);
  }
}

void Layout::find_later(ptrdiff_t unit) {
  for (size_t n = 0; n < nodes.size(); ++n) {
    Node& node = nodes[n];
    const Step& step = node.step;
    if (step.kind != StepKind::kDense || !params[static_cast<size_t>(step.kernel)].later) continue;
    node.later = static_cast<int>(later.size());
    later.push_back({n, later_width, panel_ld(step.dst.width(), unit)});
    later_width += later.back().ld;
  }
}

// For each gradient of a source: does it set its columns or add to them? A value whose columns are first
// written by halves, or not at all, or by sources of one node that only partly agree, starts as zeros and is
// only added to.
void Layout::order_gradients() {
  struct Set {
    ptrdiff_t start, stop;
    size_t node;
  };
  std::vector<std::vector<Set>> sets(places.size());
  for (size_t i = nodes.size(); i-- > 0;) {
    Node& node = nodes[i];
    node.grad_add.assign(node.step.sources.size(), 0);
    for (size_t s = 0; s < node.step.sources.size(); ++s) {
      const Range& r = node.step.sources[s].range;
      bool& zeroed = places[static_cast<size_t>(r.value)].grad_zeroed;
      auto& ranges = sets[static_cast<size_t>(r.value)];
      bool covered = false, overlaps = false;
      for (const Set& set : ranges) {
        const bool same = set.start == r.start && set.stop == r.stop;
        const bool meets = set.start < r.stop && r.start < set.stop;
        covered = covered || (set.start <= r.start && r.stop <= set.stop);
        overlaps = overlaps || meets;
        zeroed = zeroed || (meets && !same && set.node == i);
      }
      node.grad_add[s] = covered;
      if (covered) continue;
      zeroed = zeroed || overlaps;
      ranges.push_back({r.start, r.stop, i});
    }
  }
  for (size_t v = 0; v < places.size(); ++v) {
    ptrdiff_t columns = 0;
    for (const Set& set : sets[v]) columns += set.stop - set.start;
    if (columns != places[v].width) places[v].grad_zeroed = true;
  }
  for (Node& node : nodes)
    for (size_t s = 0; s < node.step.sources.size(); ++s) {
      const Place& place = places[static_cast<size_t>(node.step.sources[s].range.value)];
      if (place.grad_zeroed || place.role == Role::kOutput) node.grad_add[s] = 1;
    }
}

// The gradient of an output that no step reads enters through the activation of who wrote it. Neighbours
// with the same activation enter together: whole rows of large tensors are read at once.
void Layout::find_entries() {
  for (size_t n = 0; n < nodes.size(); ++n) {
    const Step& step = nodes[n].step;
    const Place& place = places[static_cast<size_t>(step.dst.value)];
    if (place.role != Role::kOutput || place.read) continue;
    nodes[n].masked = true;
    entries.push_back({step.dst, n});
  }
  const auto position = [](const Entry& e) { return std::make_pair(e.range.value, e.range.start); };
  std::sort(entries.begin(), entries.end(),
            [&](const Entry& a, const Entry& b) { return position(a) < position(b); });
  size_t kept = 0;
  for (const Entry& entry : entries) {
    Entry* before = kept ? &entries[kept - 1] : nullptr;
    if (before && before->range.value == entry.range.value && before->range.stop == entry.range.start &&
        same_entrance(nodes[before->node].step, nodes[entry.node].step)) {
      before->range.stop = entry.range.stop;
    } else {
      entries[kept++] = entry;
    }
  }
  entries.resize(kept);
}

void Layout::find_chains() {
  for (size_t n = 0; n < nodes.size(); ++n) {
    if (stages.size() <= static_cast<size_t>(nodes[n].stage)) stages.emplace_back();
    std::vector<Chain>& chains = stages.back();
    if (chains.size() <= static_cast<size_t>(nodes[n].chain)) chains.push_back({n, n});
    chains.back().end = n + 1;
  }
  for (const std::vector<Chain>& chains : stages) find_deferred(chains.front().begin, chains.back().end);
  for (const ParamPlace& param : params) parallel_gradients = parallel_gradients && !param.shared;
}

// Within one stage: the gradients that several chains add to. What a chain has left for later cannot be used
// by its own earlier nodes, so a value that the stage itself writes must not be one of these.
void Layout::find_deferred(size_t begin, size_t end) {
  constexpr int kNobody = -1, kSeveral = -2;
  std::vector<int> giver(places.size(), kNobody);
  for (size_t n = begin; n < end; ++n)
    for (const Source& s : nodes[n].step.sources) {
      int& chain = giver[static_cast<size_t>(s.range.value)];
      chain = chain == kNobody || chain == nodes[n].chain ? nodes[n].chain : kSeveral;
    }
  for (size_t n = begin; n < end; ++n) {
    Node& node = nodes[n];
    bool shares = false;
    for (const Source& s : node.step.sources)
      shares = shares || giver[static_cast<size_t>(s.range.value)] == kSeveral;
    node.defers = shares && node.step.kind == StepKind::kDense && node.step.point < 0;
    const bool written = giver[static_cast<size_t>(node.step.dst.value)] == kSeveral;
    if (written || shares != node.defers) parallel_gradients = false;
  }
}

void Layout::reuse_panels() {
  const ptrdiff_t count = static_cast<ptrdiff_t>(nodes.size());
  std::vector<ptrdiff_t> first(places.size(), -1), last(places.size(), -1);  // nodes that touch a value
  for (ptrdiff_t n = 0; n < count; ++n) {
    const auto touch = [&](int value) {
      const size_t v = static_cast<size_t>(value);
      if (first[v] < 0) first[v] = n;
      last[v] = n;
    };
    const int fold = nodes[static_cast<size_t>(n)].fold;
    if (fold >= 0) touch(nodes[folds[static_cast<size_t>(fold)].merge].step.dst.value);
    touch(nodes[static_cast<size_t>(n)].step.dst.value);
    const int join = nodes[static_cast<size_t>(n)].join;
    if (join >= 0)  // all of it is written where the first of it is
      for (size_t i : joins[static_cast<size_t>(join)].nodes) touch(nodes[i].step.dst.value);
    for (const Source& s : nodes[static_cast<size_t>(n)].step.sources) touch(s.range.value);
  }
  std::vector<char> elided(places.size());
  for (const Node& node : nodes)
    if (node.elided) elided[static_cast<size_t>(node.step.dst.value)] = 1;
  PanelPool values, grads;
  // Gradients of outputs, and those that start as zeros, are filled before the first node runs.
  for (size_t v = 0; v < places.size(); ++v) {
    Place& place = places[v];
    if (first[v] < 0 || place.role == Role::kInput) continue;
    if (place.role == Role::kOutput || place.grad_zeroed) place.grad = grads.take(place.ld, 0, count);
  }
  std::vector<size_t> starts(places.size()), ends(places.size());
  for (size_t v = 0; v < places.size(); ++v) starts[v] = ends[v] = v;
  std::stable_sort(starts.begin(), starts.end(), [&](size_t a, size_t b) { return first[a] < first[b]; });
  std::stable_sort(ends.begin(), ends.end(), [&](size_t a, size_t b) { return last[a] > last[b]; });
  for (size_t v : starts)
    if (places[v].role == Role::kHidden && first[v] >= 0 && !elided[v])
      places[v].brief = values.take(places[v].ld, first[v], last[v]);
  for (size_t v : ends)
    if (places[v].role == Role::kHidden && first[v] >= 0 && !places[v].grad_zeroed)
      places[v].grad = grads.take(places[v].ld, count - 1 - last[v], count - 1 - first[v]);
  brief_width = values.width();
  grad_width = grads.width();
  for (Place& place : places) {
    if (place.role == Role::kInput) continue;
    place.own_grad = own_grad_width;
    own_grad_width += place.ld;
  }
}

void Layout::size_blocks(size_t bytes) {
  ptrdiff_t outside = 0;  // columns of the caller's tensors that are read; outputs only pass through
  for (const Place& place : places)
    if (place.role != Role::kHidden && place.read) outside += place.width;
  // A block's values are to stay in a level-2 cache of which this is about a third, its kernels taking more.
  const ptrdiff_t budget = (ptrdiff_t{384} << 10) / static_cast<ptrdiff_t>(bytes);
  const auto fit = [&](ptrdiff_t width, ptrdiff_t least) {
    return std::min(kMostRows, std::max(least, budget / std::max<ptrdiff_t>(width, 1)));
  };
  // Whole tiles of 12 rows.
  brief_rows = std::max<ptrdiff_t>(fit(brief_width + outside, 48) / 12 * 12, 12);
  const ptrdiff_t panels = kept_width + grad_width + 2 * masked_width + joined_width;
  const ptrdiff_t rows = kMostPanelBytes / static_cast<ptrdiff_t>(bytes) / std::max<ptrdiff_t>(panels, 1);
  kept_rows = std::clamp(rows / 16 * 16, kLeastRows, kMostRows);
  // Absurdly wide plans: bounded scratch matters more than speed.
  const ptrdiff_t most = (ptrdiff_t{64} << 20) / static_cast<ptrdiff_t>(bytes);
  brief_rows = std::max<ptrdiff_t>(1, std::min(brief_rows, most / std::max<ptrdiff_t>(brief_width, 1)));
  kept_rows =
      std::max<ptrdiff_t>(1, std::min(kept_rows, most / std::max<ptrdiff_t>(kept_width + grad_width, 1)));
  const ptrdiff_t lane = lane_size + (later.empty() ? 0 : (later_width + kept_width) * kept_rows);
  const ptrdiff_t lane_bytes = std::max<ptrdiff_t>(1, lane * static_cast<ptrdiff_t>(bytes));
  most_lanes = kMostLanes;
  while (most_lanes > 2 && most_lanes * lane_bytes > kMostLaneBytes) most_lanes /= 2;
}

Blocks::Blocks(const Layout& layout, ptrdiff_t n) : rows(n), block_rows(layout.kept_rows) {
  // A power of two, for an even share of the work.
  if (rows >= kTwoLanes) lanes = 2;
  while (lanes < layout.most_lanes && lanes * kChunk < rows) lanes *= 2;
}

ptrdiff_t Blocks::lane_blocks(ptrdiff_t lane) const {
  const ptrdiff_t count = lane_begin(lane + 1) - lane_begin(lane);
  return (count + block_rows - 1) / block_rows;
}

ptrdiff_t Blocks::block_begin(ptrdiff_t lane, ptrdiff_t block) const {
  const ptrdiff_t begin = lane_begin(lane), count = lane_begin(lane + 1) - begin, blocks = lane_blocks(lane);
  return blocks ? begin + count * block / blocks : begin;
}

BlockList::BlockList(const Blocks& blocks) : blocks_(blocks), first_{0} {
  for (ptrdiff_t lane = 0; lane < blocks.lanes; ++lane)
    first_.push_back(first_.back() + blocks.lane_blocks(lane));
}

BlockRows BlockList::at(ptrdiff_t i) const {
  const ptrdiff_t lane = std::upper_bound(first_.begin(), first_.end(), i) - first_.begin() - 1;
  const ptrdiff_t block = i - first_[static_cast<size_t>(lane)];
  return {blocks_.block_begin(lane, block), blocks_.block_begin(lane, block + 1)};
}

}  // namespace fusedsplit
