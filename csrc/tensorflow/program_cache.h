// Programs shared by every kernel of one plan: forward and backward, eager and graph.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/exec/program.h"

namespace fusedsplit {

// What is fixed per plan and needed in each call.
template <class T>
struct Compiled {
  explicit Compiled(const Plan& plan);
  // Throws unless so many rows, and the scratch that they take, can be in memory: no size computed from them
  // then overflows.
  void check_rows(ptrdiff_t rows) const;

  Program<T> program;
  double row_bytes = 0;  // of all values together: bounds what a number of rows can need
};

// The program of an encoded plan; throws OpError with INVALID_ARGUMENT where it is not a plan.
template <class T>
std::shared_ptr<const Compiled<T>> compiled_plan(const std::vector<int64_t>& code);

}  // namespace fusedsplit
