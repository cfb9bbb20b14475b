// The memory that calls work in.
#pragma once

#include <cstddef>

#include "core/export.h"

namespace fusedsplit {

// Memory for the length of one call, 64-byte aligned, not initialized. Kept for the next call when it is
// given back, up to a bound for the whole process.
class FUSEDSPLIT_EXPORT Scratch {
 public:
  // Throws std::bad_alloc.
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace fusedsplit
