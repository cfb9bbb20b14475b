// The kernels, made from the ops' attributes and run on a call's tensors.
//
//   FusedsplitInfer     inputs, params                                        -> the only output
//   FusedsplitForward   inputs, params, points                                -> outputs, saved
//   FusedsplitBackward  inputs, params, points, outputs, saved, output_grads  -> input_grads, param_grads
#pragma once

#include <memory>
#include <vector>

#include "tensorflow/arguments.h"
#include "tensorflow/call.h"
#include "tensorflow/program_cache.h"

namespace fusedsplit {

// For eager calls that nobody differentiates: TensorFlow spends 0.5 us on each attribute and output of an op.
template <class T>
class InferKernel {
 public:
  explicit InferKernel(TF_OpKernelConstruction* construction);
  void compute(TF_OpKernelContext* context) const;

 private:
  std::shared_ptr<const Compiled<T>> compiled_;
};

template <class T>
class ForwardKernel {
 public:
  explicit ForwardKernel(TF_OpKernelConstruction* construction);
  void compute(TF_OpKernelContext* context) const;

 private:
  std::shared_ptr<const Compiled<T>> compiled_;
  bool save_ = false;
};

template <class T>
class BackwardKernel {
 public:
  explicit BackwardKernel(TF_OpKernelConstruction* construction);
  void compute(TF_OpKernelContext* context) const;

 private:
  std::shared_ptr<const Compiled<T>> compiled_;
  std::vector<int64_t> wanted_;  // 0 or 1 for each input, then for each param
};

}  // namespace fusedsplit
