// The derivative of one block of rows.
#pragma once

#include "core/exec/block.h"

namespace fusedsplit {

// What a call of backward is to compute, and where: shared by all blocks.
template <class T>
struct Gradients {
  const BackwardArgs<T>* args = nullptr;
  std::vector<char> wanted;       // by value: whether its gradient is needed
  const T* transposed = nullptr;  // kernels packed for input gradients
  T* second_pass_dz = nullptr;    // dZ for the second pass, of a block of each shard
  T* shards = nullptr;            // weight gradients of all shards but the first, which is the result

  // The gradients of outputs stand in the blocks' own buffers (BlockGradients::value): output_grads only says which
  // there are.
  bool given = false;
  std::vector<char>
      unreached;  // by value, or empty: no gradient comes to it, which are zeros that nobody writes

  Gradients(const Layout& layout, const BackwardArgs<T>& call);
  // Finds what is unreached.
  void skip_unreached(const Layout& layout);
  bool reaches(int value) const { return unreached.empty() || !unreached[static_cast<size_t>(value)]; }
  bool wants_param(int param) const { return param >= 0 && args->param_grads[param]; }
  T* param(const Layout& layout, int param, ptrdiff_t shard) const;
};

// A block on its way back.
template <class T>
struct BlockGradients {
  const Block<T>* block = nullptr;
  const Gradients<T>* all = nullptr;
  T* buffers = nullptr;
  ptrdiff_t shard = 0;
  bool first = false;           // of its shard: sets what further blocks add to
  bool own_buffers = false;     // no two gradients share a buffer
  T* second_pass_dz = nullptr;  // where dZ is kept for the second pass; null: there is none

  Rows<T> value(const Range& range) const;
  T* param(int index, ptrdiff_t column) const;
  bool adds(int param) const { return !first || block->layout->params[static_cast<size_t>(param)].zeroed; }
};

// Fills the gradients of outputs and zeroes those that start as zeros, in rows [begin, end) of the block. Call it for all
// rows before any run_gradient.
template <class T>
void begin_gradients(const BlockGradients<T>& grads, ptrdiff_t begin, ptrdiff_t end);

// What workers share of the derivative of one Dense, where a stage has no chains to share: columns of its kernel's
// gradient, or of its source's.
struct GradientPart {
  bool of_source = false;
  ptrdiff_t begin = 0, end = 0;
};

// The parts of a node's derivative; none where it is not worth sharing. Call mask_gradient before any of them, which
// may then run in any order, but not beside those of another node.
template <class T>
std::vector<GradientPart> gradient_parts(const BlockGradients<T>& grads, const Node& node);
template <class T>
void mask_gradient(const BlockGradients<T>& grads, const Node& node);
// Packs what it needs of the kernel into `transposed`, which is that of `grads`.
template <class T>
void run_gradient_part(const BlockGradients<T>& grads, const Node& node, const GradientPart& part,
                       T* transposed);

// Runs a node's derivative: last node first. With `defer`, a gradient of its source that other chains add to
// as well is deferred to run_deferred.
template <class T>
void run_gradient(const BlockGradients<T>& grads, const Node& node, bool defer);

struct Span {
  ptrdiff_t begin = 0;
  ptrdiff_t end = 0;
};

// What one task of the second pass computes: these rows and columns of the gradient of a node's kernel.
struct SecondPassTask {
  const SecondPassNode* waiting = nullptr;
  Span rows, columns;
};

// Sums a task's gradient over blocks, in their order.
template <class T>
void run_second_pass(const std::vector<BlockGradients<T>>& blocks, const SecondPassTask& task);

// What was deferred, for rows [begin, end) of the block.
template <class T>
void run_deferred(const BlockGradients<T>& grads, const Node& node, ptrdiff_t begin, ptrdiff_t end);

}  // namespace fusedsplit
