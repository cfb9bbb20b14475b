#include <algorithm>

#include "core/exec/constants.h"
#include "core/exec/executor.h"
#include "core/layout/blocks.h"
#include "core/microkernels/isa.h"
#include "core/runtime/scratch.h"

namespace fusedsplit {
namespace {

bool wants_source(const Node& node, const std::vector<char>& wanted) {
  return node.step.kind == StepKind::kDense && wanted[static_cast<size_t>(node.step.sources[0].range.value)];
}

// The packings that gradients of sources are computed from.
std::vector<const Packing*> wanted_packings(const Layout& layout, const std::vector<char>& wanted) {
  std::vector<char> reads(layout.packings.size());
  for (const Node& node : layout.nodes)
    if (wants_source(node, wanted)) reads[static_cast<size_t>(node.packing)] = 1;
  std::vector<const Packing*> packings;
  for (size_t p = 0; p < reads.size(); ++p)
    if (reads[p]) packings.push_back(&layout.packings[p]);
  return packings;
}

// A block of every shard at a time, each followed by the second pass over these blocks; `backs` is by shard.
template <class T, class RunBlock>
void run_rounds(Workers* workers, const Blocks& blocks, const std::vector<SecondPassTask>& tasks,
                const std::vector<BlockGradients<T>>& backs, const RunBlock& run_block) {
  ptrdiff_t rounds = 0;
  for (ptrdiff_t shard = 0; shard < blocks.shards; ++shard)
    rounds = std::max(rounds, blocks.shard_blocks(shard));
  for (ptrdiff_t b = 0; b < rounds; ++b) {
    workers->run(blocks.shards, [&](ptrdiff_t shard, int worker) {
      if (b < blocks.shard_blocks(shard)) run_block(shard, b, worker);
    });
    std::vector<BlockGradients<T>> round;
    for (const BlockGradients<T>& back : backs)
      if (b < blocks.shard_blocks(back.shard)) {
        round.push_back(back);
        round.back().first = b == 0 && round.size() == 1;
      }
    workers->run(static_cast<ptrdiff_t>(tasks.size()),
                 [&](ptrdiff_t i, int) { run_second_pass(round, tasks[static_cast<size_t>(i)]); });
  }
}

}  // namespace

template <class T>
size_t Executor<T>::backward_bytes() const {
  Carver carver(nullptr);
  carver.take<T>(layout_.kept_width * layout_.kept_rows);
  carver.take<T>(layout_.grad_width * layout_.kept_rows);
  Temporaries<T>(layout_, layout_.kept_rows, &carver);
  return carver.used();
}

template <class T>
size_t Executor<T>::scratch_bytes() const {
  return std::max(forward_bytes(layout_), backward_bytes());
}

template <class T>
size_t Executor<T>::workspace_bytes(ptrdiff_t rows) const {
  Carver carver(nullptr);
  carver.take<T>(layout_.packed_size);
  const ptrdiff_t shards = Blocks(layout_, rows).shards;
  carver.take<T>(layout_.shard_size * (shards - 1));
  carver.take<T>(layout_.second_pass_width * layout_.kept_rows * shards);
  return carver.used();
}

template <class T>
void Executor<T>::backward(const BackwardArgs<T>& args) const {
  if (args.rows <= 0) return zero_params(Gradients<T>(layout_, args), 0, true);
  const double work = 2 * work_of(layout_, args.rows);
  Workers workers(useful_workers(work), work >= work_to_wake);
  Call call;
  call.kernels = &active_kernels<T>();
  call.workers = &workers;
  call.tensors = tensors_of<T>(args);
  const BlockList blocks(Blocks(layout_, args.rows));
  if (workers.count() > 1 && blocks.count() == 1) {
    backward_chains(&call, args);
  } else {
    backward_blocks(&call, args);
  }
}

template <class T>
void Executor<T>::zero_params(const Gradients<T>& grads, ptrdiff_t shard, bool all) const {
  for (size_t p = 0; p < plan_.params.size(); ++p)
    if (grads.wants_param(static_cast<int>(p)) && (all || layout_.params[p].zeroed))
      std::fill_n(grads.param(layout_, static_cast<int>(p), shard), plan_.params[p].size(), T(0));
}

template <class T>
void Executor<T>::backward_blocks(Call* call, const BackwardArgs<T>& args) const {
  Workers* workers = call->workers;
  const Blocks blocks(layout_, args.rows);
  const size_t bytes = backward_bytes();
  const bool recomputes = !args.saved && layout_.kept_width > 0;
  const ptrdiff_t prepared = recomputes ? Call::prepared_size(layout_, args.rows) : 0;
  const size_t size =
      static_cast<size_t>(prepared) * sizeof(T) + 64 + bytes * static_cast<size_t>(workers->count());
  const Scratch scratch(size);
  Carver carver(scratch.data(), size);
  if (prepared) call->prepare_forward(layout_, args.rows, carver.take<T>(prepared));
  char* base = carver.take<char>(static_cast<ptrdiff_t>(bytes) * workers->count());

  Gradients<T> grads(layout_, args);
  Carver workspace(args.workspace, workspace_bytes(args.rows));
  T* transposed = workspace.take<T>(layout_.packed_size);
  grads.transposed = transposed;
  grads.shards = workspace.take<T>(layout_.shard_size * (blocks.shards - 1));
  grads.second_pass_dz = workspace.take<T>(layout_.second_pass_width * layout_.kept_rows * blocks.shards);
  const std::vector<const Packing*> packings = wanted_packings(layout_, grads.wanted);
  workers->run(static_cast<ptrdiff_t>(packings.size()), [&](ptrdiff_t i, int) {
    pack_kernel(*call->kernels, layout_, *packings[static_cast<size_t>(i)], args.params, Reader::kBackward,
                transposed);
  });

  const std::vector<SecondPassTask> tasks = second_pass_tasks(grads);
  const bool second = !tasks.empty();
  // Values that are computed again, where the second pass still finds them.
  const bool keeps_all = recomputes && second;
  const ptrdiff_t kept = layout_.kept_width * layout_.kept_rows;
  const Scratch values(keeps_all ? static_cast<size_t>(kept * blocks.shards) * sizeof(T) : 0);
  std::vector<Block<T>> last(static_cast<size_t>(blocks.shards));  // of each shard
  std::vector<BlockGradients<T>> backs(last.size());

  const auto run_block = [&](ptrdiff_t shard, ptrdiff_t b, int worker) {
    Carver mine(base + bytes * static_cast<size_t>(worker), bytes);
    Block<T>& block = last[static_cast<size_t>(shard)];
    block = call->block(layout_, blocks.block_begin(shard, b), blocks.block_begin(shard, b + 1));
    FUSEDSPLIT_ASSERT(block.rows <= layout_.kept_rows);
    block.keeps = true;
    block.buffers = keeps_all ? static_cast<T*>(values.data()) + kept * shard : mine.take<T>(kept);
    T* buffers = mine.take<T>(layout_.grad_width * layout_.kept_rows);
    block.temporaries = Temporaries<T>(layout_, layout_.kept_rows, &mine);
    if (recomputes) {
      block.recomputes = true;
      run_nodes(block);
    } else if (args.saved) {
      // Only read from here on.
      block.buffers = const_cast<T*>(args.saved) + block.row * layout_.kept_width;
    }
    BlockGradients<T>& back = backs[static_cast<size_t>(shard)];
    back = {&block, &grads, buffers, shard, b == 0, false, nullptr};
    if (second)
      back.second_pass_dz = grads.second_pass_dz + layout_.second_pass_width * layout_.kept_rows * shard;
    begin_gradients(back, 0, block.rows);
    for (size_t i = layout_.nodes.size(); i-- > 0;) run_gradient(back, layout_.nodes[i], false);
  };
  if (!second) {
    workers->run(blocks.shards, [&](ptrdiff_t shard, int worker) {
      zero_params(grads, shard, false);
      for (ptrdiff_t b = 0; b < blocks.shard_blocks(shard); ++b) run_block(shard, b, worker);
    });
  } else {
    run_rounds(workers, blocks, tasks, backs, [&](ptrdiff_t shard, ptrdiff_t b, int worker) {
      if (b == 0) zero_params(grads, shard, false);
      run_block(shard, b, worker);
    });
  }
  reduce(workers, grads, blocks.shards);
}

// The tasks of the second pass, for the gradients that are wanted.
template <class T>
std::vector<SecondPassTask> Executor<T>::second_pass_tasks(const Gradients<T>& grads) const {
  std::vector<SecondPassTask> tasks;
  for (const SecondPassNode& waiting : layout_.second_pass) {
    const Step& step = layout_.nodes[waiting.node].step;
    const ptrdiff_t rows = step.sources[0].range.width(), columns = step.dst.width();
    if (!grads.wants_param(step.kernel)) continue;
    // Near-equal parts of whole vectors, so that none is narrow.
    const ptrdiff_t parts = (columns + kSecondPassColumns - 1) / kSecondPassColumns;
    const auto cut = [&](ptrdiff_t p) { return p < parts ? columns * p / parts / kPad * kPad : columns; };
    for (ptrdiff_t r = 0; r < rows; r += kSecondPassRows)
      for (ptrdiff_t p = 0; p < parts; ++p)
        tasks.push_back({&waiting, {r, std::min(r + kSecondPassRows, rows)}, {cut(p), cut(p + 1)}});
  }
  return tasks;
}

// One block of all rows: workers share the chains of a stage, from the last stage on, and then the rows of
// gradients that several of these chains add to. Where chains are not to be shared, they share the columns of wide nodes.
template <class T>
void Executor<T>::backward_chains(Call* call, const BackwardArgs<T>& args) const {
  const int workers = call->workers->count();
  Carver sizes(nullptr);
  Temporaries<T>(layout_, args.rows, &sizes);
  const ptrdiff_t bytes = static_cast<ptrdiff_t>(sizes.used());
  sizes.take<char>(bytes * workers);
  sizes.take<T>(args.saved ? 0 : layout_.kept_width * args.rows);
  sizes.take<T>(layout_.own_grad_width * args.rows);
  const Scratch scratch(sizes.used());
  Carver carver(scratch.data(), sizes.used());
  char* base = carver.take<char>(bytes * workers);
  T* kept = carver.take<T>(args.saved ? 0 : layout_.kept_width * args.rows);
  T* buffers = carver.take<T>(layout_.own_grad_width * args.rows);

  Gradients<T> grads(layout_, args);
  T* transposed = Carver(args.workspace, workspace_bytes(args.rows)).take<T>(layout_.packed_size);
  grads.transposed = transposed;
  std::vector<Block<T>> blocks;
  for (int w = 0; w < workers; ++w) {
    Carver mine(base + bytes * w, static_cast<size_t>(bytes));
    blocks.push_back(call->block(layout_, 0, args.rows));
    blocks.back().keeps = true;
    blocks.back().buffers = args.saved ? const_cast<T*>(args.saved) : kept;
    blocks.back().temporaries = Temporaries<T>(layout_, args.rows, &mine);
  }
  const auto back = [&](int worker) {
    return BlockGradients<T>{&blocks[static_cast<size_t>(worker)], &grads, buffers, 0, true, true, nullptr};
  };
  if (!args.saved) recompute(call, blocks[0]);
  zero_params(grads, 0, false);
  call->workers->run(1, [&](ptrdiff_t, int worker) { begin_gradients(back(worker), 0, args.rows); });
  // By packing: whether it is there as a whole. Chains that run side by side have none in common.
  std::vector<char> packed(layout_.packings.size());
  const auto run_whole = [&](const Node& node, int worker, bool defer) {
    if (wants_source(node, grads.wanted) && !packed[static_cast<size_t>(node.packing)]) {
      packed[static_cast<size_t>(node.packing)] = 1;
      pack_kernel(*call->kernels, layout_, layout_.packings[static_cast<size_t>(node.packing)], args.params,
                  Reader::kBackward, transposed);
    }
    run_gradient(back(worker), node, defer);
  };
  const auto run_shared = [&](const Node& node) {
    const std::vector<GradientPart> parts = gradient_parts(back(0), node);
    call->workers->run(1, [&](ptrdiff_t, int worker) {
      parts.empty() ? run_whole(node, worker, false) : mask_gradient(back(worker), node);
    });
    if (!parts.empty()) packed[static_cast<size_t>(node.packing)] = 0;  // each part packs its own panels
    call->workers->run(static_cast<ptrdiff_t>(parts.size()), [&](ptrdiff_t i, int worker) {
      run_gradient_part(back(worker), node, parts[static_cast<size_t>(i)], transposed);
    });
  };
  for (size_t s = layout_.stages.size(); s-- > 0;) {
    const std::vector<Chain>& chains = layout_.stages[s];
    if (!layout_.parallel_gradients || is_lopsided(chains, workers)) {
      for (size_t n = chains.back().end; n-- > chains.front().begin;) run_shared(layout_.nodes[n]);
      continue;
    }
    call->workers->run(static_cast<ptrdiff_t>(chains.size()), [&](ptrdiff_t i, int worker) {
      const Chain& chain = chains[static_cast<size_t>(i)];
      for (size_t n = chain.end; n-- > chain.begin;) run_whole(layout_.nodes[n], worker, true);
    });
    const ptrdiff_t parts = std::min<ptrdiff_t>(args.rows, workers);
    call->workers->run(parts, [&](ptrdiff_t part, int worker) {
      for (size_t n = chains.back().end; n-- > chains.front().begin;)
        run_deferred(back(worker), layout_.nodes[n], args.rows * part / parts,
                     args.rows * (part + 1) / parts);
    });
  }
}

// Computes the hidden values again, stage by stage.
template <class T>
void Executor<T>::recompute(Call* call, const Block<T>& shared) const {
  for (const std::vector<Chain>& chains : layout_.stages)
    call->workers->run(1, [&](ptrdiff_t, int) {
      Block<T> block = shared;
      block.recomputes = true;
      for (size_t n = chains.front().begin; n < chains.back().end; ++n) run_node(block, layout_.nodes[n]);
    });
}

// Adds the shards to the result, in their order.
template <class T>
void Executor<T>::reduce(Workers* workers, const Gradients<T>& grads, ptrdiff_t shards) const {
  if (shards < 2) return;
  struct Task {
    int param;
    ptrdiff_t begin, size;
  };
  std::vector<Task> tasks;
  for (size_t p = 0; p < plan_.params.size(); ++p)
    if (grads.wants_param(static_cast<int>(p)) && !layout_.params[p].second_pass)
      for (ptrdiff_t at = 0; at < plan_.params[p].size(); at += kReduceSize)
        tasks.push_back({static_cast<int>(p), at, std::min(kReduceSize, plan_.params[p].size() - at)});
  const Kernels<T>& kernels = active_kernels<T>();
  workers->run(static_cast<ptrdiff_t>(tasks.size()), [&](ptrdiff_t i, int) {
    const Task& task = tasks[static_cast<size_t>(i)];
    T* sum = grads.param(layout_, task.param, 0) + task.begin;
    for (ptrdiff_t shard = 1; shard < shards; ++shard)
      kernels.copy(1, task.size, grads.param(layout_, task.param, shard) + task.begin, 0, sum, 0, true);
  });
}

#define FUSEDSPLIT_FOR_TYPE(T)                                   \
  template size_t Executor<T>::scratch_bytes() const;            \
  template size_t Executor<T>::workspace_bytes(ptrdiff_t) const; \
  template void Executor<T>::backward(const BackwardArgs<T>&) const;
FUSEDSPLIT_FOR_TYPE(float)
FUSEDSPLIT_FOR_TYPE(double)
#undef FUSEDSPLIT_FOR_TYPE

}  // namespace fusedsplit
