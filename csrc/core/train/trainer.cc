#include "core/train/trainer.h"

#include <algorithm>
#include <chrono>

#include "core/microkernels/isa.h"
#include "core/train/optimizer.h"
#include "core/train/step.h"

namespace fusedsplit {

template <class T>
struct Trainer<T>::Impl {
  Impl(const Plan& p, const Recipe& r)
      : plan(p),
        recipe(r),
        stepper(plan, recipe),
        weights(plan, recipe, stepper.layout(), stepper.reached()) {
    for (const Slot<T>& slot : weights.slots()) slots.push_back(slot.name);
  }

  const Plan plan;
  const Recipe recipe;
  Stepper<T> stepper;
  Weights<T> weights;
  std::vector<std::string> slots;
  std::mutex mutex;
};

namespace {

template <class T>
std::string order_problem(const RunArgs<T>& args) {
  for (ptrdiff_t row = 0; row < args.rows; ++row) {
    const int64_t sample = args.data.sample(row);
    if (sample < 0 || sample >= args.data.samples)
      return "order: expected samples in [0, " + std::to_string(args.data.samples) +
             "). Received: " + std::to_string(sample) + " in row " + std::to_string(row);
  }
  return "";
}

template <class T>
std::string label_problem(const Plan& plan, const Recipe& recipe, const RunArgs<T>& args) {
  for (size_t l = 0; l < recipe.losses.size(); ++l) {
    if (!is_sparse(recipe.losses[l].kind)) continue;
    const size_t output = static_cast<size_t>(recipe.losses[l].output);
    const int64_t classes = plan.values[static_cast<size_t>(plan.outputs[output])].width;
    for (ptrdiff_t row = 0; row < args.rows; ++row) {
      const int64_t sample = args.data.sample(row), label = args.data.labels[l].at(sample);
      if (label < 0 || label >= classes)
        return "targets[" + std::to_string(l) + "]: expected labels in [0, " + std::to_string(classes) +
               "). Received: " + std::to_string(label) + " in row " + std::to_string(sample);
    }
  }
  return "";
}

// The numbers of a step that its sums give.
void report(const Recipe& recipe, const Batch& batch, const std::vector<double>& sums, double penalty,
            RunResult* result) {
  const size_t losses = recipe.losses.size();
  double total = penalty;
  for (size_t l = 0; l < losses; ++l) total += recipe.losses[l].weight * (sums[l] * batch.factors[l]);
  result->rows.push_back(batch.rows);
  result->losses.push_back(total);
  for (size_t l = 0; l < losses; ++l) result->losses.push_back(sums[l] * batch.factors[l]);
  result->metrics.insert(result->metrics.end(), sums.begin() + static_cast<ptrdiff_t>(losses), sums.end());
}

}  // namespace

template <class T>
Trainer<T>::Trainer(const Plan& plan, const Recipe& recipe) : impl_(new Impl(plan, recipe)) {}
template <class T>
Trainer<T>::~Trainer() = default;

template <class T>
const Plan& Trainer<T>::plan() const {
  return impl_->plan;
}

template <class T>
const Recipe& Trainer<T>::recipe() const {
  return impl_->recipe;
}

template <class T>
void Trainer<T>::read_param(size_t param, T* to) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->weights.read(impl_->weights.values(), param, to);
}

template <class T>
void Trainer<T>::write_param(size_t param, const T* from) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->weights.write(param, from, &impl_->weights.values());
}

template <class T>
const std::vector<std::string>& Trainer<T>::slots() const {
  return impl_->slots;
}

template <class T>
void Trainer<T>::read_slot(size_t slot, size_t param, T* to) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->weights.read(impl_->weights.slots()[slot].values, param, to);
}

template <class T>
void Trainer<T>::write_slot(size_t slot, size_t param, const T* from) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->weights.write(param, from, &impl_->weights.slots()[slot].values);
}

template <class T>
int64_t Trainer<T>::iterations() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->weights.iterations;
}

template <class T>
void Trainer<T>::set_iterations(int64_t count) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->weights.iterations = count;
}

template <class T>
double Trainer<T>::u_product() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->weights.u_product;
}

template <class T>
void Trainer<T>::set_u_product(double value) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->weights.u_product = value;
}

template <class T>
std::string Trainer<T>::run(const RunArgs<T>& args, RunResult* result) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  const Recipe& recipe = impl_->recipe;
  std::string problem = order_problem(args);
  if (problem.empty()) problem = label_problem(impl_->plan, recipe, args);
  if (!problem.empty() || args.rows == 0) return problem;

  Stepper<T>& stepper = impl_->stepper;
  Weights<T>& weights = impl_->weights;
  const ptrdiff_t most = std::min(args.rows, args.batch), steps = (args.rows + args.batch - 1) / args.batch;
  Workers workers(stepper.useful_workers(most));
  stepper.prepare(most, workers.count(), args.outputs);
  result->rows.reserve(static_cast<size_t>(steps));
  result->losses.reserve(static_cast<size_t>(steps) * (1 + recipe.losses.size()));
  result->metrics.reserve(static_cast<size_t>(steps) * 2 * recipe.metrics.size());

  StepArgs<T> step;
  step.data = &args.data;
  step.rows = args.rows;
  step.params = weights.params();
  step.workers = &workers;
  step.kernels = &active_kernels<T>();
  std::vector<T*> outputs = args.outputs;
  step.outputs = outputs.data();
  std::vector<double> sums(recipe.losses.size() + 2 * recipe.metrics.size());
  Batch batch;
  double penalty = 0;
  if (!recipe.trains)
    workers.run(1, [&](ptrdiff_t, int) { penalty = weights.regularization(*step.kernels); });
  for (ptrdiff_t k = 0; k < steps; ++k) {
    batch.begin = k * args.batch;
    batch.rows = std::min(args.batch, args.rows - batch.begin);
    batch.number = recipe.trains ? weights.iterations : k;
    survey(impl_->plan, recipe, args.data, &batch);
    for (size_t i = 0; i < outputs.size(); ++i)
      if (args.outputs[i])
        outputs[i] = args.outputs[i] +
                     batch.begin * impl_->plan.values[static_cast<size_t>(impl_->plan.outputs[i])].width;
    const bool at_once = weights.applies_at_once() && stepper.can_apply(batch.rows, workers.count());
    step.weights = at_once ? &weights : nullptr;
    if (at_once) weights.begin(args.rates[k]);
    stepper.step(step, batch, sums.data());
    if (at_once) {
      weights.end();
    } else if (recipe.trains) {
      penalty = weights.update(*step.kernels, &workers, stepper.gradients(), stepper.shards(batch.rows),
                               args.rates[k]);
    }
    report(recipe, batch, sums, penalty, result);
    if (args.seconds >= 0 && std::chrono::duration<double>(Clock::now() - start).count() > args.seconds)
      break;
  }
  return "";
}

template class Trainer<float>;
template class Trainer<double>;

}  // namespace fusedsplit
