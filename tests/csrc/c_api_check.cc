// Compiled, never run: the op's table of TensorFlow functions against the declarations of the installed
// TensorFlow.
#include <cstddef>
#include <type_traits>

#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_datatype.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

#define FUSEDSPLIT_TENSORFLOW_HEADERS
#include "csrc/tensorflow/c_api.h"
#include "csrc/tensorflow/xla_api.h"
#include "xla/ffi/api/c_api.h"

namespace fusedsplit {

#define CHECK_FUNCTION(name, result, parameters) \
  static_assert(std::is_same<decltype(CApi::name), decltype(&::name)>::value, "the type of " #name);
FUSEDSPLIT_C_API(CHECK_FUNCTION)

#define CHECK_CONSTANT(name, value) static_assert(static_cast<int>(name) == value, "the value of " #name);
FUSEDSPLIT_C_API_TYPES(CHECK_CONSTANT)
FUSEDSPLIT_C_API_CODES(CHECK_CONSTANT)

// The struct and the types that the table's own declarations restate.
struct Attributes {
  size_t struct_size;
  unsigned char on_host;
};
static_assert(sizeof(TF_AllocatorAttributes) == sizeof(Attributes), "the size of TF_AllocatorAttributes");
static_assert(offsetof(TF_AllocatorAttributes, on_host) == offsetof(Attributes, on_host), "its layout");
static_assert(std::is_same<TF_Bool, unsigned char>::value, "TF_Bool");
static_assert(sizeof(TF_DataType) == sizeof(int) && sizeof(TF_Code) == sizeof(int), "enums travel as int");

// XLA's foreign function interface: as long as its version is one of ours, so is its layout.
#define CHECK_PLACE(ours, field, theirs, their_field)                                                        \
  static_assert(XLA_FFI_API_MINOR < xla::kFirstMinorVersion || XLA_FFI_API_MINOR > xla::kLastMinorVersion || \
                    (offsetof(xla::ours, field) == offsetof(theirs, their_field) &&                          \
                     sizeof(xla::ours::field) == sizeof(((theirs*)nullptr)->their_field)),                   \
                "the place of " #field " in " #ours);
CHECK_PLACE(Extension, type, XLA_FFI_Extension_Base, type)
CHECK_PLACE(Extension, next, XLA_FFI_Extension_Base, next)
CHECK_PLACE(ApiVersion, minor_version, XLA_FFI_Api_Version, minor_version)
CHECK_PLACE(Metadata, api_version, XLA_FFI_Metadata, api_version)
CHECK_PLACE(Metadata, traits, XLA_FFI_Metadata, traits)
CHECK_PLACE(MetadataExtension, metadata, XLA_FFI_Metadata_Extension, metadata)
CHECK_PLACE(ByteSpan, len, XLA_FFI_ByteSpan, len)
CHECK_PLACE(Array, dtype, XLA_FFI_Array, dtype)
CHECK_PLACE(Array, size, XLA_FFI_Array, size)
CHECK_PLACE(Array, data, XLA_FFI_Array, data)
CHECK_PLACE(Buffer, dtype, XLA_FFI_Buffer, dtype)
CHECK_PLACE(Buffer, data, XLA_FFI_Buffer, data)
CHECK_PLACE(Buffer, rank, XLA_FFI_Buffer, rank)
CHECK_PLACE(Buffer, dims, XLA_FFI_Buffer, dims)
CHECK_PLACE(Buffers, size, XLA_FFI_Args, size)
CHECK_PLACE(Buffers, items, XLA_FFI_Args, args)
CHECK_PLACE(Buffers, size, XLA_FFI_Rets, size)
CHECK_PLACE(Buffers, items, XLA_FFI_Rets, rets)
CHECK_PLACE(Attrs, types, XLA_FFI_Attrs, types)
CHECK_PLACE(Attrs, names, XLA_FFI_Attrs, names)
CHECK_PLACE(Attrs, attrs, XLA_FFI_Attrs, attrs)
CHECK_PLACE(CallFrame, api, XLA_FFI_CallFrame, api)
CHECK_PLACE(CallFrame, stage, XLA_FFI_CallFrame, stage)
CHECK_PLACE(CallFrame, args, XLA_FFI_CallFrame, args)
CHECK_PLACE(CallFrame, rets, XLA_FFI_CallFrame, rets)
CHECK_PLACE(CallFrame, attrs, XLA_FFI_CallFrame, attrs)
CHECK_PLACE(ErrorCreateArgs, message, XLA_FFI_Error_Create_Args, message)
CHECK_PLACE(ErrorCreateArgs, errc, XLA_FFI_Error_Create_Args, errc)
CHECK_PLACE(ErrorArgs, error, XLA_FFI_Error_Destroy_Args, error)
CHECK_PLACE(HandlerRegisterArgs, name, XLA_FFI_Handler_Register_Args, name)
CHECK_PLACE(HandlerRegisterArgs, platform, XLA_FFI_Handler_Register_Args, platform)
CHECK_PLACE(HandlerRegisterArgs, instantiate, XLA_FFI_Handler_Register_Args, bundle.instantiate)
CHECK_PLACE(HandlerRegisterArgs, traits, XLA_FFI_Handler_Register_Args, traits)
CHECK_PLACE(Api, api_version, XLA_FFI_Api, api_version)
CHECK_PLACE(Api, error_create, XLA_FFI_Api, XLA_FFI_Error_Create)
CHECK_PLACE(Api, error_destroy, XLA_FFI_Api, XLA_FFI_Error_Destroy)
CHECK_PLACE(Api, handler_register, XLA_FFI_Api, XLA_FFI_Handler_Register)
static_assert(xla::kF32 == int{XLA_FFI_DataType_F32} && xla::kF64 == int{XLA_FFI_DataType_F64}, "floats");
static_assert(xla::kS32 == int{XLA_FFI_DataType_S32} && xla::kS64 == int{XLA_FFI_DataType_S64}, "integers");
static_assert(xla::kU8 == int{XLA_FFI_DataType_U8}, "bytes");
static_assert(xla::kArray == int{XLA_FFI_AttrType_ARRAY}, "arrays");
static_assert(xla::kExecute == int{XLA_FFI_ExecutionStage_EXECUTE}, "stages");
static_assert(xla::kMetadata == int{XLA_FFI_Extension_Metadata}, "extensions");

}  // namespace fusedsplit
