// How a program runs: by blocks of rows, each through all steps, or, with few rows, by chains side by side.
#pragma once

#include "core/exec/block.h"
#include "core/exec/constants.h"
#include "core/exec/gradients.h"
#include "core/exec/prepared.h"
#include "core/layout/layout.h"
#include "core/runtime/workers.h"

namespace fusedsplit {

template <class T>
class Executor {
 public:
  explicit Executor(const Plan& plan);

  // With the params of `prepared`, if there are such.
  void forward(const ForwardArgs<T>& args, const Prepared<T>* prepared = nullptr) const;
  std::shared_ptr<const Prepared<T>> prepare(const T* const* params) const;
  void backward(const BackwardArgs<T>& args) const;

  const Plan& plan() const { return plan_; }
  const Layout& layout() const { return layout_; }
  size_t workspace_bytes(ptrdiff_t rows) const;
  size_t scratch_bytes() const;

 private:
  // Everything of one call that its workers share.
  struct Call;

  void forward_blocks(Call* call, const Layout& layout, const ForwardArgs<T>& args) const;
  void forward_chains(Call* call, const ForwardArgs<T>& args) const;
  void backward_blocks(Call* call, const BackwardArgs<T>& args) const;
  void backward_chains(Call* call, const BackwardArgs<T>& args) const;
  std::vector<SecondPassTask> second_pass_tasks(const Gradients<T>& grads) const;
  void recompute(Call* call, const Block<T>& block) const;
  void zero_params(const Gradients<T>& grads, ptrdiff_t shard, bool all) const;
  void reduce(Workers* workers, const Gradients<T>& grads, ptrdiff_t shards) const;
  size_t forward_bytes(const Layout& layout) const;
  size_t backward_bytes() const;

  Plan plan_;
  Layout layout_;
  Layout few_;  // for inference with few rows: Dense steps are cut into more chains
};

// Workers that are worth having. Not constants (kWorkPerWorker, kWorkToWake) only for tests, which run small plans.
extern double work_per_worker;
extern double work_to_wake;
int useful_workers(double work);

// What a call costs, in operations.
inline double work_of(const Layout& layout, ptrdiff_t rows) {
  return layout.flops * static_cast<double>(rows) + kWorkPerWeight * static_cast<double>(layout.param_size);
}

// The tensors of a call.
template <class T, class Args>
Tensors<T> tensors_of(const Args& args) {
  Tensors<T> tensors;
  tensors.inputs = args.inputs;
  tensors.params = args.params;
  tensors.points = args.points;
  tensors.outputs = args.outputs;
  return tensors;
}

template <class T>
struct Executor<T>::Call {
  const Kernels<T>* kernels = nullptr;
  Workers* workers = nullptr;
  Tensors<T> tensors;

  Block<T> block(const Layout& layout, ptrdiff_t begin, ptrdiff_t end) const {
    FUSEDSPLIT_ASSERT(0 <= begin && begin < end);
    Block<T> block;
    block.kernels = kernels;
    block.layout = &layout;
    block.tensors = &tensors;
    block.row = begin;
    block.rows = end - begin;
    return block;
  }

  // Elements that prepare_forward needs.
  static ptrdiff_t prepared_size(const Layout& layout, ptrdiff_t rows) {
    const ptrdiff_t joined = rows >= kJoinRows ? layout.joined_size + layout.join_kernel : 0;
    return joined + (rows >= kPackRows ? layout.packed_size : 0);
  }

  // Packs and joins kernels for forward, where there are rows enough.
  void prepare_forward(const Layout& layout, ptrdiff_t rows, T* to) {
    if (rows >= kJoinRows && !layout.joins.empty()) {
      T* joined = to + layout.join_kernel;
      for (const Join& join : layout.joins)
        if (join.fresh) pack_join(*kernels, layout, join, tensors.params, to, joined);
      tensors.joined = joined;
      to = joined + layout.joined_size;
    }
    if (rows < kPackRows) return;
    pack_kernels(layout, Reader::kManyRows, to);
    tensors.packed = to;
  }

  // Packs every kernel for forward.
  void pack_kernels(const Layout& layout, Reader reader, T* to) const {
    workers->run(static_cast<ptrdiff_t>(layout.packings.size()), [&](ptrdiff_t i, int) {
      const Packing& packing = layout.packings[static_cast<size_t>(i)];
      if (packing.forward) pack_kernel(*kernels, layout, packing, tensors.params, reader, to);
    });
  }
};

}  // namespace fusedsplit
