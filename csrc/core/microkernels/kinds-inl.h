// A plan's kinds as kernels take them: plain ints, since the tables of all units share their types. Included by ISA
// units.
#pragma once

#include "core/plan/kinds.h"

namespace fusedsplit {
namespace {

constexpr int kLinearKind = static_cast<int>(ActivationKind::kLinear);
constexpr int kReluKind = static_cast<int>(ActivationKind::kRelu);
constexpr int kExponentialKind = static_cast<int>(ActivationKind::kExponential);
// What tiles apply in registers is `kind <= kReluKind`; arguments without an activation have kind 0.
static_assert(kLinearKind == 0 && kReluKind == 1, "linear and relu come first");

constexpr int kOpAdd = static_cast<int>(MergeOp::kAdd);
constexpr int kOpMul = static_cast<int>(MergeOp::kMul);
constexpr int kOpMax = static_cast<int>(MergeOp::kMax);
constexpr int kOpMin = static_cast<int>(MergeOp::kMin);
// Whatever is none of the first three is a minimum.
static_assert(kOpMin == 3 && kMergeOps == 4, "a merge has four operations");

constexpr int kRowSoftmax = static_cast<int>(RowOp::kSoftmax);
constexpr int kRowMean = static_cast<int>(RowOp::kMean);
constexpr int kRowMax = static_cast<int>(RowOp::kMax);
constexpr int kRowNormalize = static_cast<int>(RowOp::kNormalize);
static_assert(kRowNormalize + 1 == static_cast<int>(RowOp::kCount),
              "row() and row_grad() know all operations");

}  // namespace
}  // namespace fusedsplit
