// The kinds of things in a plan, as it numbers them. Free of the STL, so that the ISA units, which take kinds as plain
// ints, can include it.
#pragma once

namespace fusedsplit {

// The order of all of these is part of the encoding: append only.
enum class Role : int { kInput, kHidden, kOutput };
enum class StepKind : int { kDense, kMerge, kRow, kMix };
enum class MergeOp : int { kAdd, kMul, kMax, kMin };
enum class RowOp : int { kSoftmax, kMean, kMax, kNormalize, kCount };
enum class Side : int { kLeading, kTrailing };
enum class OperandKind : int { kNone, kParam, kConst };

// How many there are of those that have no kCount, which a switch over all kinds would have to name.
constexpr int kStepKinds = static_cast<int>(StepKind::kMix) + 1;
constexpr int kMergeOps = static_cast<int>(MergeOp::kMin) + 1;
constexpr int kSides = static_cast<int>(Side::kTrailing) + 1;
constexpr int kOperandKinds = static_cast<int>(OperandKind::kConst) + 1;

enum class ActivationKind : int {
  kLinear,
  kRelu,
  kRelu6,
  kLeakyRelu,
  kElu,
  kSelu,
  kGelu,
  kGeluTanh,
  kSilu,
  kSigmoid,
  kHardSigmoid,
  kTanh,
  kSoftplus,
  kSoftsign,
  kExponential,
  kCount,
};

// What the derivative of an activation is computed from: its output, the pre-activation, or neither.
enum class GradNeeds : int { kNothing, kOutput, kPre };

// The output wherever it tells as much as the pre-activation does; it is kept for other reasons anyway. A
// negative alpha maps both sides of leaky_relu and elu to one sign.
static constexpr GradNeeds activation_grad_needs(ActivationKind kind, double alpha) {
  switch (kind) {
    case ActivationKind::kLinear:
      return GradNeeds::kNothing;
    case ActivationKind::kLeakyRelu:
    case ActivationKind::kElu:
      return alpha < 0 ? GradNeeds::kPre : GradNeeds::kOutput;
    case ActivationKind::kRelu:
    case ActivationKind::kRelu6:
    case ActivationKind::kSelu:
    case ActivationKind::kSigmoid:
    case ActivationKind::kHardSigmoid:
    case ActivationKind::kTanh:
    case ActivationKind::kExponential:
      return GradNeeds::kOutput;
    default:
      return GradNeeds::kPre;
  }
}

}  // namespace fusedsplit
