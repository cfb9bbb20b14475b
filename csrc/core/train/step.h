// The blocks of one step: forward, losses and their gradients, and backward into shards. What workers take is a shard,
// whose blocks go through the plan while they are in cache, or, where there are fewer shards than workers, a chain of one.
#pragma once

#include <memory>
#include <vector>

#include "core/exec/constants.h"
#include "core/exec/gradients.h"
#include "core/layout/blocks.h"
#include "core/runtime/workers.h"
#include "core/train/batch.h"
#include "core/train/buffer.h"
#include "core/train/optimizer.h"

namespace fusedsplit {

// What a step reads and gives, besides its rows.
template <class T>
struct StepArgs {
  const Data<T>* data = nullptr;
  ptrdiff_t rows = 0;  // of the order, all steps together
  const T* const* params = nullptr;
  T* const* outputs = nullptr;  // by output: where row 0 of the batch goes; a null entry: nowhere
  Workers* workers = nullptr;
  const Kernels<T>* kernels = nullptr;
  // Whoever has computed gradients applies them to these, where `can_apply`; null: nobody does.
  Weights<T>* weights = nullptr;
};

// Not a constant (kWorkOfTwoShards) only for tests, which run small plans.
extern double work_of_two_shards;

template <class T>
class Stepper {
 public:
  Stepper(const Plan& plan, const Recipe& recipe);

  const Layout& layout() const { return layout_; }
  // By param: whether it gets a gradient, since it is trained and some loss depends on it.
  const std::vector<char>& reached() const { return reached_; }
  // Shards, each with gradients of its own, into which a step's rows are cut: by shapes alone.
  ptrdiff_t shards(ptrdiff_t rows) const;
  // The first shard's gradients, where the layout places them; each further shard's are `layout().shard_size` on.
  T* gradients() const { return shards_.data(); }
  // Workers that are worth having for steps of so many rows.
  int useful_workers(ptrdiff_t rows) const;

  // Makes room for steps of at most so many rows, by at most so many workers. `outputs` are those that the caller
  // wants, by output: what neither they nor losses and metrics need is not computed.
  void prepare(ptrdiff_t rows, int workers, const std::vector<T*>& outputs);
  // Whether so many workers that run a step of so many rows can apply gradients while they compute others.
  bool can_apply(ptrdiff_t rows, int workers) const {
    return owned_ && shards(rows) == 1 && rows <= layout_.kept_rows && shares_chains(1, workers);
  }
  // Gradients into the shards; sums over the rows: of each loss times its weights, then of each metric's values and of
  // their weights.
  void step(const StepArgs<T>& args, const Batch& batch, double* sums);

 private:
  // Where a block of rows goes through the plan: a worker's, or where chains are tasks, a shard's.
  struct Stand {
    Desk<T> desk;
    T* values = nullptr;  // of the block, kept or brief
    T* grads = nullptr;
    Tensors<T> tensors;
    Block<T> block;  // without temporaries, which are a worker's
  };
  // Rows of the batch that go through the plan together.
  struct Part {
    ptrdiff_t begin, end, shard;
    bool first;                      // of its shard
    ptrdiff_t next_begin, next_end;  // the rows after them, of this batch or (from its rows on) of the next
  };

  // What is done to a block of a shard where chains are tasks, by so many of them that may run side by side.
  struct Phase {
    enum class Work { kForward, kLosses, kGradients, kDeferred };
    Work work;
    size_t stage;
    ptrdiff_t tasks;
  };
  // Phases [begin, end): one that is shared by tasks, or some that one task does in turn.
  struct Round {
    size_t begin, end;
    ptrdiff_t tasks;
  };

  void find_reached();
  void find_rounds();
  void find_idle(const std::vector<T*>& outputs);
  Stand carve(Carver* carver) const;
  void cut(ptrdiff_t rows);
  void cut_packings(ptrdiff_t rows);
  void pack_joins(const StepArgs<T>& args, ptrdiff_t rows);
  ptrdiff_t pack_tasks() const { return packs_.empty() ? 0 : static_cast<ptrdiff_t>(packs_.size()) - 1; }
  void pack(const StepArgs<T>& args, ptrdiff_t rows, ptrdiff_t task);
  // Whether a chain packs the kernels that it reads backward.
  bool packs_alone() const { return owned_ && parts_.size() == 1 && cut_rows_ < kPackRows; }
  void apply(const StepArgs<T>& args, const Node& node) const;
  void seat(const StepArgs<T>& args, const Batch& batch, const Part& part, Stand* stand) const;
  void turn(const StepArgs<T>& args, const Batch& batch, const BlockGradients<T>& back, const Desk<T>& desk,
            size_t part, ptrdiff_t task);
  void run_part(const StepArgs<T>& args, const Batch& batch, size_t part, int worker);
  void run_shards(const StepArgs<T>& args, const Batch& batch);
  // Whether so many workers share chains rather than shards. It does not show in the bits.
  bool shares_chains(ptrdiff_t shards, int workers) const;
  void run_chains(const StepArgs<T>& args, const Batch& batch);
  void run_phase(const StepArgs<T>& args, const Batch& batch, const Phase& phase, size_t part, ptrdiff_t task,
                 int worker);
  // Losses, their gradients and metrics of some rows of a block, as many as one sum counts.
  void run_losses(const StepArgs<T>& args, const Batch& batch, const BlockGradients<T>& back,
                  const Desk<T>& desk, ptrdiff_t begin, ptrdiff_t end, double* sums) const;
  void run_metrics(const StepArgs<T>& args, const Batch& batch, const Desk<T>& desk, ptrdiff_t begin,
                   ptrdiff_t end, double* sums) const;
  LossRows<T> rows_of(LossKind kind, size_t loss, int output, ptrdiff_t begin, ptrdiff_t end,
                      const Batch& batch, const Desk<T>& desk) const;

  const Plan& plan_;
  const Recipe& recipe_;
  Layout layout_;
  std::vector<Range> output_ranges_;    // by output: all of its value
  std::vector<T*> param_grads_;         // null: not wanted
  std::vector<T*> input_grads_;         // all null
  std::vector<const T*> output_grads_;  // not null where a loss sets it
  BackwardArgs<T> args_;
  std::unique_ptr<Gradients<T>> grads_;
  std::vector<char> reached_;
  std::vector<char> transposes_;  // by packing: whether backward reads it
  bool backward_ = false;         // some param is reached
  size_t sums_ = 0;               // how many numbers a part sums
  std::vector<int> zeroed_;       // params whose gradients in a shard start as zeros

  bool owned_ = false;       // every param that is reached belongs to one node, or has columns for several
  bool chains_ = false;      // most of the work is in stages of chains that two workers share evenly
  bool even_ = false;        // all of it is
  ptrdiff_t loss_rows_ = 0;  // rows of which losses are one task and one sum
  ptrdiff_t laid_rows_ = 0;  // rows that are laid out as one task

  // Made by prepare.
  std::vector<char> idle_;  // by value
  ptrdiff_t rows_ = 0;
  Buffer<char> memory_;
  Buffer<T> shards_;
  Buffer<T> packed_;      // kernels as forward reads them
  Buffer<T> transposed_;  // and as backward does
  Buffer<T> joined_;
  std::vector<Temporaries<T>> temporaries_;  // by worker
  std::vector<Stand> stands_;
  // How so many rows are cut.
  ptrdiff_t cut_rows_ = 0;
  std::vector<Part> parts_;
  std::vector<size_t> tasks_;  // the first part of each task, and the number of all parts
  std::vector<size_t> packs_;  // the first packing of each task that packs, and the number of all
  std::vector<Phase> phases_;
  std::vector<Round> rounds_;
  ptrdiff_t loss_tasks_ = 0;  // of a part
  ptrdiff_t laid_tasks_ = 0;
  std::vector<double> part_sums_;  // by part and task
};

}  // namespace fusedsplit
