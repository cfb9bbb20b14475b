// One call of a kernel: its status, its tensors, and errors that reach TensorFlow as a status.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "tensorflow/c_api.h"

namespace fusedsplit {

extern const CApi& c_api();

// Thrown inside the library only: `guarded` turns it into a status before TensorFlow sees it.
class OpError : public std::runtime_error {
 public:
  OpError(TF_Code code, const std::string& text) : std::runtime_error(text), code(code) {}
  TF_Code code;
};

[[noreturn]] inline void invalid(const std::string& text) { throw OpError(TF_INVALID_ARGUMENT, text); }

// An array whose first kInline elements need no allocation: a call of a usual layer allocates nothing.
template <class T, size_t kInline = 48>
class SmallArray {
 public:
  explicit SmallArray(size_t size) : size_(size) {
    if (size > kInline) heap_.reset(new T[size]());
    data_ = heap_ ? heap_.get() : inline_;
  }
  SmallArray(const SmallArray&) = delete;
  SmallArray& operator=(const SmallArray&) = delete;
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* data() { return data_; }
  size_t size() const { return size_; }

 private:
  size_t size_;
  T* data_;
  T inline_[kInline] = {};
  std::unique_ptr<T[]> heap_;
};

class Status {
 public:
  Status() : status_(c_api().TF_NewStatus()) {}
  ~Status() { c_api().TF_DeleteStatus(status_); }
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;
  operator TF_Status*() { return status_; }  // NOLINT: passed wherever the C API wants a status
  void set(TF_Code code, const char* text) { c_api().TF_SetStatus(status_, code, text); }
  void check() const {
    const TF_Code code = c_api().TF_GetCode(status_);
    if (code != TF_OK) throw OpError(code, c_api().TF_Message(status_));
  }

 private:
  TF_Status* status_;
};

// An owned TF_Tensor.
class Tensor {
 public:
  Tensor() = default;
  ~Tensor() { reset(nullptr); }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  void reset(TF_Tensor* tensor) {
    if (tensor_) c_api().TF_DeleteTensor(tensor_);
    tensor_ = tensor;
  }
  TF_Tensor** out() { return &tensor_; }
  TF_DataType type() const { return c_api().TF_TensorType(tensor_); }
  int rank() const { return c_api().TF_NumDims(tensor_); }
  // TF_Dim past the rank ends the process.
  int64_t dim(int axis) const { return c_api().TF_Dim(tensor_, axis); }
  void* data() const { return c_api().TF_TensorData(tensor_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data());
  }

 private:
  TF_Tensor* tensor_ = nullptr;
};

inline TF_DataType type_of(float) { return TF_FLOAT; }
inline TF_DataType type_of(double) { return TF_DOUBLE; }

// Runs `body`; whatever it throws is handed to `fail(code, text)`. Nothing leaves: a `fail` that cannot tell
// ends the process, since a call that failed unnoticed would leave numbers that mean nothing.
template <class Body, class Fail>
void guarded(Body&& body, Fail&& fail) noexcept {
  try {
    body();
  } catch (const OpError& error) {
    fail(error.code, error.what());
  } catch (const std::bad_alloc&) {
    fail(TF_RESOURCE_EXHAUSTED, "fusedsplit: out of memory");
  } catch (const std::exception& error) {
    fail(TF_INTERNAL, error.what());
  } catch (...) {
    fail(TF_INTERNAL, "fusedsplit: unknown error");
  }
}

}  // namespace fusedsplit
