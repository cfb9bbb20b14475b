// Arrays and plans as they come from Python, checked.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "core/plan/plan.h"

namespace fusedsplit {

namespace py = pybind11;

using Code = std::vector<int64_t>;
template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

constexpr size_t kAlignment = 64;

inline Plan decoded(const Code& code) {
  Plan plan;
  const std::string problem = decode_plan(code.data(), code.size(), &plan);
  if (!problem.empty()) throw py::value_error("plan: " + problem);
  return plan;
}

// From here on memory is asked for in huge pages, as NumPy does: a first touch of 64 MiB page by page takes 18 ms, half
// as long as the forward call that writes it.
constexpr size_t kHugePages = size_t{4} << 20;

inline std::unique_ptr<void, void (*)(void*)> aligned_bytes(size_t bytes) {
  const size_t size = (bytes / kAlignment + 1) * kAlignment;
  void* data = std::aligned_alloc(kAlignment, size);
  if (!data) throw std::bad_alloc();
#if defined(__linux__)
  if (size >= kHugePages) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t skipped = (page - reinterpret_cast<uintptr_t>(data) % page) % page;
    madvise(static_cast<char*>(data) + skipped, size - skipped, MADV_HUGEPAGE);  // no more than advice
  }
#endif
  return {data, &std::free};
}

// A new array at an aligned address.
template <class T>
py::array_t<T> aligned_array(const std::vector<py::ssize_t>& shape) {
  size_t count = 1;
  for (const py::ssize_t size : shape) count *= static_cast<size_t>(size);
  auto data = aligned_bytes(count * sizeof(T));
  T* const values = static_cast<T*>(data.get());
  const py::capsule owner(data.release(), &std::free);
  return py::array_t<T>(shape, values, owner);
}

inline std::string shape_text(const py::array& array) { return py::str(array.attr("shape")); }

inline void check_count(const char* name, size_t expected, size_t received) {
  if (expected == received) return;
  throw py::value_error(std::string(name) + ": expected " + std::to_string(expected) +
                        ". Received: " + std::to_string(received));
}

inline void check_shape(const char* name, size_t index, const py::array& array,
                        const std::vector<py::ssize_t>& shape) {
  const std::vector<py::ssize_t> received(array.shape(), array.shape() + array.ndim());
  if (received == shape) return;
  std::string expected;
  for (const py::ssize_t size : shape) expected += (expected.empty() ? "" : ", ") + std::to_string(size);
  throw py::value_error(std::string(name) + "[" + std::to_string(index) + "]: expected shape (" + expected +
                        "). Received: shape " + shape_text(array));
}

}  // namespace fusedsplit
