// Weights, the slots of an optimizer, and its steps over both.
#pragma once

#include <string>
#include <vector>

#include "core/layout/layout.h"
#include "core/microkernels/kernels.h"
#include "core/runtime/workers.h"
#include "core/train/buffer.h"
#include "core/train/recipe.h"

namespace fusedsplit {

// What an optimizer keeps of every param, by Keras' name.
template <class T>
struct Slot {
  std::string name;
  Buffer<T> values;  // where the layout places gradients of params
};

template <class T>
class Weights {
 public:
  // `reached`: the params that get gradients.
  Weights(const Plan& plan, const Recipe& recipe, const Layout& layout, const std::vector<char>& reached);

  const T* const* params() const { return pointers_.data(); }
  T* param(size_t p) { return values_.data() + layout_.params[p].offset; }
  std::vector<Slot<T>>& slots() { return slots_; }
  T* slot(size_t s, size_t p) { return slots_[s].values.data() + layout_.params[p].offset; }

  // Ends one step: the gradients of so many shards are summed and applied at this learning rate. Returns what the
  // regularizers add to the loss, at the weights before.
  double update(const Kernels<T>& kernels, Workers* workers, const T* shards, ptrdiff_t count, double rate);
  // The same sum without an update.
  double regularization(const Kernels<T>& kernels) const;

  int64_t iterations = 0;
  double u_product = 1;  // of Nadam

 private:
  // Elements [begin, end) that one task updates; of one param where that makes a difference.
  struct Task {
    ptrdiff_t begin, end;
    size_t param;
    bool updated;  // else it has no gradient and only its average follows
    bool decays;
    Regularizer regularizer;
  };

  void cut_tasks(const Plan& plan, const std::vector<char>& reached);
  Update<T> update_of(double rate);
  double gradient(const Kernels<T>& kernels, const Task& task, ptrdiff_t begin, ptrdiff_t n, const T* shards,
                  ptrdiff_t count, T* to) const;
  void apply(const Kernels<T>& kernels, const Task& task, Update<T> u, ptrdiff_t begin, ptrdiff_t n,
             const T* gradient, double scale);
  void find_scales(double mean);
  void average(const Kernels<T>& kernels, const Task& task);

  const Recipe& recipe_;
  const Layout& layout_;
  Buffer<T> values_;
  std::vector<const T*> pointers_;
  std::vector<Slot<T>> slots_;
  T* m_ = nullptr;
  T* v_ = nullptr;
  T* extra_ = nullptr;
  T* average_ = nullptr;
  T* accumulated_ = nullptr;
  Buffer<T> sums_;  // gradients, where a norm has to be known before any is applied
  std::vector<Task> tasks_;
  std::vector<double> penalties_;  // by task
  std::vector<double> squares_;    // by task: of its gradient
  std::vector<double> scales_;     // by task: what its gradient is multiplied by
};

}  // namespace fusedsplit
