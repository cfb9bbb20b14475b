#include "tensorflow/kernels.h"

#include <string>

namespace fusedsplit {
namespace {

// The inputs of a kernel's call, held until the call ends.
class KernelArguments : public Arguments {
 public:
  explicit KernelArguments(TF_OpKernelContext* context)
      : context_(context), tensors_(static_cast<size_t>(c_api().TF_NumInputs(context))) {}
  TF_OpKernelContext* context() const { return context_; }
  Status& status() { return status_; }

 private:
  bool fetch(Argument* argument) override {
    if (at_ >= tensors_.size()) return false;
    Tensor& tensor = tensors_[at_];
    c_api().TF_GetInput(context_, static_cast<int>(at_), tensor.out(), status_);
    status_.check();
    ++at_;
    argument->type = tensor.type();
    argument->rank = tensor.rank();
    if (argument->rank >= kMaxRank)
      invalid("expected fewer dimensions. Received: " + std::to_string(argument->rank));
    for (int i = 0; i < argument->rank; ++i) dims_[i] = tensor.dim(i);
    argument->dims = dims_;
    argument->data = tensor.data();
    return true;
  }

  TF_OpKernelContext* context_;
  Status status_;
  SmallArray<Tensor> tensors_;
  size_t at_ = 0;
  int64_t dims_[kMaxRank];
};

std::vector<int64_t> int_list(TF_OpKernelConstruction* construction, const char* name) {
  Status status;
  int32_t size = 0;
  int32_t total = 0;
  c_api().TF_OpKernelConstruction_GetAttrSize(construction, name, &size, &total, status);
  status.check();
  std::vector<int64_t> list(size > 0 ? static_cast<size_t>(size) : 0);
  if (list.empty()) return list;
  c_api().TF_OpKernelConstruction_GetAttrInt64List(construction, name, list.data(), size, status);
  status.check();
  return list;
}

// The encoded plan: 64-bit integers, little end first. As a string because a list of integers is parsed,
// boxed and hashed one by one in every eager call: 10 us of 46 for a layer of 16 branches.
std::vector<int64_t> encoded_plan(TF_OpKernelConstruction* construction) {
  Status status;
  int32_t count = 0;
  int32_t size = 0;
  c_api().TF_OpKernelConstruction_GetAttrSize(construction, "plan", &count, &size, status);
  status.check();
  if (size < 0 || size % 8 != 0) {
    invalid("plan: expected whole 64-bit integers. Received: " + std::to_string(size) + " bytes");
  }
  std::vector<int64_t> code(static_cast<size_t>(size) / 8);
  if (code.empty()) return code;
  c_api().TF_OpKernelConstruction_GetAttrString(construction, "plan", reinterpret_cast<char*>(code.data()),
                                                static_cast<size_t>(size), status);
  status.check();
  return code;
}

void check_count(TF_OpKernelConstruction* construction, const char* name, size_t expected) {
  Status status;
  int64_t value = 0;
  c_api().TF_OpKernelConstruction_GetAttrInt64(construction, name, &value, status);
  status.check();
  if (value == static_cast<int64_t>(expected)) return;
  invalid(std::string(name) + ": expected " + std::to_string(expected) +
          ", as the plan says. Received: " + std::to_string(value));
}

void check_counts(TF_OpKernelConstruction* construction, const Plan& plan) {
  check_count(construction, "n_inputs", plan.inputs.size());
  check_count(construction, "n_params", plan.params.size());
  check_count(construction, "n_points", static_cast<size_t>(plan.points));
  check_count(construction, "n_outputs", plan.outputs.size());
}

size_t elements(const int64_t* dims, int rank) {
  size_t count = 1;
  for (int i = 0; i < rank; ++i) count *= static_cast<size_t>(dims[i]);
  return count;
}

// Allocates output `index`; the runtime keeps the buffer when the handle goes.
template <class T>
T* allocate_output(KernelArguments* arguments, int index, TF_DataType type, const int64_t* dims, int rank) {
  Tensor tensor;
  const size_t bytes = elements(dims, rank) * sizeof(T);
  tensor.reset(
      c_api().TF_AllocateOutput(arguments->context(), index, type, dims, rank, bytes, arguments->status()));
  arguments->status().check();
  return tensor.as<T>();
}

uint8_t* allocate_temp(KernelArguments* arguments, size_t bytes, Tensor* tensor) {
  if (bytes == 0) return nullptr;
  const int64_t dims[1] = {static_cast<int64_t>(bytes)};
  TF_AllocatorAttributes attributes = {};
  attributes.struct_size = sizeof(attributes);
  attributes.on_host = 1;
  tensor->reset(
      c_api().TF_AllocateTemp(arguments->context(), TF_UINT8, dims, 1, &attributes, arguments->status()));
  arguments->status().check();
  return tensor->as<uint8_t>();
}

// The gradient of the index-th of inputs and params, or null (and an empty output) where it is not wanted.
template <class T>
T* allocate_grad(KernelArguments* arguments, const Plan& plan, size_t index, bool wanted, Batch* batch) {
  const TF_DataType type = type_of(T{});
  const int output = static_cast<int>(index);
  if (!wanted) {
    const int64_t nothing[1] = {0};
    allocate_output<T>(arguments, output, type, nothing, 1);
    return nullptr;
  }
  if (index < plan.inputs.size()) {
    batch->dims[batch->rank - 1] = plan.values[static_cast<size_t>(plan.inputs[index])].width;
    return allocate_output<T>(arguments, output, type, batch->dims, batch->rank);
  }
  const Param& param = plan.params[index - plan.inputs.size()];
  const int64_t dims[2] = {param.rows, param.cols};
  return allocate_output<T>(arguments, output, type, dims + (2 - param.rank), param.rank);
}

}  // namespace

template <class T>
InferKernel<T>::InferKernel(TF_OpKernelConstruction* construction)
    : compiled_(compiled_plan<T>(encoded_plan(construction))) {
  const Plan& plan = compiled_->program.plan();
  check_count(construction, "n_sources", plan.inputs.size() + plan.params.size());
  if (plan.points == 0 && plan.outputs.size() == 1) return;
  invalid("plan: expected one of one output and no points. Received: " + std::to_string(plan.outputs.size()) +
          " outputs, " + std::to_string(plan.points) + " points");
}

template <class T>
void InferKernel<T>::compute(TF_OpKernelContext* context) const {
  const Program<T>& program = compiled_->program;
  const Plan& plan = program.plan();
  KernelArguments arguments(context);
  Sources<T> sources(&arguments, *compiled_);
  Batch& batch = sources.batch;
  batch.dims[batch.rank - 1] = plan.values[static_cast<size_t>(plan.outputs[0])].width;
  T* output = allocate_output<T>(&arguments, 0, type_of(T{}), batch.dims, batch.rank);
  ForwardArgs<T> args = forward_args(&sources);
  args.outputs = &output;
  if (batch.rows > 0) program.forward(args);
}

template <class T>
ForwardKernel<T>::ForwardKernel(TF_OpKernelConstruction* construction)
    : compiled_(compiled_plan<T>(encoded_plan(construction))) {
  check_counts(construction, compiled_->program.plan());
  Status status;
  TF_Bool save = 0;
  c_api().TF_OpKernelConstruction_GetAttrBool(construction, "save", &save, status);
  status.check();
  save_ = save != 0;
}

template <class T>
void ForwardKernel<T>::compute(TF_OpKernelContext* context) const {
  const Program<T>& program = compiled_->program;
  const Plan& plan = program.plan();
  KernelArguments arguments(context);
  Sources<T> sources(&arguments, *compiled_);
  Batch& batch = sources.batch;

  SmallArray<T*> outputs(plan.outputs.size());
  const TF_DataType type = type_of(T{});
  for (size_t i = 0; i < outputs.size(); ++i) {
    batch.dims[batch.rank - 1] = plan.values[static_cast<size_t>(plan.outputs[i])].width;
    outputs[i] = allocate_output<T>(&arguments, static_cast<int>(i), type, batch.dims, batch.rank);
  }
  const int64_t saved_elements = save_ ? program.saved_size(batch.rows) : 0;
  const int64_t saved_dims[1] = {saved_elements * static_cast<int64_t>(sizeof(T))};
  uint8_t* saved =
      allocate_output<uint8_t>(&arguments, static_cast<int>(outputs.size()), TF_UINT8, saved_dims, 1);

  ForwardArgs<T> args = forward_args(&sources);
  args.outputs = outputs.data();
  args.saved = saved_elements > 0 ? reinterpret_cast<T*>(saved) : nullptr;
  if (batch.rows > 0) program.forward(args);
}

template <class T>
BackwardKernel<T>::BackwardKernel(TF_OpKernelConstruction* construction)
    : compiled_(compiled_plan<T>(encoded_plan(construction))), wanted_(int_list(construction, "wanted")) {
  const Plan& plan = compiled_->program.plan();
  check_counts(construction, plan);
  const size_t expected = plan.inputs.size() + plan.params.size();
  if (wanted_.size() != expected) {
    invalid("wanted: expected " + std::to_string(expected) +
            " numbers, one for each input and param. Received: " + std::to_string(wanted_.size()));
  }
  for (const int64_t wanted : wanted_) {
    if (wanted != 0 && wanted != 1) invalid("wanted: expected 0 or 1. Received: " + std::to_string(wanted));
  }
}

template <class T>
void BackwardKernel<T>::compute(TF_OpKernelContext* context) const {
  const Program<T>& program = compiled_->program;
  KernelArguments arguments(context);
  Sources<T> sources(&arguments, *compiled_);
  Batch& batch = sources.batch;
  Derivatives<T> derivatives(&arguments, program, &batch);

  SmallArray<T*> input_grads(sources.inputs.size());
  SmallArray<T*> param_grads(sources.params.size());
  for (size_t i = 0; i < wanted_.size(); ++i) {
    const bool is_input = i < input_grads.size();
    T*& slot = is_input ? input_grads[i] : param_grads[i - input_grads.size()];
    slot = allocate_grad<T>(&arguments, program.plan(), i, wanted_[i] != 0, &batch);
  }
  Tensor workspace;
  BackwardArgs<T> args = backward_args(&sources, &derivatives);
  args.input_grads = input_grads.data();
  args.param_grads = param_grads.data();
  args.workspace = allocate_temp(&arguments, program.workspace_bytes(batch.rows), &workspace);
  program.backward(args);
}

template class InferKernel<float>;
template class InferKernel<double>;
template class ForwardKernel<float>;
template class ForwardKernel<double>;
template class BackwardKernel<float>;
template class BackwardKernel<double>;

}  // namespace fusedsplit
