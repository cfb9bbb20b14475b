#include <algorithm>

#include "core/exec/constants.h"
#include "core/exec/executor.h"
#include "core/layout/blocks.h"
#include "core/microkernels/isa.h"
#include "core/runtime/scratch.h"

namespace fusedsplit {
template <class T>
Executor<T>::Executor(const Plan& plan)
    : plan_(plan),
      layout_(make_layout(plan, sizeof(T), 0)),
      few_(make_layout(plan, sizeof(T), kFewColumns)) {}

template <class T>
size_t Executor<T>::forward_bytes(const Layout& layout) const {
  Carver carver(nullptr);
  carver.take<T>(layout.brief_width * layout.brief_rows);
  Temporaries<T>(layout, std::max(layout.brief_rows, layout.kept_rows), &carver);
  return carver.used();
}

template <class T>
void Executor<T>::forward(const ForwardArgs<T>& args, const Prepared<T>* prepared) const {
  if (args.rows <= 0) return;
  const double work = work_of(layout_, args.rows);
  const int useful = useful_workers(args.saved ? work : kInferenceShares * work);
  Workers workers(std::min(useful, args.threads), work >= work_to_wake);
  Call call;
  call.kernels = prepared ? prepared->kernels : &active_kernels<T>();
  call.workers = &workers;
  call.tensors = tensors_of<T>(args);
  // What is saved has the layout of blocks.
  const Blocks blocks(layout_, args.rows);
  const bool one_block = args.saved ? blocks.shards == 1 && blocks.shard_blocks(0) == 1 : args.rows <= kChunk;
  const bool cached = layout_.param_size * static_cast<ptrdiff_t>(sizeof(T)) <= kCachedKernels;
  const ptrdiff_t least = cached && !args.saved ? kFewRowsCached : kFewRows;
  const bool chains = workers.count() > 1 && args.rows < least * workers.count() && one_block;
  const bool few = prepared && (chains || args.rows < kManyRows * workers.count());
  if (prepared) {
    FUSEDSPLIT_ASSERT(!args.saved);
    call.tensors.params = prepared->params.data();
    call.tensors.packed = few ? prepared->few : prepared->many;
    call.tensors.wide = few;
    call.tensors.joined = few || args.rows < kJoinRows ? nullptr : prepared->joined;
  }
  if (chains) {
    forward_chains(&call, args);
  } else {
    forward_blocks(&call, few ? few_ : layout_, args);
  }
}

template <class T>
void Executor<T>::forward_blocks(Call* call, const Layout& layout, const ForwardArgs<T>& args) const {
  Workers* workers = call->workers;
  const size_t bytes = forward_bytes(layout);
  const ptrdiff_t prepared = call->tensors.packed ? 0 : Call::prepared_size(layout, args.rows);
  const size_t size =
      static_cast<size_t>(prepared) * sizeof(T) + 64 + bytes * static_cast<size_t>(workers->count());
  const Scratch scratch(size);
  Carver carver(scratch.data(), size);
  if (prepared) call->prepare_forward(layout, args.rows, carver.take<T>(prepared));
  char* base = carver.take<char>(static_cast<ptrdiff_t>(bytes) * workers->count());

  const auto run = [&](ptrdiff_t begin, ptrdiff_t end, int worker) {
    FUSEDSPLIT_ASSERT(end - begin <= (args.saved ? layout.kept_rows : layout.brief_rows));
    Carver mine(base + bytes * static_cast<size_t>(worker), bytes);
    Block<T> block = call->block(layout, begin, end);
    block.buffers = mine.take<T>(layout.brief_width * layout.brief_rows);
    block.temporaries = Temporaries<T>(layout, std::max(layout.brief_rows, layout.kept_rows), &mine);
    if (args.saved) {
      block.keeps = true;
      block.buffers = args.saved + begin * layout.kept_width;
    }
    run_nodes(block);
  };
  if (args.saved) {
    const BlockList list(Blocks(layout, args.rows));
    workers->run(list.count(), [&](ptrdiff_t i, int worker) {
      const BlockRows rows = list.at(i);
      run(rows.begin, rows.end, worker);
    });
  } else {
    // As many blocks for one worker as for another.
    const ptrdiff_t each = ptrdiff_t{workers->count()} * layout.brief_rows;
    const ptrdiff_t count = std::min(args.rows, (args.rows + each - 1) / each * workers->count());
    workers->run(count, [&](ptrdiff_t i, int worker) {
      run(args.rows * i / count, args.rows * (i + 1) / count, worker);
    });
  }
}

// One block of all rows; what workers share is the chains of each stage in turn.
template <class T>
void Executor<T>::forward_chains(Call* call, const ForwardArgs<T>& args) const {
  const Layout& layout = args.saved ? layout_ : few_;
  Carver sizes(nullptr);
  Temporaries<T>(layout, args.rows, &sizes);
  const ptrdiff_t bytes = static_cast<ptrdiff_t>(sizes.used());
  sizes.take<char>(bytes * call->workers->count());
  sizes.take<T>(args.saved ? 0 : layout.kept_width * args.rows);
  const Scratch scratch(sizes.used());
  Carver carver(scratch.data(), sizes.used());
  char* base = carver.take<char>(bytes * call->workers->count());
  // Buffers are those of training, where each value has its own.
  T* buffers = args.saved ? args.saved : carver.take<T>(layout.kept_width * args.rows);

  const auto block_of = [&](int worker) {
    Carver mine(base + bytes * worker, static_cast<size_t>(bytes));
    Block<T> block = call->block(layout, 0, args.rows);
    block.keeps = true;
    block.buffers = buffers;
    block.temporaries = Temporaries<T>(layout, args.rows, &mine);
    return block;
  };
  for (const std::vector<Chain>& chains : layout.stages) {
    // Not from packed kernels, within whose panels parts would begin.
    if (!call->tensors.packed && is_lopsided(chains, call->workers->count())) {
      for (size_t n = chains.front().begin; n < chains.back().end; ++n) {
        const Node& node = layout.nodes[n];
        const ptrdiff_t columns = node.step.dst.width();
        const ptrdiff_t parts = is_shared_out(node, args.rows) ? shared_parts(columns) : 1;
        call->workers->run(parts, [&](ptrdiff_t i, int worker) {
          if (parts == 1) return run_node(block_of(worker), node);
          run_columns(block_of(worker), node, shared_part(columns, i), shared_part(columns, i + 1));
        });
      }
      continue;
    }
    call->workers->run(static_cast<ptrdiff_t>(chains.size()), [&](ptrdiff_t i, int worker) {
      const Chain& chain = chains[static_cast<size_t>(i)];
      for (size_t n = chain.begin; n < chain.end; ++n) run_node(block_of(worker), layout.nodes[n]);
    });
  }
}

template Executor<float>::Executor(const Plan&);
template Executor<double>::Executor(const Plan&);
template size_t Executor<float>::forward_bytes(const Layout&) const;
template size_t Executor<double>::forward_bytes(const Layout&) const;
template void Executor<float>::forward(const ForwardArgs<float>&, const Prepared<float>*) const;
template void Executor<double>::forward(const ForwardArgs<double>&, const Prepared<double>*) const;

}  // namespace fusedsplit
