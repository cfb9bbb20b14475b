// The tensors of a call, read in the order of the op's signature and checked against the plan before use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/plan.h"
#include "core/program.h"
#include "tensorflow/call.h"

namespace fusedsplit {

constexpr int kMaxRank = 256;  // TensorFlow allows 254

// The leading dimensions that all row-wise tensors of a call share.
struct Batch {
  int64_t dims[kMaxRank];  // the last one is free: a width goes there
  int rank = 0;            // of the tensors, so rank - 1 leading dimensions
  ptrdiff_t rows = 0;

  // Takes the leading dimensions of the first input.
  void read(const Tensor& tensor);
  // Throws unless the tensor has these leading dimensions and `width` columns.
  void check(const Tensor& tensor, const char* name, size_t index, ptrdiff_t width) const;
};

// Reads a call's inputs one after the other.
class Arguments {
 public:
  explicit Arguments(TF_OpKernelContext* context);
  TF_OpKernelContext* context() const { return context_; }
  Status& status() { return status_; }

  // The next input, checked for its type.
  const Tensor& next(const char* name, TF_DataType type);

  // One tensor for each of `values`; the first ever read sets the batch.
  template <class T>
  void rows(const char* name, const Plan& plan, const std::vector<int>& values, Batch* batch, const T** data);
  template <class T>
  void params(const Plan& plan, const T** data);
  void points(const Plan& plan, const Batch& batch, Point* points);

 private:
  TF_OpKernelContext* context_;
  Status status_;
  SmallArray<Tensor> tensors_;
  size_t at_ = 0;
};

// Throws unless `rows` of `row_bytes` each can be in memory, so that no size computed from them overflows.
void check_size(ptrdiff_t rows, double row_bytes);

}  // namespace fusedsplit
