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
  const Buffer<T>& values() const { return values_; }
  Buffer<T>& values() { return values_; }
  std::vector<Slot<T>>& slots() { return slots_; }
  // A param of the weights or of a slot, as the caller has it.
  void read(const Buffer<T>& values, size_t p, T* to) const;
  void write(size_t p, const T* from, Buffer<T>* values) const;

  // Ends one step: the gradients of so many shards are summed and applied at this learning rate. Returns what the
  // regularizers add to the loss, at the weights before.
  double update(const Kernels<T>& kernels, Workers* workers, const T* shards, ptrdiff_t count, double rate);
  // Whether a step is nothing but the gradients of one shard, element by element: then whoever has computed some of them
  // may apply them at once, between `begin` and `end`, in place of `update`.
  bool applies_at_once() const;
  void begin(double rate) { common_ = update_of(rate); }
  // What a node has of a param, the gradients of all params being at `shard`.
  void apply_gradients(const Kernels<T>& kernels, const T* shard, const Node& node, size_t param);
  void end() { ++iterations; }
  // What regularizers add, without an update.
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

  template <class Body>
  void for_pieces(size_t p, const Body& body) const;
  void cut_tasks(const Plan& plan, const std::vector<char>& reached);
  Update<T> update_of(double rate);
  double gradient(const Kernels<T>& kernels, const Task& task, ptrdiff_t begin, ptrdiff_t n, const T* shards,
                  ptrdiff_t count, T* to) const;
  void apply(const Kernels<T>& kernels, bool decays, Update<T> u, ptrdiff_t begin, ptrdiff_t n,
             const T* gradient, double scale);
  void find_scales(double mean);
  void average(const Kernels<T>& kernels, const Task& task);

  const Recipe& recipe_;
  const Layout& layout_;
  Buffer<T> values_;
  std::vector<const T*> pointers_;
  std::vector<ptrdiff_t> sizes_;  // by param
  std::vector<Slot<T>> slots_;
  T* m_ = nullptr;
  T* v_ = nullptr;
  T* extra_ = nullptr;
  T* average_ = nullptr;
  T* accumulated_ = nullptr;
  Buffer<T> sums_;    // gradients, where a norm has to be known before any is applied
  Update<T> common_;  // what all elements of a step have in common
  std::vector<Task> tasks_;
  std::vector<double> penalties_;  // by task
  std::vector<double> squares_;    // by task: of its gradient
  std::vector<double> scales_;     // by task: what its gradient is multiplied by
};

}  // namespace fusedsplit
