// What training asks of an ISA unit: losses with their gradients, and updates of weights. No STL and no inline function
// may appear here (see kernels.h).
#pragma once

#include <cstddef>

namespace fusedsplit {

template <class T>
struct Rows;

// A number for each row from predictions and targets. `Logits`: from what the last sigmoid or softmax is applied to.
enum class LossKind : int {
  kMeanSquaredError,
  kMeanAbsoluteError,
  kMeanSquaredLogarithmicError,
  kMeanAbsolutePercentageError,
  kHuber,
  kLogCosh,
  kPoisson,
  kKlDivergence,
  kHinge,
  kSquaredHinge,
  kBinaryCrossentropy,
  kBinaryCrossentropyLogits,
  // Those above are sums or means over the columns, those below look at a row as a whole.
  kCategoricalHinge,
  kCategoricalCrossentropy,
  kCategoricalCrossentropyLogits,
  kSparseCategoricalCrossentropy,
  kSparseCategoricalCrossentropyLogits,
  // Without a gradient.
  kBinaryAccuracy,
  kCategoricalAccuracy,
  kSparseCategoricalAccuracy,
  kCount,
};

template <class T>
struct LossRows {
  int kind = 0;  // a LossKind
  ptrdiff_t m = 0;
  ptrdiff_t n = 0;
  Rows<const T> y;                    // predictions or logits
  Rows<const T> target;               // m x n; not read by the sparse ones
  const ptrdiff_t* labels = nullptr;  // m classes, each in [0, n): of the sparse ones
  T target_scale = 1;                 // a target counts as target_scale * target + target_shift
  T target_shift = 0;
  T epsilon = 0;
  T delta = 1;          // of Huber; the threshold of the binary accuracy
  T* values = nullptr;  // m losses
  Rows<T> grad;         // of `y`; null data: not wanted
  bool add = false;
  T factor = 1;                // of a row's gradient
  const T* weights = nullptr;  // by row, more of its factor; null: 1
};

enum class OptimizerKind : int {
  kSgd,
  kMomentum,
  kNesterov,
  kAdam,
  kAmsgrad,
  kRmsprop,
  kAdagrad,
  kNadam,
  kLion,
  kCount
};

// The gradients of some elements, summed over shards in a fixed binary tree.
template <class T>
struct ShardSum {
  ptrdiff_t n = 0;
  const T* first = nullptr;  // of the first shard; each further one `stride` elements on
  ptrdiff_t stride = 0;
  ptrdiff_t shards = 1;  // a power of two, at most kMostShards
  T* to = nullptr;
};

// One step of an optimizer for n elements, each pointer aligned like the others.
template <class T>
struct Update {
  int kind = 0;  // an OptimizerKind
  ptrdiff_t n = 0;
  const T* g = nullptr;
  T scale = 1;  // of the gradient
  T clip = 0;   // and the most of what that gives; 0: any
  T* w = nullptr;
  T* m = nullptr;      // momentums
  T* v = nullptr;      // velocities, or accumulators
  T* extra = nullptr;  // amsgrad's largest velocities, or a centred rmsprop's average gradients
  T decay = 0;         // the part of a weight that decays
  T rate = 0;          // of Adam with its correction
  T beta_1 = 0;        // a momentum as well
  T beta_2 = 0;        // rho as well
  T rest_1 = 0;  // 1 - beta_1 and 1 - beta_2, not of the rounded ones: in single precision 1 - 0.999 would be
  T rest_2 = 0;  // off by 1e-5
  T epsilon = 0;
  T rate_m = 0;  // of Nadam: the factors of m, of the gradient, and of v before its root
  T rate_g = 0;
  T scale_v = 0;
};

}  // namespace fusedsplit
