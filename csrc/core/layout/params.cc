// Where the gradients of params are summed.
#include "core/layout/constants.h"
#include "core/layout/passes.h"
#include "core/layout/strides.h"

namespace fusedsplit {
Layout place_params(Layout layout, const Plan& plan, bool own) {
  constexpr int kNobody = -1;
  std::vector<int> user(plan.params.size(), kNobody);
  std::vector<ptrdiff_t> covered(plan.params.size());  // columns whose gradient some node computes
  layout.params.resize(plan.params.size());
  for (size_t i = 0; i < plan.params.size(); ++i) {
    layout.params[i].cols = plan.params[i].cols;
    layout.param_size += round_up(plan.params[i].size(), kPad);
  }
  for (const Node& node : layout.nodes) {
    const Step& step = node.step;
    int roles = 0;
    for (int param : {step.kernel, step.bias, step.gain.param, step.shift.param}) {
      // The nodes of one step use different columns of a param; but one param may be both gain and shift.
      const int id = node.origin * 4 + roles++;
      if (param < 0) continue;
      int& first = user[static_cast<size_t>(param)];
      ParamPlace& place = layout.params[static_cast<size_t>(param)];
      if (first != kNobody && first != id) place.zeroed = place.shared = true;
      first = id;
      covered[static_cast<size_t>(param)] += step.dst.width();
    }
    if (step.point >= 0) layout.params[static_cast<size_t>(step.kernel)].zeroed = true;
  }
  for (size_t i = 0; i < plan.params.size(); ++i) {
    ParamPlace& place = layout.params[i];
    if (covered[i] < place.cols) place.zeroed = true;
    place.second_pass = !own && layout.param_size >= kSecondPassTotal && plan.params[i].rank == 2 &&
                        plan.params[i].size() >= kSecondPassSize && !place.zeroed;
    if (place.second_pass) continue;
    place.offset = layout.shard_size;
    layout.shard_size += round_up(plan.params[i].size(), kPad);
  }
  for (Node& node : layout.nodes) {
    if (node.step.kernel < 0) continue;
    const ParamPlace& place = layout.params[static_cast<size_t>(node.step.kernel)];
    const bool together = own && !place.zeroed;  // so that it belongs to nodes of one step
    node.kernel_at = together ? node.column * node.step.sources[0].range.width() : node.column;
    node.kernel_ld = together ? node.step.dst.width() : place.cols;
  }
  return layout;
}

Layout find_second_pass(Layout layout, ptrdiff_t unit) {
  for (size_t n = 0; n < layout.nodes.size(); ++n) {
    Node& node = layout.nodes[n];
    const Step& step = node.step;
    if (step.kind != StepKind::kDense || !layout.params[static_cast<size_t>(step.kernel)].second_pass)
      continue;
    node.second_pass = static_cast<int>(layout.second_pass.size());
    layout.second_pass.push_back({n, layout.second_pass_width, buffer_ld(step.dst.width(), unit)});
    layout.second_pass_width += layout.second_pass.back().ld;
  }
  return layout;
}

}  // namespace fusedsplit
