// The part of XLA's foreign function interface that the op uses, so that a program that XLA compiles can call
// the core. Like the C API it is found by name in the TensorFlow that is already loaded.
//
// Declared here as in XLA's xla/ffi/api/c_api.h of versions 0.1 and 0.2 (TensorFlow 2.20 and 2.21), which lay
// out alike what is used; every structure begins with its size. tests/csrc/c_api_check.cc compiles these
// declarations beside TensorFlow's own and asserts that sizes and places are the same.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fusedsplit {
namespace xla {

// Another version may lay the structures out in another way.
constexpr int kMajorVersion = 0;
constexpr int kFirstMinorVersion = 1;
constexpr int kLastMinorVersion = 2;

enum DataType : int { kU8 = 6, kS32 = 4, kS64 = 5, kF32 = 11, kF64 = 12 };
enum ErrorCode : int { kInvalidArgument = 3, kResourceExhausted = 8, kInternal = 13 };
enum AttrType : int { kArray = 1 };
enum Stage : int { kExecute = 3 };
enum ExtensionType : int { kMetadata = 1 };

struct Error;

struct Extension {
  size_t struct_size;
  ExtensionType type;
  Extension* next;
};

struct ApiVersion {
  size_t struct_size;
  Extension* extension_start;
  int major_version;
  int minor_version;
};

struct Metadata {
  size_t struct_size;
  ApiVersion api_version;
  uint32_t traits;
};

struct MetadataExtension {
  Extension extension_base;
  Metadata* metadata;
};

struct ByteSpan {
  const char* ptr;
  size_t len;
};

struct Array {
  DataType dtype;
  size_t size;
  void* data;
};

struct Buffer {
  size_t struct_size;
  Extension* extension_start;
  DataType dtype;
  void* data;
  int64_t rank;
  int64_t* dims;
};

// Arguments and results: all of them buffers.
struct Buffers {
  size_t struct_size;
  Extension* extension_start;
  int64_t size;
  int* types;
  void** items;
};

struct Attrs {
  size_t struct_size;
  Extension* extension_start;
  int64_t size;
  AttrType* types;
  ByteSpan** names;
  void** attrs;
};

struct Api;

struct CallFrame {
  size_t struct_size;
  Extension* extension_start;
  const Api* api;
  void* ctx;
  Stage stage;
  Buffers args;
  Buffers rets;
  Attrs attrs;
};

using Handler = Error*(CallFrame*);

struct ErrorCreateArgs {
  size_t struct_size;
  Extension* extension_start;
  const char* message;
  ErrorCode errc;
};

struct ErrorArgs {
  size_t struct_size;
  Extension* extension_start;
  Error* error;
  const char* message;  // what ErrorGetMessage gives
};

struct HandlerRegisterArgs {
  size_t struct_size;
  Extension* extension_start;
  ByteSpan name;
  ByteSpan platform;
  Handler* instantiate;
  Handler* prepare;
  Handler* initialize;
  Handler* execute;
  uint32_t traits;
};

struct Api {
  size_t struct_size;
  Extension* extension_start;
  ApiVersion api_version;
  const void* internal_api;
  Error* (*error_create)(ErrorCreateArgs*);
  void (*error_get_message)(ErrorArgs*);
  void (*error_destroy)(ErrorArgs*);
  Error* (*handler_register)(HandlerRegisterArgs*);
};

}  // namespace xla

// Registers the op's two functions with the XLA of this process. Returns "" or the reason why programs that
// XLA compiles cannot call them; never throws. The text lives as long as the library.
const char* register_with_xla();

}  // namespace fusedsplit
