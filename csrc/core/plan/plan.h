// The plan as the core sees it: fusedsplit/plan/steps.py decoded, and validated by the same rules.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/export.h"
#include "core/plan/kinds.h"

namespace fusedsplit {

constexpr int64_t kPlanVersion = 2;
constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxCount = int64_t{1} << 16;
// What the executor makes of a plan is bounded by these: see fusedsplit/plan/steps.py.
constexpr int64_t kMaxColumns = int64_t{1} << 25;
constexpr int64_t kMaxElements = int64_t{1} << 36;
constexpr int64_t kMaxReads = int64_t{1} << 22;
constexpr int64_t kMaxLinks = int64_t{1} << 26;
// The executor cuts no narrower piece off a Dense or Merge, which would leave too much of tiles and vectors empty.
constexpr int64_t kLeastPiece = 32;

struct Activation {
  ActivationKind kind = ActivationKind::kLinear;
  double alpha = 0;
};

// Columns [start, stop) of a value.
struct Range {
  int value = 0;
  ptrdiff_t start = 0;
  ptrdiff_t stop = 0;
  ptrdiff_t width() const { return stop - start; }
};

struct Value {
  ptrdiff_t width = 0;
  Role role = Role::kHidden;
};

// A kernel (rows x cols) or, with rank 1, a vector of cols.
struct Param {
  int rank = 1;
  ptrdiff_t rows = 1;
  ptrdiff_t cols = 0;
  ptrdiff_t size() const { return rows * cols; }
};

// A gain or shift of a Merge: nothing, a vector param, or one constant.
struct Operand {
  OperandKind kind = OperandKind::kNone;
  int param = -1;
  double value = 0;
};

struct Source {
  Range range;
  double scale = 1;
};

// One step of any kind; which fields count follows from `kind`:
//   kDense  sources[0], kernel, bias (-1: none), activation, dst, point (-1: none), side
//   kMerge  merge_op, sources (none: a sum of nothing, without gain), gain, shift, activation, dst
//   kRow    row_op, sources[0], dst, epsilon (of kNormalize; 0 for the others)
//   kMix    sources[0] is the gate, sources[1..] are the experts; dst
struct Step {
  StepKind kind = StepKind::kDense;
  MergeOp merge_op = MergeOp::kAdd;
  RowOp row_op = RowOp::kSoftmax;
  double epsilon = 0;
  std::vector<Source> sources;
  int kernel = -1;
  int bias = -1;
  Operand gain;
  Operand shift;
  Activation activation;
  Range dst;
  int point = -1;
  Side side = Side::kLeading;
};

struct Plan {
  int points = 0;
  std::vector<Value> values;
  std::vector<Param> params;
  std::vector<Step> steps;
  std::vector<int> inputs;   // indices of the input values, in order
  std::vector<int> outputs;  // indices of the output values, in order
};

// Decodes and validates `size` integers. Returns "" and fills *plan, or returns what is wrong with them. Any
// integers whatever are safe.
FUSEDSPLIT_EXPORT std::string decode_plan(const int64_t* code, size_t size, Plan* plan);

}  // namespace fusedsplit
