// How a plan is trained or evaluated: fusedsplit/native/recipe.py as the core sees it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/export.h"
#include "core/microkernels/training.h"
#include "core/plan/plan.h"

namespace fusedsplit {

enum class Reduction : int { kMean, kSum, kMeanOfWeights };

// Of the predictions that one output of the plan gives.
struct Loss {
  LossKind kind = LossKind::kMeanSquaredError;
  int output = 0;
  int logits =
      -1;  // the output that it is computed from, and that its gradient goes to, in place of `output`
  double label_smoothing = 0;
  double delta = 1;
  double weight = 1;
  double epsilon = 1e-7;
  Reduction reduction = Reduction::kMean;

  int source() const { return logits >= 0 ? logits : output; }
};

struct Optimizer {
  OptimizerKind kind = OptimizerKind::kSgd;
  double beta_1 = 0;  // a momentum as well
  double beta_2 = 0;  // rho as well
  double epsilon = 0;
  bool centered = false;
  double weight_decay = 0;
  double clipnorm = 0;  // of all of these 0 is none
  double global_clipnorm = 0;
  double clipvalue = 0;
  bool use_ema = false;
  double ema_momentum = 0;
  int64_t ema_overwrite_frequency = 0;
  int64_t accumulation_steps = 1;
};

struct Regularizer {
  double l1 = 0;
  double l2 = 0;
  bool any() const { return l1 != 0 || l2 != 0; }
};

// An input of the plan that is drawn: 0 or 1 / (1 - rate).
struct Dropout {
  int input = 0;
  double rate = 0;
  uint64_t seed = 0;
};

struct Metric {
  LossKind kind = LossKind::kMeanSquaredError;
  int loss = 0;  // whose targets and weights it takes
  int output = 0;
  bool weighted = false;
  double threshold = 0.5;
  double epsilon = 1e-7;
};

struct Recipe {
  std::vector<Loss> losses;
  bool trains = false;  // there is an optimizer
  Optimizer optimizer;
  std::vector<char> trainable;            // by param
  std::vector<char> decayed;              // by param
  std::vector<Regularizer> regularizers;  // by param
  std::vector<Dropout> dropouts;
  std::vector<Metric> metrics;
};

// Whether targets are classes.
constexpr bool is_sparse(LossKind kind) {
  return kind == LossKind::kSparseCategoricalCrossentropy ||
         kind == LossKind::kSparseCategoricalCrossentropyLogits ||
         kind == LossKind::kSparseCategoricalAccuracy;
}

// By Keras' names, with "_logits" after those that have both forms; kCount: there is none of that name.
FUSEDSPLIT_EXPORT LossKind loss_kind(const std::string& name);

// "", or in what way a recipe does not fit the plan.
FUSEDSPLIT_EXPORT std::string recipe_problem(const Plan& plan, const Recipe& recipe);

}  // namespace fusedsplit
