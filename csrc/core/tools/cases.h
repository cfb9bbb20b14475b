// What is timed of a plan: a forward call of random numbers, and a training step with mse and Adam on all weights.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "core/exec/program.h"
#include "core/train/trainer.h"

namespace fusedsplit {

inline std::vector<float> random_numbers(ptrdiff_t count, float scale) {
  static std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> array(static_cast<size_t>(count));
  // Many numbers repeat, after a prime count.
  constexpr size_t kPeriod = 65521;
  for (size_t i = 0; i < array.size(); ++i)
    array[i] = i < kPeriod ? scale * normal(random) : array[i - kPeriod];
  return array;
}

inline ptrdiff_t width_of(const Plan& plan, int value) {
  return plan.values[static_cast<size_t>(value)].width;
}

// Of a plan of one input and one output.
class ForwardCase {
 public:
  ForwardCase(const Plan& plan, ptrdiff_t rows)
      : program_(plan),
        x_(random_numbers(rows * width_of(plan, plan.inputs[0]), 1)),
        y_(static_cast<size_t>(rows * width_of(plan, plan.outputs[0]))),
        inputs_{x_.data()},
        outputs_{y_.data()} {
    for (const Param& p : plan.params) params_.push_back(random_numbers(p.size(), 0.05f));
    for (const auto& p : params_) pointers_.push_back(p.data());
    args_.rows = rows;
    args_.inputs = inputs_.data();
    args_.params = pointers_.data();
    args_.outputs = outputs_.data();
  }
  ForwardCase(const ForwardCase&) = delete;
  ForwardCase& operator=(const ForwardCase&) = delete;

  void run() const { program_.forward(args_); }

 private:
  Program<float> program_;
  std::vector<float> x_, y_;
  std::vector<const float*> inputs_, pointers_;
  std::vector<float*> outputs_;
  std::vector<std::vector<float>> params_;
  ForwardArgs<float> args_;
};

// Batches of so many rows in rotation through the samples, in their order or shuffled.
class TrainingCase {
 public:
  TrainingCase(const Plan& plan, ptrdiff_t rows, ptrdiff_t batches, bool shuffled)
      : in_(width_of(plan, plan.inputs[0])),
        out_(width_of(plan, plan.outputs[0])),
        x_(random_numbers(rows * batches * in_, 1)),
        target_(random_numbers(rows * batches * out_, 1)),
        order_(static_cast<size_t>(rows * batches)),
        rates_(static_cast<size_t>(batches), 1e-3),
        batches_(batches) {
    Recipe recipe;
    recipe.losses.emplace_back();
    recipe.trains = true;
    recipe.optimizer.kind = OptimizerKind::kAdam;
    recipe.optimizer.beta_1 = 0.9;
    recipe.optimizer.beta_2 = 0.999;
    recipe.optimizer.epsilon = 1e-7;
    recipe.trainable.assign(plan.params.size(), 1);
    recipe.decayed.assign(plan.params.size(), 0);
    recipe.regularizers.resize(plan.params.size());
    trainer_ = std::make_unique<Trainer<float>>(plan, recipe);
    for (size_t p = 0; p < plan.params.size(); ++p)
      trainer_->write_param(p, random_numbers(plan.params[p].size(), 0.05f).data());
    std::iota(order_.begin(), order_.end(), int64_t{0});
    std::shuffle(order_.begin(), order_.end(), std::mt19937(5));
    args_.data.samples = rows * batches;
    args_.data.inputs = {x_.data()};
    args_.data.targets = {target_.data()};
    args_.data.weights = {nullptr};
    args_.data.labels.resize(1);
    if (shuffled) args_.data.order = order_.data();
    args_.batch = rows;
    args_.rates = rates_.data();
    args_.outputs = {nullptr};
  }

  // Takes so many batches, of those that there are, from where the last run ended.
  void run(ptrdiff_t steps) {
    steps = std::min(steps, batches_);
    if (next_ + steps > batches_) next_ = 0;
    const ptrdiff_t row = next_ * args_.batch;
    next_ += steps;
    if (args_.data.order) {
      args_.data.order = order_.data() + row;
    } else {
      args_.data.inputs[0] = x_.data() + row * in_;
      args_.data.targets[0] = target_.data() + row * out_;
    }
    args_.rows = args_.batch * steps;
    RunResult result;
    const std::string problem = trainer_->run(args_, &result);
    if (!problem.empty()) std::printf("%s\n", problem.c_str());
  }
  ptrdiff_t batches() const { return batches_; }

 private:
  ptrdiff_t in_, out_;
  std::vector<float> x_, target_;
  std::vector<int64_t> order_;
  std::vector<double> rates_;
  ptrdiff_t batches_;
  ptrdiff_t next_ = 0;
  std::unique_ptr<Trainer<float>> trainer_;
  RunArgs<float> args_;
};

}  // namespace fusedsplit
