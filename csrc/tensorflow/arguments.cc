#include "tensorflow/arguments.h"

namespace fusedsplit {
namespace {

std::string where(const char* name, size_t index) {
  return std::string(name) + "[" + std::to_string(index) + "]";
}

const char* type_name(TF_DataType type) {
  switch (type) {
    case TF_FLOAT:
      return "float32";
    case TF_DOUBLE:
      return "float64";
    case TF_INT32:
      return "int32";
    case TF_UINT8:
      return "uint8";
    default:
      return "another type";
  }
}

// The product of the leading dimensions: 0 wherever one of them is, whatever the others multiply to.
ptrdiff_t product(const int64_t* dims, int count) {
  for (int i = 0; i < count; ++i) {
    if (dims[i] == 0) return 0;
  }
  ptrdiff_t rows = 1;
  for (int i = 0; i < count; ++i) {
    if (__builtin_mul_overflow(rows, dims[i], &rows)) invalid("expected fewer rows: their number overflows");
  }
  return rows;
}

void check_param(const Argument& argument, size_t index, const Param& param) {
  const bool fits = argument.rank == param.rank && argument.dim(param.rank - 1) == param.cols &&
                    (param.rank == 1 || argument.dim(0) == param.rows);
  if (fits) return;
  const std::string cols = std::to_string(param.cols);
  const std::string expected = param.rank == 1 ? cols + "," : std::to_string(param.rows) + ", " + cols;
  invalid(where("params", index) + ": expected shape (" + expected + "). Received: shape " +
          shape_text(argument));
}

}  // namespace

std::string shape_text(const Argument& argument) {
  std::string text = "(";
  for (int i = 0; i < argument.rank; ++i) text += (i ? ", " : "") + std::to_string(argument.dims[i]);
  return text + (argument.rank == 1 ? ",)" : ")");
}

void Batch::read(const Argument& argument) {
  rank = argument.rank;
  if (rank < 2 || rank >= kMaxRank) {
    invalid("inputs[0]: expected a tensor of rank 2 or more. Received: shape " + shape_text(argument));
  }
  for (int i = 0; i < rank; ++i) dims[i] = argument.dims[i];
  rows = product(dims, rank - 1);
}

void Batch::check(const Argument& argument, const char* name, size_t index, ptrdiff_t width) const {
  bool fits = argument.rank == rank && argument.dim(rank - 1) == width;
  for (int i = 0; fits && i < rank - 1; ++i) fits = argument.dims[i] == dims[i];
  if (fits) return;
  std::string expected = "(";
  for (int i = 0; i < rank - 1; ++i) expected += std::to_string(dims[i]) + ", ";
  expected += std::to_string(width) + ")";
  invalid(where(name, index) + ": expected shape " + expected + ". Received: shape " + shape_text(argument));
}

Argument Arguments::next(const char* name, TF_DataType type) {
  Argument argument;
  if (!fetch(&argument))
    invalid(std::string(name) + ": expected more inputs. Received: too few for the plan");
  if (argument.type != type) {
    invalid(std::string(name) + ": expected dtype " + type_name(type) +
            ". Received: " + type_name(argument.type));
  }
  return argument;
}

template <class T>
void Arguments::rows(const char* name, const Plan& plan, const std::vector<int>& values, Batch* batch,
                     const T** data) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Argument& argument = next(name, type_of(T{}));
    if (batch->rank == 0) batch->read(argument);
    batch->check(argument, name, i, plan.values[static_cast<size_t>(values[i])].width);
    data[i] = argument.as<const T>();
  }
}

template <class T>
void Arguments::params(const Plan& plan, const T** data) {
  for (size_t i = 0; i < plan.params.size(); ++i) {
    const Argument& argument = next("params", type_of(T{}));
    check_param(argument, i, plan.params[i]);
    data[i] = argument.as<const T>();
  }
}

void Arguments::points(const Plan& plan, const Batch& batch, Point* points) {
  for (int i = 0; i < plan.points; ++i) {
    const Argument& argument = next("points", TF_INT32);
    const int rank = argument.rank;
    if (rank > 1 || (rank == 1 && argument.dims[0] != batch.rows)) {
      invalid(where("points", static_cast<size_t>(i)) + ": expected shape () or (" +
              std::to_string(batch.rows) + ",). Received: shape " + shape_text(argument));
    }
    points[i].data = argument.as<const int32_t>();
    points[i].per_row = rank == 1;
  }
}

template <class T>
Sources<T>::Sources(Arguments* arguments, const Compiled<T>& compiled)
    : inputs(compiled.program.plan().inputs.size()),
      params(compiled.program.plan().params.size()),
      points(static_cast<size_t>(compiled.program.plan().points)) {
  const Plan& plan = compiled.program.plan();
  arguments->rows("inputs", plan, plan.inputs, &batch, inputs.data());
  arguments->params(plan, params.data());
  arguments->points(plan, batch, points.data());
  compiled.check_rows(batch.rows);
}

// The saved values, or null where there are none: forward was made for inference, or the buffer is somebody's
// unaligned slice.
template <class T>
const T* read_saved(Arguments* arguments, const Program<T>& program, ptrdiff_t rows) {
  const Argument argument = arguments->next("saved", TF_UINT8);
  const size_t expected = static_cast<size_t>(program.saved_size(rows)) * sizeof(T);
  const int64_t bytes = argument.rank == 1 ? argument.dims[0] : -1;
  if (bytes != 0 && bytes != static_cast<int64_t>(expected)) {
    invalid("saved: expected shape (0,) or (" + std::to_string(expected) + ",). Received: shape " +
            shape_text(argument));
  }
  const bool aligned = reinterpret_cast<uintptr_t>(argument.data) % kAlignment == 0;
  return bytes > 0 && aligned ? argument.as<const T>() : nullptr;
}

template <class T>
Derivatives<T>::Derivatives(Arguments* arguments, const Program<T>& program, Batch* batch)
    : outputs(program.plan().outputs.size()), output_grads(program.plan().outputs.size()) {
  const Plan& plan = program.plan();
  arguments->rows("outputs", plan, plan.outputs, batch, outputs.data());
  saved = read_saved(arguments, program, batch->rows);
  arguments->rows("output_grads", plan, plan.outputs, batch, output_grads.data());
}

template <class T>
ForwardArgs<T> forward_args(Sources<T>* sources) {
  ForwardArgs<T> args;
  args.rows = sources->batch.rows;
  args.inputs = sources->inputs.data();
  args.params = sources->params.data();
  args.points = sources->points.data();
  return args;
}

template <class T>
BackwardArgs<T> backward_args(Sources<T>* sources, Derivatives<T>* derivatives) {
  BackwardArgs<T> args;
  args.rows = sources->batch.rows;
  args.inputs = sources->inputs.data();
  args.params = sources->params.data();
  args.points = sources->points.data();
  args.outputs = derivatives->outputs.data();
  args.saved = derivatives->saved;
  args.output_grads = derivatives->output_grads.data();
  return args;
}

#define FUSEDSPLIT_FOR_TYPE(T)                          \
  template struct Sources<T>;                           \
  template struct Derivatives<T>;                       \
  template ForwardArgs<T> forward_args<T>(Sources<T>*); \
  template BackwardArgs<T> backward_args<T>(Sources<T>*, Derivatives<T>*);
FUSEDSPLIT_FOR_TYPE(float)
FUSEDSPLIT_FOR_TYPE(double)
#undef FUSEDSPLIT_FOR_TYPE

}  // namespace fusedsplit
