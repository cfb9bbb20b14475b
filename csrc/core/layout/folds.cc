// Merges that are computed by the products which write their sources.
#include <algorithm>
#include <map>

#include "core/layout/constants.h"
#include "core/layout/passes.h"

namespace fusedsplit {
namespace {

bool at_most_relu(const Activation& activation) {
  return activation.kind == ActivationKind::kLinear || activation.kind == ActivationKind::kRelu;
}

// Those that units fold, which also commute.
bool foldable(MergeOp op) { return op == MergeOp::kAdd || op == MergeOp::kMul; }

using Writers = std::map<ptrdiff_t, size_t>;  // first column -> node

// By value, the nodes that write it.
std::vector<Writers> writers_of(const std::vector<Node>& nodes, size_t values) {
  std::vector<Writers> writers(values);
  for (size_t n = 0; n < nodes.size(); ++n) {
    const Range& dst = nodes[n].step.dst;
    writers[static_cast<size_t>(dst.value)].emplace(dst.start, n);
  }
  return writers;
}

// The terms of a Merge, if those who write its sources can fold them; else none. Only the first may be something
// else than a product, and writers must run in the order of the sources, of which two may change places.
std::vector<Fold::Term> fold_terms(const Layout& layout, const Step& step,
                                   const std::vector<Writers>& writers) {
  const bool plain = step.kind == StepKind::kMerge && foldable(step.merge_op) &&
                     step.gain.kind == OperandKind::kNone && step.shift.kind == OperandKind::kNone &&
                     at_most_relu(step.activation);
  if (!plain || step.sources.empty()) return {};
  // The node whose product is exactly this range of a hidden value, and free to be folded.
  const auto product_of = [&](const Range& range) {
    const Writers& of_value = writers[static_cast<size_t>(range.value)];
    const auto at = of_value.find(range.start);
    if (at == of_value.end()) return ptrdiff_t{-1};
    const Node& node = layout.nodes[at->second];
    const bool hidden = layout.places[static_cast<size_t>(range.value)].role == Role::kHidden;
    const bool free = node.step.kind == StepKind::kDense && node.join < 0 && node.fold < 0;
    return hidden && free && node.step.dst.stop == range.stop ? static_cast<ptrdiff_t>(at->second) : -1;
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
  const Writers& of_first = writers[static_cast<size_t>(first.value)];
  for (auto at = of_first.lower_bound(first.stop); at != of_first.begin();) {
    --at;
    if (layout.nodes[at->second].step.dst.stop <= first.start) break;
    before = std::max(before, static_cast<ptrdiff_t>(at->second));
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
