// A step whose tasks are the chains of its shards: where there are fewer shards than workers.
#include <algorithm>

#include "core/train/constants.h"
#include "core/train/step.h"

namespace fusedsplit {

template <class T>
bool Stepper<T>::shares_chains(ptrdiff_t shards, int workers) const {
  // Shards alone would leave a part of the workers idle.
  const ptrdiff_t turns = (shards + workers - 1) / workers;
  return chains_ && workers > 1 &&
         static_cast<double>(shards) < kBusyWorkers * static_cast<double>(turns * workers);
}

template <class T>
void Stepper<T>::find_rounds() {
  using Work = typename Phase::Work;
  phases_.clear();
  rounds_.clear();
  const size_t stages = layout_.stages.size();
  const auto chains = [&](size_t stage) { return static_cast<ptrdiff_t>(layout_.stages[stage].size()); };
  for (size_t s = 0; s < stages; ++s) phases_.push_back({Work::kForward, s, chains(s)});
  phases_.push_back({Work::kLosses, 0, loss_tasks_});
  for (size_t s = stages; s-- > 0;) {
    phases_.push_back({Work::kGradients, s, chains(s)});
    const std::vector<Chain>& stage = layout_.stages[s];
    const bool defers = std::any_of(
        layout_.nodes.begin() + static_cast<ptrdiff_t>(stage.front().begin),
        layout_.nodes.begin() + static_cast<ptrdiff_t>(stage.back().end), [&](const Node& node) {
          return node.defers && grads_->wanted[static_cast<size_t>(node.step.sources[0].range.value)];
        });
    if (defers) phases_.push_back({Work::kDeferred, s, chains(s)});
  }
  for (size_t p = 0; p < phases_.size(); ++p) {
    if (phases_[p].tasks == 1 && !rounds_.empty() && rounds_.back().tasks == 1) {
      rounds_.back().end = p + 1;
    } else {
      rounds_.push_back({p, p + 1, phases_[p].tasks});
    }
  }
}

// Applies the gradients of a node's params.
template <class T>
void Stepper<T>::apply(const StepArgs<T>& args, const Node& node) const {
  const Step& step = node.step;
  if (!grads_->reaches(step.dst.value)) return;
  for (int param : {step.kernel, step.bias, step.gain.param, step.shift.param})
    if (grads_->wants_param(param))
      args.weights->apply_gradients(*args.kernels, shards_.data(), node, static_cast<size_t>(param));
}

template <class T>
void Stepper<T>::run_phase(const StepArgs<T>& args, const Batch& batch, const Phase& phase, size_t i,
                           ptrdiff_t task, int worker) {
  const Part& part = parts_[i];
  const Stand& stand = stands_[static_cast<size_t>(part.shard)];
  Block<T> block = stand.block;
  block.temporaries = temporaries_[static_cast<size_t>(worker)];
  const BlockGradients<T> back{&block, grads_.get(), stand.grads, part.shard, part.first, true, nullptr};
  // Of one shard kernels are packed by who reads them.
  const bool alone = packs_alone();
  const std::vector<Chain>& chains = layout_.stages[phase.stage];
  const Chain& chain = chains[static_cast<size_t>(phase.work == Phase::Work::kLosses ? 0 : task)];
  switch (phase.work) {
    case Phase::Work::kForward:
      for (size_t n = chain.begin; n < chain.end; ++n) run_node(block, layout_.nodes[n]);
      return;
    case Phase::Work::kLosses:
      return turn(args, batch, back, stand.desk, i, task);
    case Phase::Work::kGradients: {
      const ptrdiff_t next = part.next_end - part.next_begin, sharers = phase.stage ? 1 : phase.tasks;
      const auto row = [&](ptrdiff_t t) {
        return std::min(args.rows, batch.begin + part.next_begin + (phase.stage ? 0 : next * t / sharers));
      };
      Ahead<T> ahead(plan_, recipe_, *args.data, row(task), row(task + 1));
      for (size_t n = chain.end; n-- > chain.begin;) {
        const Node& node = layout_.nodes[n];
        if (alone && node.packing >= 0 && transposes_[static_cast<size_t>(node.packing)])
          pack_kernel(*args.kernels, layout_, layout_.packings[static_cast<size_t>(node.packing)],
                      args.params, Reader::kBackward, transposed_.data());
        run_gradient(back, node, true);
        if (args.weights) apply(args, node);
        ahead.fetch(static_cast<ptrdiff_t>(n - chain.begin) + 1);
      }
      return;
    }
    case Phase::Work::kDeferred:
      for (size_t n = chains.back().end; n-- > chains.front().begin;)
        run_deferred(back, layout_.nodes[n], block.rows * task / phase.tasks,
                     block.rows * (task + 1) / phase.tasks);
  }
}

// A block of every shard at a time; those of shards that have fewer blocks are missing from the last.
template <class T>
void Stepper<T>::run_chains(const StepArgs<T>& args, const Batch& batch) {
  const ptrdiff_t shards = static_cast<ptrdiff_t>(tasks_.size()) - 1;
  size_t blocks = 0;
  for (size_t s = 0; s + 1 < tasks_.size(); ++s) blocks = std::max(blocks, tasks_[s + 1] - tasks_[s]);
  ptrdiff_t packs = packs_alone() ? 0 : pack_tasks();
  for (size_t b = 0; b < blocks; ++b) {
    // Calls body(part, task) for so many tasks of every shard's block, after so many others.
    const auto share = [&](ptrdiff_t others, ptrdiff_t tasks, const auto& other, const auto& body) {
      args.workers->run(others + shards * tasks, [&](ptrdiff_t i, int worker) {
        if (i < others) return other(i);
        const size_t shard = static_cast<size_t>((i - others) / tasks), part = tasks_[shard] + b;
        if (part < tasks_[shard + 1]) body(part, (i - others) % tasks, worker);
      });
    };
    const auto none = [](ptrdiff_t) {};
    share(
        packs, laid_tasks_, [&](ptrdiff_t i) { pack(args, batch.rows, i); },
        [&](size_t i, ptrdiff_t task, int) {
          const Part& part = parts_[i];
          Stand& stand = stands_[static_cast<size_t>(part.shard)];
          if (task == 0) seat(args, batch, part, &stand);
          const ptrdiff_t begin = part.begin + task * laid_rows_,
                          end = std::min(begin + laid_rows_, part.end);
          if (begin < end) lay_out(plan_, recipe_, *args.data, batch, part.begin, begin, end, &stand.desk);
        });
    packs = 0;
    for (const Round& round : rounds_)
      share(0, round.tasks, none, [&](size_t part, ptrdiff_t task, int worker) {
        for (size_t p = round.begin; p < round.end; ++p)
          run_phase(args, batch, phases_[p], part, task, worker);
      });
  }
}

#define FUSEDSPLIT_FOR_TYPE(T)                                   \
  template bool Stepper<T>::shares_chains(ptrdiff_t, int) const; \
  template void Stepper<T>::find_rounds();                       \
  template void Stepper<T>::run_chains(const StepArgs<T>&, const Batch&);
FUSEDSPLIT_FOR_TYPE(float)
FUSEDSPLIT_FOR_TYPE(double)
#undef FUSEDSPLIT_FOR_TYPE

}  // namespace fusedsplit
