#include "core/tools/selftest_training.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/runtime/workers.h"
#include "core/train/trainer.h"

namespace fusedsplit {
namespace {

constexpr int kEpochs = 50;

// The losses, the optimizer and its options in turn.
Recipe random_recipe(const Plan& plan, std::mt19937* random) {
  Recipe recipe;
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    Loss loss;
    loss.kind = LossKind::kMeanSquaredError;
    loss.output = static_cast<int>(i);
    recipe.losses.push_back(loss);
    if (i == 0) recipe.metrics.push_back({LossKind::kMeanAbsoluteError, 0, 0, false, 0.5, 1e-7});
  }
  recipe.trains = true;
  Optimizer& optimizer = recipe.optimizer;
  optimizer.kind = static_cast<OptimizerKind>((*random)() % static_cast<unsigned>(OptimizerKind::kCount));
  optimizer.beta_1 = 0.9;
  optimizer.beta_2 = 0.99;
  optimizer.epsilon = 1e-7;
  optimizer.global_clipnorm = (*random)() % 2 ? 0.1 : 0;
  optimizer.clipnorm = (*random)() % 4 ? 0 : 0.1;
  optimizer.use_ema = (*random)() % 2;
  optimizer.ema_momentum = 0.9;
  optimizer.accumulation_steps = 1 + (*random)() % 2;
  for (size_t p = 0; p < plan.params.size(); ++p) {
    recipe.trainable.push_back((*random)() % 4 != 0);
    recipe.decayed.push_back(1);
    recipe.regularizers.push_back({0, (*random)() % 4 ? 0 : 0.01});
  }
  return recipe;
}

template <class T>
struct Trained {
  std::vector<std::vector<T>> params;
  std::vector<double> losses;
};

template <class T>
Trained<T> train(const Plan& plan, const Recipe& recipe, const Case& c,
                 const std::vector<std::vector<T>>& inputs, const std::vector<std::vector<T>>& targets,
                 const std::vector<int64_t>& order) {
  Trainer<T> trainer(plan, recipe);
  Trained<T> trained;
  for (size_t p = 0; p < c.params.size(); ++p) {
    trained.params.emplace_back(c.params[p].begin(), c.params[p].end());
    trainer.write_param(p, trained.params[p].data());
  }
  RunArgs<T> args;
  args.data.samples = c.rows;
  for (const auto& x : inputs) args.data.inputs.push_back(x.data());
  for (const auto& t : targets) args.data.targets.push_back(t.data());
  args.data.labels.resize(targets.size());
  args.data.weights.resize(targets.size());
  for (size_t p = 0; p < c.points.size(); ++p) args.data.points.push_back({c.points[p].data(), c.per_row[p]});
  args.outputs.resize(plan.outputs.size());
  args.rows = c.rows;
  args.batch = c.rows;
  const std::vector<double> rates(static_cast<size_t>(c.rows), 1e-3);
  args.rates = rates.data();
  RunResult result;
  trainer.run(args, &result);  // all rows as they lie
  args.data.order = order.data();
  args.batch = std::max<ptrdiff_t>(1, c.rows * 2 / 3);  // and a shorter last batch
  for (int epoch = 1; epoch < kEpochs; ++epoch) trainer.run(args, &result);
  trained.losses = result.losses;
  for (size_t p = 0; p < c.params.size(); ++p) trainer.read_param(p, trained.params[p].data());
  return trained;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return std::equal(reinterpret_cast<const char*>(a.data()),
                    reinterpret_cast<const char*>(a.data() + a.size()),
                    reinterpret_cast<const char*>(b.data()));
}

template <class T>
void check(const Plan& plan, const Recipe& recipe, const Case& c, double bound,
           std::vector<std::string>* problems) {
  std::vector<std::vector<T>> inputs, targets;
  for (const auto& x : c.inputs) inputs.emplace_back(x.begin(), x.end());
  for (const auto& dy : c.output_grads) targets.emplace_back(dy.begin(), dy.end());
  std::vector<int64_t> order(static_cast<size_t>(c.rows));
  std::iota(order.rbegin(), order.rend(), 0);
  Trained<T> first;
  for (const int count : {1, 2, 4}) {
    set_threads(count);
    const Trained<T> trained = train<T>(plan, recipe, c, inputs, targets, order);
    if (count == 1) {
      first = trained;
      continue;
    }
    bool same = same_bits(trained.losses, first.losses);
    for (size_t p = 0; p < trained.params.size(); ++p)
      same = same && same_bits(trained.params[p], first.params[p]);
    if (!same) problems->push_back("other bits with " + std::to_string(count) + " threads");
  }
  const std::vector<std::vector<double>> outputs = run_plainly(plan, c);
  for (size_t i = 0; i < outputs.size(); ++i) {
    double sum = 0;
    for (size_t j = 0; j < outputs[i].size(); ++j)
      sum += (outputs[i][j] - c.output_grads[i][j]) * (outputs[i][j] - c.output_grads[i][j]);
    const double want = sum / static_cast<double>(outputs[i].size()), got = first.losses[1 + i];
    if (!(std::abs(got - want) <= bound * std::max(1.0, want)))
      problems->push_back("loss " + std::to_string(got) + " instead of " + std::to_string(want));
  }
}

}  // namespace

std::vector<std::string> check_training(const Plan& plan, const Case& c, std::mt19937* random) {
  std::vector<std::string> problems;
  const int before = threads();
  const Recipe recipe = random_recipe(plan, random);
  const std::string problem = recipe_problem(plan, recipe);
  if (!problem.empty()) return {problem};
  check<double>(plan, recipe, c, 1e-9, &problems);
  check<float>(plan, recipe, c, 1e-2, &problems);
  set_threads(before);
  return problems;
}

}  // namespace fusedsplit
