// The plan as a list of nodes, cut along its columns into chains.
//
// A stem whose slices go to different branches is itself sliced, so that each branch with its part of the
// stem is a chain of its own: hidden values become narrow enough for a level-1 cache, and with few rows the
// chains run in parallel without waiting for one another.
#pragma once

#include <vector>

#include "core/plan/plan.h"

namespace fusedsplit {

// A step, or some columns of a Dense or Merge, ready to run.
struct Node {
  Step step;
  int origin = 0;           // the step of the plan
  ptrdiff_t column = 0;     // the columns of its params that it uses begin here
  ptrdiff_t kernel_at = 0;  // those of its kernel, whose rows are `kernel_ld` apart
  ptrdiff_t kernel_ld = 0;
  ptrdiff_t pre = -1;  // buffer for what the activation was applied to; -1: not needed
  ptrdiff_t pre_ld = 0;
  int fold = -1;               // the fold that takes its result straight from the product; -1: none
  bool folded = false;         // a Merge that a fold computes
  bool elided = false;         // with its fold at inference: nobody else needs its result
  int join = -1;               // its group among the products that are computed as one; -1: none
  bool by_panels = false;      // however few its columns: its bits are those that it has in a join
  int packing = -1;            // of its kernel; -1: it has none
  std::vector<char> grad_add;  // for each source: whether its gradient adds to what is there
  bool masked = false;         // the gradient of its dst arrives with the activation's derivative applied
  bool masks = false;          // it applies relu's derivative to the gradient of its source
  int stage = 0;               // nodes of one stage and different chains may run at the same time
  int chain = 0;               // within its stage
  int second_pass = -1;        // its place among the products of the second pass; -1: none
  bool defers = false;         // other chains of its stage add to the gradient of its source as well
};

struct Sliced {
  // Inputs and outputs in the plan's order; a hidden value may have become several.
  std::vector<Value> values;
  // In an order in which they can run, each chain's nodes together; steps that no output needs are left out.
  std::vector<Node> nodes;
};

// `unit` is the length of the longest vector. With `most` > 0 the columns of a Dense are cut further, to that many at
// most, and no readers cut off fewer: where rows are few, only a wide panel has sums enough under way.
Sliced slice_plan(const Plan& plan, ptrdiff_t unit, ptrdiff_t most);

// By value, how many sources read it.
std::vector<int> count_reads(const std::vector<Node>& nodes, size_t values);

}  // namespace fusedsplit
