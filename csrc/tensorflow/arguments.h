// The tensors of a call, read in the order of the signature and checked against the plan before use: those of
// an op in a TensorFlow kernel, and those of a foreign call in a program that XLA compiled.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/exec/program.h"
#include "core/plan/plan.h"
#include "tensorflow/call.h"
#include "tensorflow/program_cache.h"

namespace fusedsplit {

constexpr int kMaxRank = 256;  // TensorFlow allows 254
// TF_AllocateOutput and TF_AllocateTemp align to this; so must every buffer that the core carves up.
constexpr uintptr_t kAlignment = 64;

// One tensor, whoever owns it. The dimensions are those of the source of arguments: good until the next one
// is read.
struct Argument {
  TF_DataType type = TF_FLOAT;
  int rank = 0;
  const int64_t* dims = nullptr;
  void* data = nullptr;

  // Beyond every axis there is nothing, and that is no column.
  int64_t dim(int axis) const { return axis < 0 || axis >= rank ? -1 : dims[axis]; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

std::string shape_text(const Argument& argument);

// The leading dimensions that all row-wise tensors of a call share.
struct Batch {
  int64_t dims[kMaxRank];  // the last one is free: a width goes there
  int rank = 0;            // of the tensors, so rank - 1 leading dimensions
  ptrdiff_t rows = 0;

  // Takes the leading dimensions of the first input.
  void read(const Argument& argument);
  // Throws unless the argument has these leading dimensions and `width` columns.
  void check(const Argument& argument, const char* name, size_t index, ptrdiff_t width) const;
};

// Reads a call's tensors one after the other.
class Arguments {
 public:
  virtual ~Arguments() = default;

  // The next tensor, checked for its type.
  Argument next(const char* name, TF_DataType type);

  // One tensor for each of `values`; the first ever read sets the batch.
  template <class T>
  void rows(const char* name, const Plan& plan, const std::vector<int>& values, Batch* batch, const T** data);
  template <class T>
  void params(const Plan& plan, const T** data);
  void points(const Plan& plan, const Batch& batch, Point* points);

 private:
  // Fills in the next argument; false when there are no more.
  virtual bool fetch(Argument* argument) = 0;
};

// What every call begins with: inputs, params and points.
template <class T>
struct Sources {
  // Throws unless so many rows can be computed.
  Sources(Arguments* arguments, const Compiled<T>& compiled);

  Batch batch;
  SmallArray<const T*> inputs;
  SmallArray<const T*> params;
  SmallArray<Point, 4> points;
};

// What backward reads besides: what forward wrote and saved, and the gradients of its outputs.
template <class T>
struct Derivatives {
  Derivatives(Arguments* arguments, const Program<T>& program, Batch* batch);

  SmallArray<const T*> outputs;
  const T* saved = nullptr;  // null: there is nothing, and backward computes it again
  SmallArray<const T*> output_grads;
};

template <class T>
ForwardArgs<T> forward_args(Sources<T>* sources);
template <class T>
BackwardArgs<T> backward_args(Sources<T>* sources, Derivatives<T>* derivatives);

}  // namespace fusedsplit
