// The activations of a plan. Free of the STL, so that the ISA units can include it.
#pragma once

namespace fusedsplit {

// The order is part of the encoding: append only.
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
