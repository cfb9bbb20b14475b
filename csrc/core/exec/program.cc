#include "core/exec/program.h"

#include <algorithm>

#include "core/exec/constants.h"
#include "core/exec/executor.h"
#include "core/runtime/assert.h"

namespace fusedsplit {

double work_per_worker = kWorkPerWorker;
double work_to_wake = kWorkToWake;

int useful_workers(double work) { return static_cast<int>(std::min(1024.0, 1 + work / work_per_worker)); }

namespace {

// Whether `count` tensors are all there.
template <class T>
bool all_given(const T* const* tensors, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (!tensors || !tensors[i]) return false;
  return true;
}

// What both directions expect of a call with rows.
template <class Args>
void check_call(const Plan& plan, const Args& args) {
  FUSEDSPLIT_ASSERT(args.rows >= 0);
  if (args.rows == 0) return;
  FUSEDSPLIT_ASSERT(all_given(args.inputs, plan.inputs.size()));
  FUSEDSPLIT_ASSERT(all_given(args.outputs, plan.outputs.size()));
  for (int p = 0; p < plan.points; ++p) FUSEDSPLIT_ASSERT(args.points && args.points[p].data);
}

}  // namespace

template <class T>
struct Program<T>::Impl {
  Executor<T> executor;
};

template <class T>
Program<T>::Program(const Plan& plan) : impl_(new Impl{Executor<T>(plan)}) {}
template <class T>
Program<T>::~Program() = default;

template <class T>
const Plan& Program<T>::plan() const {
  return impl_->executor.plan();
}

template <class T>
ptrdiff_t Program<T>::saved_size(ptrdiff_t rows) const {
  return impl_->executor.layout().kept_width * rows;
}

template <class T>
size_t Program<T>::workspace_bytes(ptrdiff_t rows) const {
  return impl_->executor.workspace_bytes(rows);
}

template <class T>
size_t Program<T>::scratch_bytes() const {
  return impl_->executor.scratch_bytes();
}

template <class T>
void Program<T>::forward(const ForwardArgs<T>& args) const {
  check_call(plan(), args);
  FUSEDSPLIT_ASSERT(args.rows == 0 || all_given(args.params, plan().params.size()));
  impl_->executor.forward(args);
}

template <class T>
double Program<T>::work(ptrdiff_t rows) const {
  return work_of(impl_->executor.layout(), rows);
}

template <class T>
std::shared_ptr<const Prepared<T>> Program<T>::prepare(const T* const* params) const {
  FUSEDSPLIT_ASSERT(all_given(params, plan().params.size()));
  return impl_->executor.prepare(params);
}

template <class T>
void Program<T>::forward(const ForwardArgs<T>& args, const Prepared<T>& prepared) const {
  check_call(plan(), args);
  FUSEDSPLIT_ASSERT(!args.saved);
  impl_->executor.forward(args, &prepared);
}

template <class T>
void Program<T>::backward(const BackwardArgs<T>& args) const {
  check_call(plan(), args);
  FUSEDSPLIT_ASSERT(args.rows == 0 || all_given(args.params, plan().params.size()));
  FUSEDSPLIT_ASSERT(args.rows == 0 || args.workspace || workspace_bytes(args.rows) == 0);
  impl_->executor.backward(args);
}

template class Program<float>;
template class Program<double>;

}  // namespace fusedsplit
