// The functions of TensorFlow's C API that the op uses, found by name in the TensorFlow that is already
// loaded.
//
// Nothing is linked and no TensorFlow header is included, so one binary serves every TensorFlow that has
// these functions. tests/csrc/c_api_check.cc compiles this table against TensorFlow's own headers (with
// FUSEDSPLIT_TENSORFLOW_HEADERS defined) and asserts that every type is the same.
#pragma once

#include <cstddef>
#include <cstdint>

// X(name, value) for each constant that the op uses.
#define FUSEDSPLIT_C_API_TYPES(X) X(TF_FLOAT, 1) X(TF_DOUBLE, 2) X(TF_INT32, 3) X(TF_UINT8, 4)
#define FUSEDSPLIT_C_API_CODES(X) \
  X(TF_OK, 0) X(TF_INVALID_ARGUMENT, 3) X(TF_RESOURCE_EXHAUSTED, 8) X(TF_INTERNAL, 13)

#ifndef FUSEDSPLIT_TENSORFLOW_HEADERS
struct TF_Status;
struct TF_Tensor;
struct TF_OpDefinitionBuilder;
struct TF_ShapeInferenceContext;
struct TF_KernelBuilder;
struct TF_OpKernelConstruction;
struct TF_OpKernelContext;
#define FUSEDSPLIT_ENUMERATOR(name, value) name = value,
enum TF_DataType { FUSEDSPLIT_C_API_TYPES(FUSEDSPLIT_ENUMERATOR) };
enum TF_Code { FUSEDSPLIT_C_API_CODES(FUSEDSPLIT_ENUMERATOR) };
#undef FUSEDSPLIT_ENUMERATOR
typedef unsigned char TF_Bool;
struct TF_AllocatorAttributes {
  size_t struct_size;
  TF_Bool on_host;
};
#endif

// X(name, result, parameters): everything that the op calls, and nothing else.
#define FUSEDSPLIT_C_API(X)                                                                               \
  X(TF_NewStatus, TF_Status*, ())                                                                         \
  X(TF_DeleteStatus, void, (TF_Status*))                                                                  \
  X(TF_SetStatus, void, (TF_Status*, TF_Code, const char*))                                               \
  X(TF_GetCode, TF_Code, (const TF_Status*))                                                              \
  X(TF_Message, const char*, (const TF_Status*))                                                          \
  X(TF_NewOpDefinitionBuilder, TF_OpDefinitionBuilder*, (const char*))                                    \
  X(TF_OpDefinitionBuilderAddAttr, void, (TF_OpDefinitionBuilder*, const char*))                          \
  X(TF_OpDefinitionBuilderAddInput, void, (TF_OpDefinitionBuilder*, const char*))                         \
  X(TF_OpDefinitionBuilderAddOutput, void, (TF_OpDefinitionBuilder*, const char*))                        \
  X(TF_OpDefinitionBuilderSetShapeInferenceFunction, void,                                                \
    (TF_OpDefinitionBuilder*, void (*)(TF_ShapeInferenceContext*, TF_Status*)))                           \
  X(TF_RegisterOpDefinition, void, (TF_OpDefinitionBuilder*, TF_Status*))                                 \
  X(TF_ShapeInferenceContextSetUnknownShape, void, (TF_ShapeInferenceContext*, TF_Status*))               \
  X(TF_NewKernelBuilder, TF_KernelBuilder*,                                                               \
    (const char*, const char*, void* (*)(TF_OpKernelConstruction*), void (*)(void*, TF_OpKernelContext*), \
     void (*)(void*)))                                                                                    \
  X(TF_KernelBuilder_TypeConstraint, void, (TF_KernelBuilder*, const char*, TF_DataType, TF_Status*))     \
  X(TF_RegisterKernelBuilder, void, (const char*, TF_KernelBuilder*, TF_Status*))                         \
  X(TF_OpKernelConstruction_GetAttrSize, void,                                                            \
    (TF_OpKernelConstruction*, const char*, int32_t*, int32_t*, TF_Status*))                              \
  X(TF_OpKernelConstruction_GetAttrInt64, void,                                                           \
    (TF_OpKernelConstruction*, const char*, int64_t*, TF_Status*))                                        \
  X(TF_OpKernelConstruction_GetAttrInt64List, void,                                                       \
    (TF_OpKernelConstruction*, const char*, int64_t*, int, TF_Status*))                                   \
  X(TF_OpKernelConstruction_GetAttrString, void,                                                          \
    (TF_OpKernelConstruction*, const char*, char*, size_t, TF_Status*))                                   \
  X(TF_OpKernelConstruction_GetAttrBool, void,                                                            \
    (TF_OpKernelConstruction*, const char*, TF_Bool*, TF_Status*))                                        \
  X(TF_OpKernelConstruction_Failure, void, (TF_OpKernelConstruction*, TF_Status*))                        \
  X(TF_OpKernelContext_Failure, void, (TF_OpKernelContext*, TF_Status*))                                  \
  X(TF_NumInputs, int, (TF_OpKernelContext*))                                                             \
  X(TF_NumOutputs, int, (TF_OpKernelContext*))                                                            \
  X(TF_GetInput, void, (TF_OpKernelContext*, int, TF_Tensor**, TF_Status*))                               \
  X(TF_AllocateOutput, TF_Tensor*,                                                                        \
    (TF_OpKernelContext*, int, TF_DataType, const int64_t*, int, size_t, TF_Status*))                     \
  X(TF_AllocateTemp, TF_Tensor*,                                                                          \
    (TF_OpKernelContext*, TF_DataType, const int64_t*, int, TF_AllocatorAttributes*, TF_Status*))         \
  X(TF_DeleteTensor, void, (TF_Tensor*))                                                                  \
  X(TF_TensorType, TF_DataType, (const TF_Tensor*))                                                       \
  X(TF_NumDims, int, (const TF_Tensor*))                                                                  \
  X(TF_Dim, int64_t, (const TF_Tensor*, int))                                                             \
  X(TF_TensorData, void*, (const TF_Tensor*))

namespace fusedsplit {

// One pointer for each function, under the function's own name.
struct CApi {
#define FUSEDSPLIT_MEMBER(name, result, parameters) result(*name) parameters = nullptr;
  FUSEDSPLIT_C_API(FUSEDSPLIT_MEMBER)
#undef FUSEDSPLIT_MEMBER
};

// Fills the table from the TensorFlow loaded in this process. Returns "" or the reason why it cannot be used;
// never throws. The text lives as long as the library.
const char* load_c_api(CApi* api);

// A function that the TensorFlow in this process exports, or null.
void* find_in_tensorflow(const char* symbol);

}  // namespace fusedsplit
