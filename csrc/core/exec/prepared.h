// Params made ready for any number of forward calls.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "core/microkernels/kernels.h"

namespace fusedsplit {

// Packed and joined once, for many rows and for few, on the instruction set that was active then. A copy: nothing of
// the caller's is read any more.
template <class T>
struct Prepared {
  const Kernels<T>* kernels = nullptr;
  std::vector<const T*> params;  // null: a kernel that runs packed only
  const T* joined = nullptr;     // of the layout of many rows
  const T* many = nullptr;       // packed kernels of the layout of many rows
  const T* few = nullptr;        // of the layout of few rows, in wide panels
  std::unique_ptr<void, void (*)(void*)> memory{nullptr, &std::free};
};

}  // namespace fusedsplit
