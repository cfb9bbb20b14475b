// Random plans, their tensors, and the plain computation of them, for selftest.cc.
#pragma once

#include <random>
#include <vector>

#include "core/exec/program.h"

namespace fusedsplit {

// Tensors of one call, in double.
struct Case {
  ptrdiff_t rows = 0;
  std::vector<std::vector<double>> inputs, params, output_grads;
  std::vector<std::vector<int32_t>> points;  // one number, or one for each row
  std::vector<bool> per_row;
};

// An encoded plan of all kinds of steps.
std::vector<int64_t> random_plan(std::mt19937* random);
Case random_case(const Plan& plan, std::mt19937* random);
Case single_row(const Plan& plan, const Case& c, ptrdiff_t row);

// The outputs, by the definition of each step, one element after another.
std::vector<std::vector<double>> run_plainly(const Plan& plan, const Case& c);

}  // namespace fusedsplit
