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

void check_param(const Tensor& tensor, size_t index, const Param& param) {
  const bool fits = tensor.rank() == param.rank && tensor.dim(param.rank - 1) == param.cols &&
                    (param.rank == 1 || tensor.dim(0) == param.rows);
  if (fits) return;
  const std::string cols = std::to_string(param.cols);
  const std::string expected = param.rank == 1 ? cols + "," : std::to_string(param.rows) + ", " + cols;
  invalid(where("params", index) + ": expected shape (" + expected + "). Received: shape " +
          shape_text(tensor));
}

}  // namespace

void Batch::read(const Tensor& tensor) {
  rank = tensor.rank();
  if (rank < 2 || rank >= kMaxRank) {
    invalid("inputs[0]: expected a tensor of rank 2 or more. Received: shape " + shape_text(tensor));
  }
  for (int i = 0; i < rank; ++i) dims[i] = tensor.dim(i);
  rows = product(dims, rank - 1);
}

void Batch::check(const Tensor& tensor, const char* name, size_t index, ptrdiff_t width) const {
  bool fits = tensor.rank() == rank && tensor.dim(rank - 1) == width;
  for (int i = 0; fits && i < rank - 1; ++i) fits = tensor.dim(i) == dims[i];
  if (fits) return;
  std::string expected = "(";
  for (int i = 0; i < rank - 1; ++i) expected += std::to_string(dims[i]) + ", ";
  expected += std::to_string(width) + ")";
  invalid(where(name, index) + ": expected shape " + expected + ". Received: shape " + shape_text(tensor));
}

Arguments::Arguments(TF_OpKernelContext* context)
    : context_(context), tensors_(static_cast<size_t>(c_api().TF_NumInputs(context))) {}

const Tensor& Arguments::next(const char* name, TF_DataType type) {
  if (at_ >= tensors_.size())
    invalid(std::string(name) + ": expected more inputs. Received: too few for the plan");
  Tensor& tensor = tensors_[at_];
  c_api().TF_GetInput(context_, static_cast<int>(at_), tensor.out(), status_);
  status_.check();
  ++at_;
  if (tensor.type() != type) {
    invalid(std::string(name) + ": expected dtype " + type_name(type) +
            ". Received: " + type_name(tensor.type()));
  }
  return tensor;
}

template <class T>
void Arguments::rows(const char* name, const Plan& plan, const std::vector<int>& values, Batch* batch,
                     const T** data) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Tensor& tensor = next(name, type_of(T{}));
    if (batch->rank == 0) batch->read(tensor);
    batch->check(tensor, name, i, plan.values[static_cast<size_t>(values[i])].width);
    data[i] = tensor.as<const T>();
  }
}

template <class T>
void Arguments::params(const Plan& plan, const T** data) {
  for (size_t i = 0; i < plan.params.size(); ++i) {
    const Tensor& tensor = next("params", type_of(T{}));
    check_param(tensor, i, plan.params[i]);
    data[i] = tensor.as<const T>();
  }
}

void Arguments::points(const Plan& plan, const Batch& batch, Point* points) {
  for (int i = 0; i < plan.points; ++i) {
    const Tensor& tensor = next("points", TF_INT32);
    const int rank = tensor.rank();
    if (rank > 1 || (rank == 1 && tensor.dim(0) != batch.rows)) {
      invalid(where("points", static_cast<size_t>(i)) + ": expected shape () or (" +
              std::to_string(batch.rows) + ",). Received: shape " + shape_text(tensor));
    }
    points[i].data = tensor.as<const int32_t>();
    points[i].per_row = rank == 1;
  }
}

void check_size(ptrdiff_t rows, double row_bytes) {
  constexpr double kMost = 1e14;
  // A block more than the rows, since executors round up.
  if ((static_cast<double>(rows) + 65536) * row_bytes <= kMost) return;
  throw OpError(TF_RESOURCE_EXHAUSTED,
                "expected a batch that fits into memory. Received: " + std::to_string(rows) + " rows of " +
                    std::to_string(row_bytes) + " bytes");
}

template void Arguments::rows<float>(const char*, const Plan&, const std::vector<int>&, Batch*,
                                     const float**);
template void Arguments::rows<double>(const char*, const Plan&, const std::vector<int>&, Batch*,
                                      const double**);
template void Arguments::params<float>(const Plan&, const float**);
template void Arguments::params<double>(const Plan&, const double**);

}  // namespace fusedsplit
