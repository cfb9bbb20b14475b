#include "core/train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "core/runtime/assert.h"
#include "core/train/constants.h"

namespace fusedsplit {
namespace {

// Keras' names of m, v and extra; null: there is none.
struct SlotNames {
  const char* m;
  const char* v;
  const char* extra;
};

SlotNames slot_names(const Optimizer& optimizer) {
  switch (optimizer.kind) {
    case OptimizerKind::kSgd:
      return {nullptr, nullptr, nullptr};
    case OptimizerKind::kMomentum:
    case OptimizerKind::kNesterov:
    case OptimizerKind::kLion:
      return {"momentums", nullptr, nullptr};
    case OptimizerKind::kAmsgrad:
      return {"momentums", "velocities", "velocity_hats"};
    case OptimizerKind::kRmsprop:
      return {optimizer.beta_1 > 0 ? "momentums" : nullptr, "velocities",
              optimizer.centered ? "average_gradients" : nullptr};
    case OptimizerKind::kAdagrad:
      return {nullptr, "accumulators", nullptr};
    default:
      return {"momentums", "velocities", nullptr};
  }
}

// A number that Keras casts to a variable's dtype, which by way of TensorFlow's default makes it a float32 first, also for
// float64. Volatile, because GCC 12 drops two such casts side by side when it makes a vector of them.
double cast(double x) {
  const volatile float rounded = static_cast<float>(x);
  return static_cast<double>(rounded);
}

bool clips_by_norm(const Optimizer& optimizer) {
  return optimizer.clipnorm > 0 || optimizer.global_clipnorm > 0;
}

}  // namespace

template <class T>
Weights<T>::Weights(const Plan& plan, const Recipe& recipe, const Layout& layout,
                    const std::vector<char>& reached)
    : recipe_(recipe), layout_(layout), values_(layout.shard_size) {
  for (size_t p = 0; p < plan.params.size(); ++p) {
    pointers_.push_back(values_.data() + layout_.params[p].offset);
    sizes_.push_back(plan.params[p].size());
  }
  cut_tasks(plan, reached);
  if (!recipe.trains) return;
  const Optimizer& optimizer = recipe.optimizer;
  const SlotNames names = slot_names(optimizer);
  const auto slot = [&](bool exists, const char* name) -> T* {
    if (!exists) return nullptr;
    slots_.push_back({name, Buffer<T>(layout.shard_size)});
    return slots_.back().values.data();
  };
  m_ = slot(names.m, names.m);
  v_ = slot(names.v, names.v);
  extra_ = slot(names.extra, names.extra);
  average_ = slot(optimizer.use_ema, "moving_average");
  accumulated_ = slot(optimizer.accumulation_steps > 1, "accumulated_gradients");
  if (clips_by_norm(optimizer)) sums_ = Buffer<T>(layout.shard_size);
}

// Params that lie side by side and are treated alike are updated as one, padding included: small models have many.
template <class T>
void Weights<T>::cut_tasks(const Plan& plan, const std::vector<char>& reached) {
  std::vector<Task> runs;
  for (size_t p = 0; p < plan.params.size(); ++p) {
    if (!recipe_.trainable[p]) continue;
    const Regularizer& regularizer = recipe_.regularizers[p];
    const bool updated = recipe_.trains && (reached[p] || regularizer.any());
    const ptrdiff_t begin = layout_.params[p].offset;
    const ptrdiff_t size = (plan.params[p].size() + kPad - 1) / kPad * kPad;
    const Task task{begin, begin + size, p, updated, recipe_.decayed[p] != 0, regularizer};
    Task* const before = runs.empty() ? nullptr : &runs.back();
    const bool alike = before && before->end == begin && before->updated == updated &&
                       before->decays == task.decays && !before->regularizer.any() && !regularizer.any() &&
                       recipe_.optimizer.clipnorm <= 0;
    if (alike) {
      before->end = task.end;
    } else {
      runs.push_back(task);
    }
  }
  for (const Task& run : runs)
    for (ptrdiff_t begin = run.begin; begin < run.end; begin += kUpdateTask) {
      tasks_.push_back(run);
      tasks_.back().begin = begin;
      tasks_.back().end = std::min(begin + kUpdateTask, run.end);
    }
  penalties_.resize(tasks_.size());
  squares_.resize(tasks_.size());
  scales_.assign(tasks_.size(), 1);
}

// What all elements have in common, as Keras computes it from its count of steps.
template <class T>
Update<T> Weights<T>::update_of(double rate) {
  const Optimizer& optimizer = recipe_.optimizer;
  const OptimizerKind kind = optimizer.kind;
  const double t = static_cast<double>(iterations / optimizer.accumulation_steps + 1);
  const bool adam = kind == OptimizerKind::kAdam || kind == OptimizerKind::kAmsgrad;
  const bool casts = !adam && kind != OptimizerKind::kRmsprop;
  const double beta_1 = cast(optimizer.beta_1), power_2 = 1 - std::pow(cast(optimizer.beta_2), t);
  Update<T> u;
  u.kind = static_cast<int>(kind);
  u.clip = clips_by_norm(optimizer) ? T(0) : static_cast<T>(optimizer.clipvalue);
  u.rate = static_cast<T>(rate);
  const double used_1 = casts ? beta_1 : optimizer.beta_1;
  const double used_2 = casts ? cast(optimizer.beta_2) : optimizer.beta_2;
  u.beta_1 = static_cast<T>(used_1);
  u.beta_2 = static_cast<T>(used_2);
  u.rest_1 = static_cast<T>(1 - used_1);
  u.rest_2 = static_cast<T>(1 - used_2);
  u.epsilon = static_cast<T>(optimizer.epsilon);
  u.decay = static_cast<T>(cast(optimizer.weight_decay) * rate);
  if (adam) u.rate = static_cast<T>(rate * std::sqrt(power_2) / (1 - std::pow(beta_1, t)));
  if (kind == OptimizerKind::kNadam) {
    const double now = beta_1 * (1 - 0.5 * std::pow(cast(0.96), t));
    const double next = beta_1 * (1 - 0.5 * std::pow(cast(0.96), t + 1));
    u_product *= optimizer.beta_1 * (1 - 0.5 * std::pow(0.96, t));
    u.rate_m = static_cast<T>(next / (1 - u_product * next));
    u.rate_g = static_cast<T>((1 - now) / (1 - u_product));
    u.scale_v = static_cast<T>(1 / power_2);
  }
  return u;
}

// The gradient of n elements from `begin` on: of the shards, the regularizer, and on a step that updates, of the steps
// before it.
template <class T>
double Weights<T>::gradient(const Kernels<T>& kernels, const Task& task, ptrdiff_t begin, ptrdiff_t n,
                            const T* shards, ptrdiff_t count, T* to) const {
  ShardSum<T> sum;
  sum.n = n;
  sum.first = shards + begin;
  sum.stride = layout_.shard_size;
  sum.shards = count;
  sum.to = to;
  kernels.sum_shards(sum);
  double penalty = 0;
  if (task.regularizer.any())
    penalty = kernels.regularize(n, static_cast<T>(cast(task.regularizer.l1)),
                                 static_cast<T>(cast(task.regularizer.l2)), values_.data() + begin, to);
  if (accumulated_) kernels.copy(1, n, accumulated_ + begin, 0, to, 0, true);
  return penalty;
}

template <class T>
void Weights<T>::apply(const Kernels<T>& kernels, bool decays, Update<T> u, ptrdiff_t begin, ptrdiff_t n,
                       const T* gradient, double scale) {
  const auto at = [begin](T* slot) { return slot ? slot + begin : nullptr; };
  u.n = n;
  u.g = gradient;
  u.w = values_.data() + begin;
  u.m = at(m_);
  u.v = at(v_);
  u.extra = at(extra_);
  u.scale = static_cast<T>(scale);
  if (!decays) u.decay = 0;
  kernels.update(u);
  if (accumulated_) std::fill_n(accumulated_ + begin, n, T(0));
}

// What clipping by a norm multiplies gradients by: of each param its own, or of all together.
template <class T>
void Weights<T>::find_scales(double mean) {
  const Optimizer& optimizer = recipe_.optimizer;
  const bool each = optimizer.clipnorm > 0;
  for (size_t i = 0; i < tasks_.size();) {
    size_t end = i;
    double squares = 0;
    while (end < tasks_.size() && (!each || tasks_[end].param == tasks_[i].param)) squares += squares_[end++];
    const double norm = std::sqrt(squares) * mean;
    double scale = mean;
    if (each) {
      scale *= optimizer.clipnorm / (norm > optimizer.clipnorm || norm != norm ? norm : optimizer.clipnorm);
    } else {
      const double finite = norm - norm;  // a norm that is not leaves nothing but NaN
      scale *= optimizer.global_clipnorm * std::min(1 / norm, 1 / optimizer.global_clipnorm) + finite;
    }
    std::fill(scales_.begin() + static_cast<ptrdiff_t>(i), scales_.begin() + static_cast<ptrdiff_t>(end),
              scale);
    i = end;
  }
}

// On every call, also where gradients are only accumulated.
template <class T>
void Weights<T>::average(const Kernels<T>& kernels, const Task& task) {
  const Optimizer& optimizer = recipe_.optimizer;
  const int64_t step = iterations / optimizer.accumulation_steps;
  const T momentum = step == 0 ? T(0) : static_cast<T>(optimizer.ema_momentum);
  T* const weights = values_.data() + task.begin;
  const ptrdiff_t n = task.end - task.begin;
  kernels.average_weights(n, momentum, weights, average_ + task.begin);
  if (optimizer.ema_overwrite_frequency > 0 && (step + 1) % optimizer.ema_overwrite_frequency == 0)
    std::copy_n(average_ + task.begin, n, weights);
}

template <class T>
bool Weights<T>::applies_at_once() const {
  return recipe_.trains && !accumulated_ && !average_ && !clips_by_norm(recipe_.optimizer) &&
         std::none_of(tasks_.begin(), tasks_.end(), [](const Task& task) { return task.regularizer.any(); });
}

template <class T>
void Weights<T>::apply_gradients(const Kernels<T>& kernels, const T* shard, const Node& node, size_t param) {
  const bool kernel = static_cast<int>(param) == node.step.kernel;
  const ptrdiff_t begin = layout_.params[param].offset + (kernel ? node.kernel_at : node.column);
  const ptrdiff_t rows = kernel ? node.step.sources[0].range.width() : 1;
  FUSEDSPLIT_ASSERT(!kernel || node.kernel_ld == node.step.dst.width());
  apply(kernels, recipe_.decayed[param] != 0, common_, begin, rows * node.step.dst.width(), shard + begin, 1);
}

// Calls body(row of the caller's, ours, elements) for all rows of what nodes read of a kernel.
template <class T>
template <class Body>
void Weights<T>::for_pieces(size_t p, const Body& body) const {
  bool whole = true;
  for (const Node& node : layout_.nodes) {
    const ptrdiff_t cols = layout_.params[p].cols, ld = node.kernel_ld;
    if (node.step.kernel != static_cast<int>(p) || ld == cols) continue;
    whole = false;
    for (ptrdiff_t row = 0; row < node.step.sources[0].range.width(); ++row)
      body(row * cols + node.column, node.kernel_at + row * ld, node.step.dst.width());
  }
  if (whole) body(0, 0, sizes_[p]);
}

template <class T>
void Weights<T>::read(const Buffer<T>& values, size_t p, T* to) const {
  const T* const from = values.data() + layout_.params[p].offset;
  for_pieces(
      p, [&](ptrdiff_t theirs, ptrdiff_t ours, ptrdiff_t n) { std::copy_n(from + ours, n, to + theirs); });
}

template <class T>
void Weights<T>::write(size_t p, const T* from, Buffer<T>* values) const {
  T* const to = values->data() + layout_.params[p].offset;
  for_pieces(
      p, [&](ptrdiff_t theirs, ptrdiff_t ours, ptrdiff_t n) { std::copy_n(from + theirs, n, to + ours); });
}

template <class T>
double Weights<T>::update(const Kernels<T>& kernels, Workers* workers, const T* shards, ptrdiff_t count,
                          double rate) {
  const Optimizer& optimizer = recipe_.optimizer;
  const bool updates = (iterations + 1) % optimizer.accumulation_steps == 0;
  const bool by_norm = updates && clips_by_norm(optimizer);
  const double mean = 1.0 / static_cast<double>(optimizer.accumulation_steps);
  if (updates) common_ = update_of(rate);
  // All of a task, a part at a time.
  const auto parts = [](const Task& task, const auto& body) {
    for (ptrdiff_t at = task.begin; at < task.end; at += kUpdatePart)
      body(at, std::min(kUpdatePart, task.end - at));
  };
  const auto finish = [&](const Task& task) {
    if (average_) average(kernels, task);
  };
  const auto run = [&](ptrdiff_t i, int) {
    const Task& task = tasks_[static_cast<size_t>(i)];
    double penalty = 0, squares = 0;
    alignas(64) T part[kUpdatePart];
    if (task.updated) {
      // The one shard's gradient as it is, where nothing is added to it.
      const bool direct = count == 1 && updates && !by_norm && !accumulated_ && !task.regularizer.any();
      parts(task, [&](ptrdiff_t at, ptrdiff_t n) {
        if (direct) return apply(kernels, task.decays, common_, at, n, shards + at, mean);
        T* const sum = by_norm ? sums_.data() + at : part;
        penalty += gradient(kernels, task, at, n, shards, count, sum);
        if (!updates) std::copy_n(part, n, accumulated_ + at);
        if (by_norm) squares += kernels.sum_squares(n, sum);
        if (updates && !by_norm) apply(kernels, task.decays, common_, at, n, sum, mean);
      });
    }
    penalties_[static_cast<size_t>(i)] = penalty;
    squares_[static_cast<size_t>(i)] = squares;
    if (!by_norm) finish(task);
  };
  const ptrdiff_t all = static_cast<ptrdiff_t>(tasks_.size());
  workers->run(all, run);
  if (by_norm) {
    find_scales(mean);
    workers->run(all, [&](ptrdiff_t i, int) {
      const Task& task = tasks_[static_cast<size_t>(i)];
      if (task.updated)
        parts(task, [&](ptrdiff_t at, ptrdiff_t n) {
          apply(kernels, task.decays, common_, at, n, sums_.data() + at, scales_[static_cast<size_t>(i)]);
        });
      finish(task);
    });
  }
  ++iterations;
  double penalty = 0;
  for (const double p : penalties_) penalty += p;
  return penalty;
}

template <class T>
double Weights<T>::regularization(const Kernels<T>& kernels) const {
  double sum = 0;
  for (const Task& task : tasks_)
    if (task.regularizer.any())
      sum +=
          kernels.regularize(task.end - task.begin, static_cast<T>(cast(task.regularizer.l1)),
                             static_cast<T>(cast(task.regularizer.l2)), values_.data() + task.begin, nullptr);
  return sum;
}

#define FUSEDSPLIT_FOR_TYPE(T) template class Weights<T>;
FUSEDSPLIT_FOR_TYPE(float)
FUSEDSPLIT_FOR_TYPE(double)
#undef FUSEDSPLIT_FOR_TYPE

}  // namespace fusedsplit
