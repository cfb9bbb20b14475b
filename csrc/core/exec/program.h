// A plan made ready to run: the executor's decisions, taken once, and the two entry points.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "core/export.h"
#include "core/plan/plan.h"

namespace fusedsplit {

// The int32 input of a data-dependent split: one point for the batch, or one for each row.
struct Point {
  const int32_t* data = nullptr;
  bool per_row = false;
};

// Every tensor is dense and row-major: inputs and outputs (rows x width), params as the plan says.
template <class T>
struct ForwardArgs {
  ptrdiff_t rows = 0;
  const T* const* inputs = nullptr;
  const T* const* params = nullptr;
  const Point* points = nullptr;
  T* const* outputs = nullptr;
  T* saved = nullptr;  // saved_size(rows) elements for backward; null at inference: nothing is kept
  int threads = std::numeric_limits<int>::max();  // the most that the call may use, within threads()
};

template <class T>
struct BackwardArgs {
  ptrdiff_t rows = 0;
  const T* const* inputs = nullptr;
  const T* const* params = nullptr;
  const Point* points = nullptr;
  const T* const* outputs = nullptr;       // what forward wrote
  const T* saved = nullptr;                // what forward saved; null: hidden values are recomputed
  const T* const* output_grads = nullptr;  // one for each output; a null entry counts as zeros
  T* const* input_grads = nullptr;         // a null entry is skipped, and so is the work that only it needs
  T* const* param_grads = nullptr;         // the same
  void* workspace = nullptr;               // workspace_bytes(rows) bytes, 64-byte aligned, not initialized
};

// Params made ready once for any number of forward calls, by Program::prepare.
template <class T>
struct Prepared;

// Immutable once made, and safe to run from many threads at once.
template <class T>
class FUSEDSPLIT_EXPORT Program {
 public:
  explicit Program(const Plan& plan);
  ~Program();

  const Plan& plan() const;
  // Elements that forward must save for backward.
  ptrdiff_t saved_size(ptrdiff_t rows) const;
  // Bytes of workspace that backward needs (gradient shards and the like): bounded whatever the number of
  // rows.
  size_t workspace_bytes(ptrdiff_t rows) const;
  // Bytes of scratch that each worker thread holds for this program.
  size_t scratch_bytes() const;

  // Operations that a call of so many rows costs, what it reads included.
  double work(ptrdiff_t rows) const;

  void forward(const ForwardArgs<T>& args) const;
  // Copies of the params, packed and joined for any number of rows, on the active instruction set.
  std::shared_ptr<const Prepared<T>> prepare(const T* const* params) const;
  // The same bits, from params that this program prepared; those of `args` are not read, and nothing can be saved.
  void forward(const ForwardArgs<T>& args, const Prepared<T>& prepared) const;
  void backward(const BackwardArgs<T>& args) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

extern template class Program<float>;
extern template class Program<double>;

}  // namespace fusedsplit
