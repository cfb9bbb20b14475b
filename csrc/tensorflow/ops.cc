// Registers the ops when TensorFlow loads the library, through its C API alone.
//
// A TensorFlow that lacks one of the functions gets no op and no crash: `fusedsplit_op_status` then says why.

#include <cstdio>
#include <string>
#include <vector>

#include "build.h"
#include "core/export.h"
#include "core/library.h"
#include "core/microkernels/isa.h"
#include "core/plan/plan.h"
#include "core/runtime/workers.h"
#include "tensorflow/c_api.h"
#include "tensorflow/call.h"
#include "tensorflow/kernels.h"
#include "tensorflow/xla_api.h"

namespace fusedsplit {
namespace {

CApi table;

template <class Kernel>
void* create(TF_OpKernelConstruction* construction) {
  void* kernel = nullptr;
  guarded([&] { kernel = new Kernel(construction); },
          [&](TF_Code code, const char* text) {
            Status status;
            status.set(code, text);
            table.TF_OpKernelConstruction_Failure(construction, status);
          });
  return kernel;
}

template <class Kernel>
void compute(void* kernel, TF_OpKernelContext* context) {
  guarded([&] { static_cast<const Kernel*>(kernel)->compute(context); },
          [&](TF_Code code, const char* text) {
            Status status;
            status.set(code, text);
            table.TF_OpKernelContext_Failure(context, status);
          });
}

template <class Kernel>
void destroy(void* kernel) {
  delete static_cast<Kernel*>(kernel);
}

// The widths are in the plan, which a shape function of the C API cannot read; Python sets the static shapes.
void unknown_shapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  table.TF_ShapeInferenceContextSetUnknownShape(context, status);
}

struct OpDefinition {
  const char* name;
  const char* attrs[7];
  const char* inputs[7];
  const char* outputs[3];
};

const OpDefinition kInfer = {
    "FusedsplitInfer",
    {"T: {float, double}", "n_sources: int >= 1", "plan: string"},
    {"sources: n_sources * T"},
    {"output: T"},
};

const OpDefinition kForward = {
    "FusedsplitForward",
    {"T: {float, double}", "n_inputs: int >= 1", "n_params: int >= 0", "n_points: int >= 0",
     "n_outputs: int >= 1", "plan: string", "save: bool = false"},
    {"inputs: n_inputs * T", "params: n_params * T", "points: n_points * int32"},
    {"outputs: n_outputs * T", "saved: uint8"},
};

const OpDefinition kBackward = {
    "FusedsplitBackward",
    {"T: {float, double}", "n_inputs: int >= 1", "n_params: int >= 0", "n_points: int >= 0",
     "n_outputs: int >= 1", "plan: string", "wanted: list(int)"},
    {"inputs: n_inputs * T", "params: n_params * T", "points: n_points * int32", "outputs: n_outputs * T",
     "saved: uint8", "output_grads: n_outputs * T"},
    {"input_grads: n_inputs * T", "param_grads: n_params * T"},
};

void register_definition(const OpDefinition& op) {
  TF_OpDefinitionBuilder* builder = table.TF_NewOpDefinitionBuilder(op.name);
  for (const char* attr : op.attrs) {
    if (attr) table.TF_OpDefinitionBuilderAddAttr(builder, attr);
  }
  for (const char* input : op.inputs) {
    if (input) table.TF_OpDefinitionBuilderAddInput(builder, input);
  }
  for (const char* output : op.outputs) {
    if (output) table.TF_OpDefinitionBuilderAddOutput(builder, output);
  }
  table.TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, &unknown_shapes);
  Status status;
  table.TF_RegisterOpDefinition(builder, status);  // takes the builder
  status.check();
}

template <class Kernel>
void register_kernel(const OpDefinition& op, TF_DataType type) {
  Status status;
  TF_KernelBuilder* builder =
      table.TF_NewKernelBuilder(op.name, "CPU", &create<Kernel>, &compute<Kernel>, &destroy<Kernel>);
  table.TF_KernelBuilder_TypeConstraint(builder, "T", type, status);
  status.check();
  table.TF_RegisterKernelBuilder(op.name, builder, status);  // takes the builder
  status.check();
}

void require(const std::string& problem) {
  if (!problem.empty()) throw OpError(TF_INTERNAL, problem);
}

// "" once the ops are registered, or the reason why they are not: good for as long as the library is there.
const char* register_all() {
  static char problem[512] = "";
  guarded(
      [] {
        require(core_problem());
        require(load_c_api(&table));
        register_definition(kInfer);
        register_definition(kForward);
        register_definition(kBackward);
        register_kernel<InferKernel<float>>(kInfer, TF_FLOAT);
        register_kernel<InferKernel<double>>(kInfer, TF_DOUBLE);
        register_kernel<ForwardKernel<float>>(kForward, TF_FLOAT);
        register_kernel<ForwardKernel<double>>(kForward, TF_DOUBLE);
        register_kernel<BackwardKernel<float>>(kBackward, TF_FLOAT);
        register_kernel<BackwardKernel<double>>(kBackward, TF_DOUBLE);
      },
      [](TF_Code, const char* text) { std::snprintf(problem, sizeof(problem), "%s", text); });
  return problem;
}

// TensorFlow takes the ops that appear while it loads the library, so they are registered by a static
// initializer.
const char* const registration = register_all();
const char* const xla_registration = *registration ? registration : register_with_xla();

// What `body` returns, or -1 where it throws.
template <class Body>
auto guarded_number(const Body& body) {
  decltype(body()) number = -1;
  guarded([&] { number = body(); }, [](TF_Code, const char*) {});
  return number;
}

// Bytes that forward saves for each row.
template <class T>
int64_t saved_bytes(const std::vector<int64_t>& code) {
  return compiled_plan<T>(code)->program.saved_size(1) * static_cast<int64_t>(sizeof(T));
}

}  // namespace

const CApi& c_api() { return table; }

}  // namespace fusedsplit

extern "C" {

// "" or the reason why the ops are not registered.
FUSEDSPLIT_EXPORT const char* fusedsplit_op_status() { return fusedsplit::registration; }

// Writes what this library is, and in `xla` why XLA cannot call it, as JSON, like snprintf: returns the
// length that the whole text has, or -1.
FUSEDSPLIT_EXPORT int fusedsplit_op_info(char* text, size_t size) {
  return fusedsplit::guarded_number([&] {
    return std::snprintf(text, size,
                         "{\"version\": \"%s\", \"plan_version\": %lld, \"isa\": \"%s\", \"threads\": %d, "
                         "\"xla\": \"%s\"}",
                         fusedsplit::kVersion, static_cast<long long>(fusedsplit::kPlanVersion),
                         fusedsplit::active_isa(), fusedsplit::threads(), fusedsplit::xla_registration);
  });
}

// The most threads that a call may use, its caller included.
FUSEDSPLIT_EXPORT void fusedsplit_op_set_threads(int threads) { fusedsplit::set_threads(threads); }

// Bytes that forward saves for backward for each row of a plan of `size` integers, computed in float64 or
// float32; -1 where it is no plan.
FUSEDSPLIT_EXPORT int64_t fusedsplit_op_saved_bytes(const int64_t* plan, size_t size, int float64) {
  return fusedsplit::guarded_number([&] {
    const std::vector<int64_t> code(plan, plan + size);
    return float64 ? fusedsplit::saved_bytes<double>(code) : fusedsplit::saved_bytes<float>(code);
  });
}

}  // extern "C"
