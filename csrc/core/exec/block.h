// One block of rows: where each value is, and the steps of a plan run over it.
#pragma once

#include <cstdint>

#include "core/exec/program.h"
#include "core/layout/layout.h"
#include "core/microkernels/kernels.h"
#include "core/runtime/assert.h"

namespace fusedsplit {

// Hands out 64-byte aligned parts of some memory of that size; without any it only measures.
class Carver {
 public:
  explicit Carver(void* base, size_t size = SIZE_MAX) : base_(static_cast<char*>(base)), size_(size) {}
  template <class E>
  E* take(ptrdiff_t count) {
    FUSEDSPLIT_ASSERT(count >= 0 && reinterpret_cast<uintptr_t>(base_) % 64 == 0);
    char* piece = base_ ? base_ + used_ : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(E) + 63) / 64 * 64;
    FUSEDSPLIT_ASSERT(used_ <= size_);
    return reinterpret_cast<E*>(piece);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t size_;
  size_t used_ = 0;
};

// What one worker needs beside a block's values.
template <class T>
struct Temporaries {
  T* live_source = nullptr;           // a source of which the columns that a point rules out are zeros
  T* whole_gradient = nullptr;        // its gradient, before only the live columns count
  MergeSource<T>* sources = nullptr;  // of one Merge or Mix
  T* suffix = nullptr;
  T* sums = nullptr;    // over the rows of a block, for a gain or shift
  T* narrow = nullptr;  // the packed kernel of a Dense of few columns
  T* joined = nullptr;  // the result of a join, before it goes to its nodes' places

  Temporaries() = default;
  Temporaries(const Layout& layout, ptrdiff_t rows, Carver* carver) {
    live_source = carver->take<T>(layout.live_width * rows);
    whole_gradient = carver->take<T>(layout.live_width * rows);
    sources = carver->take<MergeSource<T>>(layout.max_sources);
    suffix = carver->take<T>(layout.max_suffix);
    sums = carver->take<T>(layout.max_merge);
    narrow = carver->take<T>(layout.narrow_size);
    joined = carver->take<T>(layout.joined_width * rows);
  }
};

// The caller's tensors, shared by all blocks of a call.
template <class T>
struct Tensors {
  const T* const* inputs = nullptr;
  const T* const* params = nullptr;
  const Point* points = nullptr;
  const T* const* outputs = nullptr;     // forward writes them
  const ptrdiff_t* output_ld = nullptr;  // by output: the stride of its rows; null: they lie close
  const T* packed = nullptr;             // kernels packed for forward; null: used as they are
  bool wide = false;                     // in the panels that few rows read
  const T* joined = nullptr;             // operands of the joins; null: their nodes run one by one
};

// A block of rows [row, row + rows) with its buffers.
template <class T>
struct Block {
  const Kernels<T>* kernels = nullptr;
  const Layout* layout = nullptr;
  const Tensors<T>* tensors = nullptr;
  ptrdiff_t row = 0;
  ptrdiff_t rows = 0;
  T* buffers = nullptr;
  bool keeps = false;          // buffers are laid out, and filled, for backward
  bool recomputes = false;     // outputs are there already and must not be written
  const char* idle = nullptr;  // by value: nobody wants it, and it is not computed; null: all are
  bool in_turn = false;        // runs through all nodes in turn, so that some may do the work of others
  Temporaries<T> temporaries;

  // Where columns from `column` of a value are. Whoever writes through it knows that it may.
  Rows<T> value(int index, ptrdiff_t column) const {
    const Place& place = layout->places[static_cast<size_t>(index)];
    const size_t i = static_cast<size_t>(place.index);
    switch (place.role) {
      case Role::kInput:
        return {const_cast<T*>(tensors->inputs[i]) + row * place.width + column, place.width};
      case Role::kOutput:
        return output(i, tensors->output_ld ? tensors->output_ld[i] : place.width, column);
      default:
        if (keeps) return {buffers + place.kept * rows + column, place.kept_ld};
        return {buffers + place.brief * rows + column, place.ld};
    }
  }
  Rows<T> value(const Range& range) const {
    const Place& place = layout->places[static_cast<size_t>(range.value)];
    FUSEDSPLIT_ASSERT(0 <= range.start && range.start < range.stop && range.stop <= place.width);
    return value(range.value, range.start);
  }
  Rows<T> output(size_t i, ptrdiff_t ld, ptrdiff_t column) const {
    return {const_cast<T*>(tensors->outputs[i]) + row * ld + column, ld};
  }
  Rows<T> pre(const Node& node) const { return {buffers + node.pre * rows, node.pre_ld}; }
};

// Columns [begin, end) of a source that count for the block's row i, given the point of a Dense.
struct LiveColumns {
  ptrdiff_t begin, end;
};
template <class T>
LiveColumns live_columns(const Block<T>& block, const Step& step, ptrdiff_t i);

// Whether the point of a Dense differs from row to row.
template <class T>
bool live_by_row(const Block<T>& block, const Step& step) {
  return step.point >= 0 && block.tensors->points[step.point].per_row;
}

// The source of a Dense as its product reads it: with a point of each row, live columns
// and zeros in the block's temporaries.
template <class T>
Rows<const T> dense_source(const Block<T>& block, const Step& step);

// The sources of a Merge or Mix, without gradients, in the block's temporaries.
template <class T>
void merge_sources(const Block<T>& block, const Step& step);
template <class T>
MergeRows<T> merge_of(const Block<T>& block, const Node& node);
template <class T>
MixRows<T> mix_of(const Block<T>& block, const Node& node);
template <class T>
RowArgs<T> row_of(const Block<T>& block, const Node& node);

// Runs a node forward over the block.
template <class T>
void run_node(const Block<T>& block, const Node& node);

// Whether a stage's chains are no even work for the workers: one alone, or one that is most of it. Then workers share
// the columns of its wide nodes instead, node after node.
bool is_lopsided(const std::vector<Chain>& chains, int workers);

// Columns of a wide Dense that workers share: whether it is worth it, the number of parts that so many columns are cut
// to, and where part i begins.
bool is_shared_out(const Node& node, ptrdiff_t rows);
ptrdiff_t shared_parts(ptrdiff_t columns);
ptrdiff_t shared_part(ptrdiff_t columns, ptrdiff_t i);

// Runs columns [begin, end) of a node that is_shared_out forward.
template <class T>
void run_columns(const Block<T>& block, const Node& node, ptrdiff_t begin, ptrdiff_t end);

// Runs all nodes forward over the block, in turn.
template <class T>
void run_nodes(Block<T> block);

// Puts the operands of a join side by side; `kernel` has room for them before they are packed.
template <class T>
void pack_join(const Kernels<T>& kernels, const Layout& layout, const Join& join, const T* const* params,
               T* kernel, T* joined);

// Packs columns of a kernel as one of those reads them who run the product.
enum class Reader { kManyRows, kFewRows, kBackward };
template <class T>
void pack_kernel(const Kernels<T>& kernels, const Layout& layout, const Packing& packing,
                 const T* const* params, Reader reader, T* packed);

// Where the kernel of a node is among the packed operands.
inline ptrdiff_t place_of(const Layout& layout, const Node& node) {
  return layout.packings[static_cast<size_t>(node.packing)].at;
}

}  // namespace fusedsplit
