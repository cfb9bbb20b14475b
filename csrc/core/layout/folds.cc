// What of a layout is computed together: joins, folds, and derivatives in a product's epilogue.
#include <algorithm>
#include <map>
#include <tuple>

#include "core/layout/layout.h"
#include "core/microkernels/kernels.h"

namespace fusedsplit {
namespace {

bool at_most_relu(const Activation& activation) {
  return activation.kind == ActivationKind::kLinear || activation.kind == ActivationKind::kRelu;
}

// Those that units fold, which also commute.
bool foldable(MergeOp op) { return op == MergeOp::kAdd || op == MergeOp::kMul; }

// By value, the nodes that write it, in order.
std::vector<std::vector<size_t>> writers_of(const std::vector<Node>& nodes, size_t values) {
  std::vector<std::vector<size_t>> writers(values);
  for (size_t n = 0; n < nodes.size(); ++n)
    writers[static_cast<size_t>(nodes[n].step.dst.value)].push_back(n);
  return writers;
}

// By value, how many sources read it.
std::vector<int> count_reads(const std::vector<Node>& nodes, size_t values) {
  std::vector<int> reads(values);
  for (const Node& node : nodes)
    for (const Source& s : node.step.sources) ++reads[static_cast<size_t>(s.range.value)];
  return reads;
}

}  // namespace

void Layout::find_joins(ptrdiff_t unit) {
  // Wider ones waste little of their last vector.
  const ptrdiff_t widest = 2 * unit;
  const auto vectors = [unit](ptrdiff_t n) { return (n + unit - 1) / unit; };
  std::map<std::tuple<int, ptrdiff_t, ptrdiff_t>, Join> by_source;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Step& step = nodes[i].step;
    if (step.kind != StepKind::kDense || step.point >= 0 || step.dst.width() > widest) continue;
    const Range& source = step.sources[0].range;
    by_source[{source.value, source.start, source.stop}].nodes.push_back(i);
  }
  for (auto& [source, join] : by_source) {
    ptrdiff_t apart = 0;
    for (size_t i : join.nodes) {
      const ptrdiff_t n = nodes[i].step.dst.width();
      apart += vectors(n);
      join.n += n;
    }
    // So few columns are sums over partial sums, not panels.
    if (join.n <= kDotMaxColumns) continue;
    if (join.nodes.size() < 2 || vectors(join.n) >= apart) continue;
    join.k = std::get<2>(source) - std::get<1>(source);
    const ptrdiff_t padded = round_up(join.n, kPad);
    join.packed = joined_size;
    join.bias = joined_size + join.k * padded;
    joined_size = join.bias + padded;
    joined_width = std::max(joined_width, padded);
    join_kernel = std::max(join_kernel, round_up(join.k * join.n, kPad));
    for (size_t i : join.nodes) nodes[i].join = static_cast<int>(joins.size());
    joins.push_back(std::move(join));
  }
}

// The terms of a Merge, if those who write its sources can fold them; else none. Only the first may be something
// else than a product, and writers must run in the order of the sources, of which two may change places.
std::vector<Fold::Term> Layout::fold_terms(const Step& step,
                                           const std::vector<std::vector<size_t>>& writers) const {
  const bool plain = step.kind == StepKind::kMerge && foldable(step.merge_op) &&
                     step.gain.kind == OperandKind::kNone && step.shift.kind == OperandKind::kNone &&
                     at_most_relu(step.activation);
  if (!plain) return {};
  const auto writers_of_value = [&](const Range& r) -> const std::vector<size_t>& {
    return writers[static_cast<size_t>(r.value)];
  };
  // The node whose product is exactly this range of a hidden value, and free to be folded.
  const auto product_of = [&](const Range& range) {
    for (size_t n : writers_of_value(range)) {
      const Node& node = nodes[n];
      const Range& dst = node.step.dst;
      const bool hidden = places[static_cast<size_t>(dst.value)].role == Role::kHidden;
      const bool free = node.step.kind == StepKind::kDense && node.join < 0 && node.fold < 0;
      if (hidden && free && dst.start == range.start && dst.stop == range.stop)
        return static_cast<ptrdiff_t>(n);
    }
    return ptrdiff_t{-1};
  };
  std::vector<Fold::Term> terms;
  for (size_t s = 0; s < step.sources.size(); ++s) {
    const Range& range = step.sources[s].range;
    if (range.width() != step.dst.width()) return {};
    terms.push_back({s, product_of(range)});
  }
  if (terms.size() == 2 && terms[1].writer < terms[0].writer) std::swap(terms[0], terms[1]);
  if (terms.back().writer < 0) return {};
  ptrdiff_t before = -1;  // the last that writes columns of the first source; an input has none
  const Range& first = step.sources[terms[0].source].range;
  for (size_t n : writers_of_value(first)) {
    const Range& dst = nodes[n].step.dst;
    if (dst.start < first.stop && first.start < dst.stop) before = static_cast<ptrdiff_t>(n);
  }
  for (size_t t = 1; t < terms.size(); ++t) {
    if (terms[t].writer <= before) return {};
    before = terms[t].writer;
  }
  return terms;
}

void Layout::find_folds() {
  const std::vector<int> reads = count_reads(nodes, places.size());
  const auto writers = writers_of(nodes, places.size());
  for (size_t m = 0; m < nodes.size(); ++m) {
    Fold fold{m, fold_terms(nodes[m].step, writers)};
    if (fold.terms.empty()) continue;
    for (const Fold::Term& term : fold.terms) {
      if (term.writer < 0) continue;
      Node& node = nodes[static_cast<size_t>(term.writer)];
      const Step& step = node.step;
      const size_t v = static_cast<size_t>(step.dst.value);
      node.fold = static_cast<int>(folds.size());
      // The unit does it in registers, in one chunk of K.
      node.elided = at_most_relu(step.activation) && step.sources[0].range.width() <= kChunk &&
                    step.dst.width() > kDotMaxColumns && reads[v] == 1 && step.dst.width() == places[v].width;
    }
    nodes[m].folded = true;
    folds.push_back(std::move(fold));
  }
}

// Where a relu's output is read once, as a whole, by a Dense, that product's epilogue applies its
// derivative.
void Layout::find_masks() {
  const std::vector<int> reads = count_reads(nodes, places.size());
  std::vector<ptrdiff_t> writer(places.size(), -1);
  for (size_t n = 0; n < nodes.size(); ++n)
    writer[static_cast<size_t>(nodes[n].step.dst.value)] = static_cast<ptrdiff_t>(n);
  for (Node& node : nodes) {
    const Range& r = node.step.sources[0].range;
    const size_t v = static_cast<size_t>(r.value);
    if (node.step.kind != StepKind::kDense || node.step.point >= 0 || places[v].role != Role::kHidden)
      continue;
    if (reads[v] != 1 || r.width() != places[v].width || writer[v] < 0) continue;
    Node& from = nodes[static_cast<size_t>(writer[v])];
    const bool relu = (from.step.kind == StepKind::kDense || from.step.kind == StepKind::kMerge) &&
                      from.step.activation.kind == ActivationKind::kRelu;
    if (relu && from.step.dst.width() == places[v].width) from.masked = node.masks = true;
  }
}

}  // namespace fusedsplit
