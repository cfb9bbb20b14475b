// The op inside programs that XLA compiles: two foreign functions on the host, with the signatures of the two
// kernels (see kernels.h). The plan is their attribute `plan`, an array of 64-bit integers. Forward saves if
// it has one result more than outputs; backward computes the gradients that its attribute `wanted` asks for.

#include <cstddef>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/runtime/per_process.h"
#include "core/runtime/scratch.h"
#include "tensorflow/arguments.h"
#include "tensorflow/c_api.h"
#include "tensorflow/program_cache.h"
#include "tensorflow/xla_api.h"

namespace fusedsplit {
namespace {

using xla::Buffer;
using xla::CallFrame;

TF_DataType type_of_buffer(const Buffer& buffer) {
  switch (buffer.dtype) {
    case xla::kF32:
      return TF_FLOAT;
    case xla::kF64:
      return TF_DOUBLE;
    case xla::kS32:
      return TF_INT32;
    case xla::kU8:
      return TF_UINT8;
    default:
      return static_cast<TF_DataType>(-1);
  }
}

Argument argument_of(const Buffer& buffer) {
  Argument argument;
  argument.type = type_of_buffer(buffer);
  argument.rank = static_cast<int>(buffer.rank);
  argument.dims = buffer.dims;
  argument.data = buffer.data;
  return argument;
}

// The arguments of a foreign call.
class CallArguments : public Arguments {
 public:
  explicit CallArguments(const CallFrame& frame) : args_(frame.args) {}

 private:
  bool fetch(Argument* argument) override {
    if (at_ >= args_.size) return false;
    *argument = argument_of(*static_cast<const Buffer*>(args_.items[at_++]));
    return true;
  }

  const xla::Buffers& args_;
  int64_t at_ = 0;
};

// A result of the call, checked for what it must hold.
Argument result(const CallFrame& frame, size_t index, TF_DataType type) {
  if (static_cast<int64_t>(index) >= frame.rets.size)
    invalid("expected more results. Received: " + std::to_string(frame.rets.size));
  const Argument argument = argument_of(*static_cast<const Buffer*>(frame.rets.items[index]));
  if (argument.type != type) invalid("expected results of the type of the inputs");
  return argument;
}

int64_t elements(const Argument& argument) {
  int64_t count = 1;
  for (int i = 0; i < argument.rank; ++i) count *= argument.dims[i];
  return count;
}

void check_elements(const Argument& argument, int64_t expected) {
  if (elements(argument) != expected)
    invalid("expected a result of " + std::to_string(expected) + " elements. Received: shape " +
            shape_text(argument));
}

const xla::Array& array_attribute(const CallFrame& frame, const char* name) {
  for (int64_t i = 0; i < frame.attrs.size; ++i) {
    const xla::ByteSpan& given = *frame.attrs.names[i];
    if (given.len != std::strlen(name) || std::memcmp(given.ptr, name, given.len) != 0) continue;
    const auto& array = *static_cast<const xla::Array*>(frame.attrs.attrs[i]);
    if (frame.attrs.types[i] == xla::kArray && array.dtype == xla::kS64) return array;
  }
  invalid(std::string(name) + ": expected an array of 64-bit integers. Received: none");
}

// Compiled programs by their plan's code, for as long as the process lives: no one says when XLA has dropped
// a program of its own.
template <class T>
struct Known {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<const Compiled<T>>, std::less<>> programs;
};

template <class T>
std::shared_ptr<const Compiled<T>> program_of(const CallFrame& frame) {
  constexpr size_t kMost = 1024;
  auto& [mutex, known] = PerProcess<Known<T>>::get();
  const xla::Array& plan = array_attribute(frame, "plan");
  const std::string_view bytes(static_cast<const char*>(plan.data), plan.size * sizeof(int64_t));
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(bytes);
  if (found != known.end()) return found->second;
  std::vector<int64_t> code(plan.size);
  if (!code.empty()) std::memcpy(code.data(), bytes.data(), bytes.size());
  auto made = compiled_plan<T>(code);
  if (known.size() >= kMost) known.clear();
  known.emplace(bytes, made);
  return made;
}

template <class T>
void forward(const CallFrame& frame) {
  const auto compiled = program_of<T>(frame);
  const Program<T>& program = compiled->program;
  const Plan& plan = program.plan();
  CallArguments arguments(frame);
  Sources<T> sources(&arguments, *compiled);
  const ptrdiff_t rows = sources.batch.rows;
  SmallArray<T*> outputs(plan.outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Argument y = result(frame, i, type_of(T{}));
    check_elements(y, rows * plan.values[static_cast<size_t>(plan.outputs[i])].width);
    outputs[i] = y.as<T>();
  }
  ForwardArgs<T> args = forward_args(&sources);
  args.outputs = outputs.data();
  if (frame.rets.size > static_cast<int64_t>(outputs.size())) {
    const Argument saved = result(frame, outputs.size(), TF_UINT8);
    check_elements(saved, program.saved_size(rows) * static_cast<int64_t>(sizeof(T)));
    args.saved = elements(saved) > 0 ? saved.as<T>() : nullptr;
  }
  if (rows > 0) program.forward(args);
}

template <class T>
void backward(const CallFrame& frame) {
  const auto compiled = program_of<T>(frame);
  const Program<T>& program = compiled->program;
  const Plan& plan = program.plan();
  CallArguments arguments(frame);
  Sources<T> sources(&arguments, *compiled);
  const ptrdiff_t rows = sources.batch.rows;
  Derivatives<T> derivatives(&arguments, program, &sources.batch);
  const xla::Array& wanted = array_attribute(frame, "wanted");
  SmallArray<T*> input_grads(sources.inputs.size());
  SmallArray<T*> param_grads(sources.params.size());
  if (wanted.size != input_grads.size() + param_grads.size())
    invalid("wanted: expected one number for each input and param. Received: " + std::to_string(wanted.size));
  for (size_t i = 0; i < wanted.size; ++i) {
    const Argument grad = result(frame, i, type_of(T{}));
    const bool is_input = i < input_grads.size();
    T*& slot = is_input ? input_grads[i] : param_grads[i - input_grads.size()];
    slot = nullptr;
    if (static_cast<const int64_t*>(wanted.data)[i] == 0) continue;
    check_elements(grad, is_input ? rows * plan.values[static_cast<size_t>(plan.inputs[i])].width
                                  : plan.params[i - input_grads.size()].size());
    slot = grad.as<T>();
  }
  const Scratch workspace(program.workspace_bytes(rows));
  BackwardArgs<T> args = backward_args(&sources, &derivatives);
  args.input_grads = input_grads.data();
  args.param_grads = param_grads.data();
  args.workspace = workspace.data();
  program.backward(args);
}

xla::ErrorCode error_code(TF_Code code) {
  switch (code) {
    case TF_INVALID_ARGUMENT:
      return xla::kInvalidArgument;
    case TF_RESOURCE_EXHAUSTED:
      return xla::kResourceExhausted;
    default:
      return xla::kInternal;
  }
}

// That of the XLA of this process, set before handlers are registered: XLA wants its own back.
int minor_version = 0;

// XLA asks a handler for its version by a call frame with an extension and nothing else.
bool answers_version(CallFrame* frame) {
  xla::Extension* extension = frame->extension_start;
  if (!extension || extension->type != xla::kMetadata) return false;
  xla::Metadata* metadata = reinterpret_cast<xla::MetadataExtension*>(extension)->metadata;
  metadata->api_version.major_version = xla::kMajorVersion;
  metadata->api_version.minor_version = minor_version;
  metadata->traits = 0;
  return true;
}

template <void (*F32)(const CallFrame&), void (*F64)(const CallFrame&)>
xla::Error* handle(CallFrame* frame) {
  if (answers_version(frame) || frame->stage != xla::kExecute) return nullptr;
  xla::Error* error = nullptr;
  guarded(
      [&] {
        if (frame->args.size < 1) invalid("expected an input. Received: none");
        const bool wide = static_cast<const Buffer*>(frame->args.items[0])->dtype == xla::kF64;
        (wide ? F64 : F32)(*frame);
      },
      [&](TF_Code code, const char* text) {
        xla::ErrorCreateArgs args = {sizeof(xla::ErrorCreateArgs), nullptr, text, error_code(code)};
        error = frame->api->error_create(&args);
      });
  return error;
}

bool register_handler(const xla::Api& api, const char* name, xla::Handler* handler) {
  xla::HandlerRegisterArgs args = {};
  args.struct_size = sizeof(args);
  args.name = {name, std::strlen(name)};
  args.platform = {"Host", 4};
  args.execute = handler;
  xla::Error* error = api.handler_register(&args);
  if (!error) return true;
  xla::ErrorArgs destroyed = {offsetof(xla::ErrorArgs, message), nullptr, error, nullptr};
  api.error_destroy(&destroyed);
  return false;
}

}  // namespace

const char* register_with_xla() {
  using GetApi = const xla::Api*();
  auto* const get = reinterpret_cast<GetApi*>(find_in_tensorflow("XLA_FFI_GetApi"));
  if (!get) return "the XLA of this TensorFlow cannot call foreign functions by name (2.20 and 2.21 can)";
  const xla::Api* api = get();
  if (!api || api->struct_size < sizeof(xla::Api) || api->api_version.major_version != xla::kMajorVersion ||
      api->api_version.minor_version < xla::kFirstMinorVersion ||
      api->api_version.minor_version > xla::kLastMinorVersion)
    return "the XLA of this TensorFlow has another version of its foreign function interface than 0.1 or 0.2";
  minor_version = api->api_version.minor_version;
  const bool registered =
      register_handler(*api, "fusedsplit_forward", &handle<forward<float>, forward<double>>) &&
      register_handler(*api, "fusedsplit_backward", &handle<backward<float>, backward<double>>);
  return registered ? "" : "XLA refused the op's foreign functions";
}

}  // namespace fusedsplit
