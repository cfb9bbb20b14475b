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

}  // namespace fusedsplit
