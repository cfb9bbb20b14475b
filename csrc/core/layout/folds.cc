// Merges that are computed by the products which write their sources.
#include <algorithm>

#include "core/layout/constants.h"
#include "core/layout/passes.h"

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

// The terms of a Merge, if those who write its sources can fold them; else none. Only the first may be something
// else than a product, and writers must run in the order of the sources, of which two may change places.
std::vector<Fold::Term> fold_terms(const Layout& layout, const Step& step,
                                   const std::vector<std::vector<size_t>>& writers) {
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
      const Node& node = layout.nodes[n];
      const Range& dst = node.step.dst;
      const bool hidden = layout.places[static_cast<size_t>(dst.value)].role == Role::kHidden;
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
    const Range& dst = layout.nodes[n].step.dst;
    if (dst.start < first.stop && first.start < dst.stop) before = static_cast<ptrdiff_t>(n);
  }
  for (size_t t = 1; t < terms.size(); ++t) {
    if (terms[t].writer <= before) return {};
    before = terms[t].writer;
  }
  return terms;
}

}  // namespace

Layout find_folds(Layout layout) {
  const std::vector<int> reads = count_reads(layout.nodes, layout.places.size());
  const auto writers = writers_of(layout.nodes, layout.places.size());
  for (size_t m = 0; m < layout.nodes.size(); ++m) {
    Fold fold{m, fold_terms(layout, layout.nodes[m].step, writers)};
    if (fold.terms.empty()) continue;
    for (const Fold::Term& term : fold.terms) {
      if (term.writer < 0) continue;
      Node& node = layout.nodes[static_cast<size_t>(term.writer)];
      const Step& step = node.step;
      const size_t v = static_cast<size_t>(step.dst.value);
      node.fold = static_cast<int>(layout.folds.size());
      // The unit does it in registers, in one chunk of K.
      node.elided = at_most_relu(step.activation) && step.sources[0].range.width() <= kChunk &&
                    step.dst.width() > kDotMaxColumns && reads[v] == 1 &&
                    step.dst.width() == layout.places[v].width;
    }
    layout.nodes[m].folded = true;
    layout.folds.push_back(std::move(fold));
  }
  return layout;
}

}  // namespace fusedsplit
