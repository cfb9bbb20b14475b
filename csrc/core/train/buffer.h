// Memory that a trainer keeps.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace fusedsplit {

// 64-byte aligned elements, zeros at first.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(ptrdiff_t size) : size_(size) {
    const size_t bytes = (static_cast<size_t>(size) * sizeof(T) / 64 + 1) * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
    std::fill_n(data_.get(), size, T());
  }
  T* data() const { return data_.get(); }
  ptrdiff_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  ptrdiff_t size_ = 0;
};

}  // namespace fusedsplit
