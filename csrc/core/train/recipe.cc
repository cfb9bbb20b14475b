#include "core/train/recipe.h"

#include <iterator>

namespace fusedsplit {
namespace {

// In the order of LossKind.
constexpr const char* kLossNames[] = {
    "mean_squared_error",
    "mean_absolute_error",
    "mean_squared_logarithmic_error",
    "mean_absolute_percentage_error",
    "huber",
    "log_cosh",
    "poisson",
    "kl_divergence",
    "hinge",
    "squared_hinge",
    "binary_crossentropy",
    "binary_crossentropy_logits",
    "categorical_hinge",
    "categorical_crossentropy",
    "categorical_crossentropy_logits",
    "sparse_categorical_crossentropy",
    "sparse_categorical_crossentropy_logits",
    "binary_accuracy",
    "categorical_accuracy",
    "sparse_categorical_accuracy",
};
static_assert(std::size(kLossNames) == static_cast<size_t>(LossKind::kCount), "every loss has a name");

bool has(size_t count, int index) { return index >= 0 && static_cast<size_t>(index) < count; }

std::string expected(const std::string& what, size_t count, const std::string& received) {
  return what + ": expected " + std::to_string(count) + ". Received: " + received;
}

std::string index_problem(const std::string& what, size_t count, int index) {
  if (has(count, index)) return "";
  return what + ": expected an index below " + std::to_string(count) + ". Received: " + std::to_string(index);
}

std::string loss_problem(const Plan& plan, const Loss& loss) {
  const std::string problem = index_problem("losses: output", plan.outputs.size(), loss.output);
  if (!problem.empty()) return problem;
  if (loss.logits < 0) return "";
  const std::string other = index_problem("losses: logits", plan.outputs.size(), loss.logits);
  if (!other.empty()) return other;
  const auto width = [&](int output) {
    return plan.values[static_cast<size_t>(plan.outputs[static_cast<size_t>(output)])].width;
  };
  if (width(loss.logits) == width(loss.output)) return "";
  return "losses: expected logits as wide as the output, " + std::to_string(width(loss.output)) +
         ". Received: " + std::to_string(width(loss.logits));
}

std::string dropout_problem(const Plan& plan, const Dropout& dropout) {
  const std::string problem = index_problem("dropouts: input", plan.inputs.size(), dropout.input);
  if (!problem.empty()) return problem;
  if (dropout.rate >= 0 && dropout.rate < 1) return "";
  return "dropouts: expected a rate in [0, 1). Received: " + std::to_string(dropout.rate);
}

std::string metric_problem(const Plan& plan, const Recipe& recipe, const Metric& metric) {
  const std::string problem = index_problem("metrics: output", plan.outputs.size(), metric.output);
  if (!problem.empty()) return problem;
  if (!has(recipe.losses.size(), metric.loss))
    return "metrics: expected a loss with the same output. Received: none for output " +
           std::to_string(metric.output);
  if (is_sparse(metric.kind) == is_sparse(recipe.losses[static_cast<size_t>(metric.loss)].kind)) return "";
  return std::string("metrics: expected targets of the metric's kind. Received: a loss whose targets are ") +
         (is_sparse(metric.kind) ? "no classes" : "classes");
}

}  // namespace

LossKind loss_kind(const std::string& name) {
  size_t i = 0;
  while (i < std::size(kLossNames) && name != kLossNames[i]) ++i;
  return static_cast<LossKind>(i);
}

std::string recipe_problem(const Plan& plan, const Recipe& recipe) {
  const size_t params = plan.params.size();
  for (const auto& [name, size] : {std::pair<const char*, size_t>{"trainable", recipe.trainable.size()},
                                   {"decayed", recipe.decayed.size()},
                                   {"regularizers", recipe.regularizers.size()}})
    if (size != params) return expected(name, params, std::to_string(size));
  std::string problem;
  for (const Loss& loss : recipe.losses)
    if (problem.empty()) problem = loss_problem(plan, loss);
  for (const Dropout& dropout : recipe.dropouts)
    if (problem.empty()) problem = dropout_problem(plan, dropout);
  for (const Metric& metric : recipe.metrics)
    if (problem.empty()) problem = metric_problem(plan, recipe, metric);
  return problem;
}

}  // namespace fusedsplit
