// Stages and their chains, and whether these may run side by side on the way back.
#include "core/layout/passes.h"

namespace fusedsplit {
namespace {

constexpr int kNobody = -1, kSeveral = -2;

// Within one stage: the gradients that several chains add to. What a chain has deferred cannot be used
// by its own earlier nodes, so a value that the stage itself writes must not be one of these.
// `giver` is by value, kNobody for each, and is left so.
void find_deferred(size_t begin, size_t end, std::vector<int>& giver, Layout* layout) {
  for (size_t n = begin; n < end; ++n)
    for (const Source& s : layout->nodes[n].step.sources) {
      int& chain = giver[static_cast<size_t>(s.range.value)];
      chain = chain == kNobody || chain == layout->nodes[n].chain ? layout->nodes[n].chain : kSeveral;
    }
  for (size_t n = begin; n < end; ++n) {
    Node& node = layout->nodes[n];
    bool shares = false;
    for (const Source& s : node.step.sources)
      shares = shares || giver[static_cast<size_t>(s.range.value)] == kSeveral;
    node.defers = shares && node.step.kind == StepKind::kDense && node.step.point < 0;
    const bool written = giver[static_cast<size_t>(node.step.dst.value)] == kSeveral;
    if (written || shares != node.defers) layout->parallel_gradients = false;
  }
  for (size_t n = begin; n < end; ++n)
    for (const Source& s : layout->nodes[n].step.sources) giver[static_cast<size_t>(s.range.value)] = kNobody;
}

}  // namespace

Layout find_chains(Layout layout) {
  for (size_t n = 0; n < layout.nodes.size(); ++n) {
    if (layout.stages.size() <= static_cast<size_t>(layout.nodes[n].stage)) layout.stages.emplace_back();
    std::vector<Chain>& chains = layout.stages.back();
    if (chains.size() <= static_cast<size_t>(layout.nodes[n].chain)) chains.push_back({n, n, 0});
    chains.back().end = n + 1;
    const Step& step = layout.nodes[n].step;
    if (step.kind == StepKind::kDense)
      chains.back().flops +=
          2.0 * static_cast<double>(step.sources[0].range.width()) * static_cast<double>(step.dst.width());
  }
  std::vector<int> giver(layout.places.size(), kNobody);
  for (const std::vector<Chain>& chains : layout.stages)
    find_deferred(chains.front().begin, chains.back().end, giver, &layout);
  for (const ParamPlace& param : layout.params)
    layout.parallel_gradients = layout.parallel_gradients && !param.shared;
  return layout;
}

}  // namespace fusedsplit
