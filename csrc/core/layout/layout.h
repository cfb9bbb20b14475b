// What the executor decides about a plan, once: in which order, where values live, what is kept for
// backward.
#pragma once

#include <cstddef>
#include <vector>

#include "core/layout/slice.h"
#include "core/plan/plan.h"

namespace fusedsplit {

// Where the columns of a value are. Inputs and outputs are the caller's tensors; hidden values, and the
// gradients of all values but inputs, are buffers of a block: `offset * rows` elements into it, a row every
// `ld`, with rows the block's own number of rows.
struct Place {
  Role role = Role::kHidden;
  int index = 0;  // among the inputs or outputs
  ptrdiff_t width = 0;
  ptrdiff_t ld = 0;          // of its buffers
  ptrdiff_t kept_ld = 0;     // of the one kept for backward
  ptrdiff_t kept = 0;        // its buffer where values are kept for backward
  ptrdiff_t brief = 0;       // the same at inference, where buffers are used again
  ptrdiff_t grad = 0;        // the buffer of its gradient, where buffers are used again
  ptrdiff_t own_grad = 0;    // the same where each gradient has its own, for chains that run side by side
  bool grad_zeroed = false;  // the gradient starts as zeros; otherwise the first writer of a column sets it
  bool read = false;         // some step reads it
};

// One param's gradient in a shard.
struct ParamPlace {
  ptrdiff_t cols = 0;
  ptrdiff_t offset = 0;
  bool zeroed = false;       // starts as zeros, because several steps share it or leave some of it alone
  bool shared = false;       // by several steps
  bool second_pass = false;  // in no shard: the second pass computes it
};

// A node whose kernel is so large that its gradient waits for the second pass: by then dZ of a block of each shard
// lies in memory, and threads share the gradient's rows and columns instead of the batch.
struct SecondPassNode {
  size_t node = 0;
  ptrdiff_t offset = 0;  // of its dZ, `offset * rows` elements into the block's
  ptrdiff_t ld = 0;
};

// Columns of an output whose gradient enters backward through one activation, whoever wrote them.
struct Entry {
  Range range;
  size_t node = 0;  // the first of the nodes that wrote them
};

// Columns of a kernel as nodes read them, packed once however many nodes these are: forward, or transposed for
// backward, in the same place.
struct Packing {
  size_t node = 0;      // one of those that read it
  ptrdiff_t at = 0;     // among the packed operands
  bool shared = false;  // by several nodes
  bool forward = true;  // some node reads it by itself, not by panels
};

// Products of one source, each of so few columns that they fill their vectors only together: where rows are
// many, they are computed as one product k x n, which runs in the place of its first node.
struct Join {
  std::vector<size_t> nodes;
  ptrdiff_t k = 0;
  ptrdiff_t n = 0;
  ptrdiff_t packed = 0;  // among the joined operands: its kernels side by side, packed
  ptrdiff_t bias = 0;    // and its biases
  bool fresh = true;     // no earlier join has the same operands
};

// A Merge that is computed, source by source, by the products that write its sources, where blocks of rows run
// through all nodes in turn.
struct Fold {
  struct Term {
    size_t source = 0;      // of the Merge
    ptrdiff_t writer = -1;  // the node whose product it is; -1: only the first term, which is there already
  };
  size_t merge = 0;         // the node
  std::vector<Term> terms;  // as they are folded: in the order in which their writers run
};

// Nodes [begin, end) of one chain.
struct Chain {
  size_t begin = 0;
  size_t end = 0;
  double flops = 0;  // of its products, per row
};

struct Layout {
  std::vector<Place> places;  // by value
  std::vector<Node> nodes;    // in the order in which they run
  std::vector<ParamPlace> params;
  std::vector<Entry> entries;
  std::vector<Packing> packings;
  std::vector<Join> joins;
  std::vector<Fold> folds;
  std::vector<SecondPassNode> second_pass;
  std::vector<std::vector<Chain>> stages;
  bool parallel_gradients = true;   // the chains of a stage may run backward at the same time
  ptrdiff_t kept_width = 0;         // elements per row of all that is kept for backward
  ptrdiff_t brief_width = 0;        // the same of the hidden values at inference
  ptrdiff_t grad_width = 0;         // the same of gradients
  ptrdiff_t own_grad_width = 0;     // the same where each has its own buffer
  ptrdiff_t live_width = 0;         // the widest source of which a point says the live columns
  ptrdiff_t param_size = 0;         // elements of all params
  ptrdiff_t shard_size = 0;         // elements of one shard of weight gradients
  ptrdiff_t second_pass_width = 0;  // elements per row of what is kept for the second pass
  ptrdiff_t packed_size = 0;        // elements of all packed kernels
  ptrdiff_t joined_size = 0;        // elements of all joined operands
  ptrdiff_t joined_width = 0;       // columns of the widest join, padded
  ptrdiff_t join_kernel = 0;        // elements of the largest join's kernels before they are packed
  ptrdiff_t max_sources = 0;        // of a Merge or Mix
  ptrdiff_t max_suffix = 0;         // elements of scratch for the derivative of a Merge that multiplies
  ptrdiff_t max_merge = 0;          // the widest Merge
  ptrdiff_t narrow_size = 0;        // elements of the largest packed kernel of few columns
  ptrdiff_t brief_rows = 0;         // rows of a block at inference, at most
  ptrdiff_t most_shards = 0;        // of weight gradients
  ptrdiff_t kept_rows = 0;          // rows of a block in training, at most
  double flops = 0;                 // of the products, per row
};

// Columns that the derivative of a Merge of so many sources takes at a time.
ptrdiff_t merge_tile(ptrdiff_t sources);

// `bytes` is the size of an element; `most` is for slice_plan. Of `own` params, which are not the caller's tensors, every
// gradient is in shards, and the columns of a kernel that a node reads lie together.
Layout make_layout(const Plan& plan, size_t bytes, ptrdiff_t most, bool own = false);

}  // namespace fusedsplit
