#include "core/train/step.h"

#include <algorithm>

#include "core/exec/constants.h"
#include "core/train/constants.h"

namespace fusedsplit {

double work_of_two_shards = kWorkOfTwoShards;

namespace {

// Forward, and twice as much backward.
double work_of_step(const Layout& layout, ptrdiff_t rows) {
  return 3 * layout.flops * static_cast<double>(rows);
}

// The sum of each row's value times its weight.
template <class T>
double weighted_sum(ptrdiff_t rows, const T* values, const T* weights) {
  double sum = 0;
  for (ptrdiff_t i = 0; i < rows; ++i)
    sum += static_cast<double>(weights ? values[i] * weights[i] : values[i]);
  return sum;
}

}  // namespace

template <class T>
Stepper<T>::Stepper(const Plan& plan, const Recipe& recipe)
    : plan_(plan),
      recipe_(recipe),
      layout_(make_layout(plan, sizeof(T), 0, true)),
      output_ranges_(plan.outputs.size()),
      param_grads_(plan.params.size()),
      input_grads_(plan.inputs.size()),
      output_grads_(plan.outputs.size()),
      reached_(plan.params.size()),
      sums_(recipe.losses.size() + 2 * recipe.metrics.size()) {
  for (size_t v = 0; v < layout_.places.size(); ++v) {
    const Place& place = layout_.places[v];
    if (place.role == Role::kOutput)
      output_ranges_[static_cast<size_t>(place.index)] = {static_cast<int>(v), 0, place.width};
  }
  ptrdiff_t laid = 0, given = 0;  // elements of a row
  for (const Place& place : layout_.places) {
    if (place.role == Role::kInput) laid += place.width;
    if (place.role == Role::kOutput) given += place.width;
  }
  laid_rows_ = std::max(kLeastTaskRows, kTaskElements / std::max<ptrdiff_t>(1, laid + given));
  loss_rows_ = std::max(kLeastTaskRows, kTaskElements / std::max<ptrdiff_t>(1, given));
  find_reached();
}

// What is wanted is decided before there are shards; until then any address stands for them.
template <class T>
void Stepper<T>::find_reached() {
  static T there = 0;
  for (size_t p = 0; recipe_.trains && p < param_grads_.size(); ++p)
    if (recipe_.trainable[p]) param_grads_[p] = &there;
  for (const Loss& loss : recipe_.losses) output_grads_[static_cast<size_t>(loss.source())] = &there;
  args_.param_grads = param_grads_.data();
  args_.input_grads = input_grads_.data();
  args_.output_grads = output_grads_.data();
  grads_ = std::make_unique<Gradients<T>>(layout_, args_);
  grads_->given = true;
  grads_->skip_unreached(layout_);
  for (const Node& node : layout_.nodes) {
    const Step& step = node.step;
    if (!grads_->reaches(step.dst.value)) continue;
    for (int param : {step.kernel, step.bias, step.gain.param, step.shift.param})
      if (grads_->wants_param(param)) reached_[static_cast<size_t>(param)] = 1;
  }
  transposes_.resize(layout_.packings.size());
  for (const Node& node : layout_.nodes) {
    const Step& step = node.step;
    if (step.kind == StepKind::kDense && grads_->wanted[static_cast<size_t>(step.sources[0].range.value)] &&
        grads_->wanted[static_cast<size_t>(step.dst.value)] && grads_->reaches(step.dst.value))
      transposes_[static_cast<size_t>(node.packing)] = 1;
  }
  for (size_t p = 0; p < reached_.size(); ++p) {
    if (!reached_[p]) param_grads_[p] = nullptr;
    backward_ = backward_ || reached_[p];
    if (reached_[p] && layout_.params[p].zeroed) zeroed_.push_back(static_cast<int>(p));
  }
  // What is shared, or only used in part, starts as zeros.
  owned_ = zeroed_.empty();
  double all = 0, even = 0;
  for (const std::vector<Chain>& chains : layout_.stages)
    for (const Chain& chain : chains) {
      all += chain.flops;
      if (!is_lopsided(chains, 2)) even += chain.flops;
    }
  chains_ = backward_ && layout_.parallel_gradients && even >= kEvenShare * all;
  even_ = even == all;
}

template <class T>
ptrdiff_t Stepper<T>::shards(ptrdiff_t rows) const {
  if (rows < 2 * kLeastShardRows || work_of_step(layout_, rows) < work_of_two_shards) return 1;
  if (chains_ && rows <= (even_ ? kOneShardRows : kOneShardFewRows)) return 1;
  ptrdiff_t shards = 2;
  while (shards < layout_.most_shards && rows >= 2 * shards * kShardRows) shards *= 2;
  return shards;
}

template <class T>
int Stepper<T>::useful_workers(ptrdiff_t rows) const {
  return static_cast<int>(std::clamp(work_of_step(layout_, rows) / (work_of_two_shards / 2), 1.0, 1024.0));
}

template <class T>
typename Stepper<T>::Stand Stepper<T>::carve(Carver* carver) const {
  Stand stand{Desk<T>(plan_, recipe_, layout_.kept_rows, carver), nullptr, nullptr, {}, {}};
  stand.values = carver->take<T>((backward_ ? layout_.kept_width : layout_.brief_width) * layout_.kept_rows);
  const ptrdiff_t grads = chains_ ? std::max(layout_.grad_width, layout_.own_grad_width) : layout_.grad_width;
  stand.grads = carver->take<T>(backward_ ? grads * layout_.kept_rows : 0);
  return stand;
}

template <class T>
void Stepper<T>::find_idle(const std::vector<T*>& outputs) {
  idle_.assign(layout_.places.size(), 1);
  const auto want = [&](int output) {
    idle_[static_cast<size_t>(output_ranges_[static_cast<size_t>(output)].value)] = 0;
  };
  for (size_t i = 0; i < outputs.size(); ++i)
    if (outputs[i]) want(static_cast<int>(i));
  for (const Loss& loss : recipe_.losses) want(loss.source());
  for (const Metric& metric : recipe_.metrics) want(metric.output);
  for (size_t n = layout_.nodes.size(); n-- > 0;) {
    const Step& step = layout_.nodes[n].step;
    if (idle_[static_cast<size_t>(step.dst.value)]) continue;
    for (const Source& source : step.sources) idle_[static_cast<size_t>(source.range.value)] = 0;
  }
}

template <class T>
void Stepper<T>::prepare(ptrdiff_t rows, int workers, const std::vector<T*>& outputs) {
  find_idle(outputs);
  if (rows > rows_) {
    shards_ = Buffer<T>(layout_.shard_size * shards(rows));
    if (rows >= kPackRows && packed_.size() == 0) packed_ = Buffer<T>(layout_.packed_size);
    if (rows >= kJoinRows && joined_.size() == 0)
      joined_ = Buffer<T>(layout_.join_kernel + layout_.joined_size);
    if (backward_ && transposed_.size() == 0) transposed_ = Buffer<T>(layout_.packed_size);
    for (size_t p = 0; p < reached_.size(); ++p)
      if (reached_[p]) param_grads_[p] = shards_.data() + layout_.params[p].offset;
    grads_->shards = shards_.data() + layout_.shard_size;
    grads_->transposed = transposed_.data();
    rows_ = rows;
  }
  const size_t helpers = static_cast<size_t>(workers);
  const size_t stands =
      shares_chains(shards(rows), workers) ? std::max(helpers, static_cast<size_t>(shards(rows))) : helpers;
  if (helpers <= temporaries_.size() && stands <= stands_.size()) return;
  Carver sizes(nullptr);
  carve(&sizes);
  const size_t stand_bytes = sizes.used();
  Temporaries<T>(layout_, layout_.kept_rows, &sizes);
  const size_t temporary_bytes = sizes.used() - stand_bytes;
  stands_.clear();
  temporaries_.clear();
  const size_t bytes = stand_bytes * stands + temporary_bytes * helpers;
  memory_ = Buffer<char>(static_cast<ptrdiff_t>(bytes));
  Carver carver(memory_.data(), bytes);
  for (size_t i = 0; i < stands; ++i) stands_.push_back(carve(&carver));
  for (size_t i = 0; i < helpers; ++i) temporaries_.emplace_back(layout_, layout_.kept_rows, &carver);
}

// Tasks are shards, or single parts where there are no gradients to sum.
template <class T>
void Stepper<T>::cut(ptrdiff_t rows) {
  if (rows == cut_rows_) return;
  cut_rows_ = rows;
  parts_.clear();
  tasks_.clear();
  const Blocks blocks(layout_, rows, shards(rows));
  for (ptrdiff_t shard = 0; shard < blocks.shards; ++shard)
    for (ptrdiff_t b = 0; b < blocks.shard_blocks(shard); ++b) {
      if (b == 0 || !backward_) tasks_.push_back(parts_.size());
      parts_.push_back({blocks.block_begin(shard, b), blocks.block_begin(shard, b + 1), shard, b == 0, 0, 0});
    }
  tasks_.push_back(parts_.size());
  // Who does a task does it in the next step as well, or nearly always so.
  for (size_t t = 0; t + 1 < tasks_.size(); ++t)
    for (size_t i = tasks_[t]; i < tasks_[t + 1]; ++i) {
      const bool last = i + 1 == tasks_[t + 1];
      const Part& next = parts_[last ? tasks_[t] : i + 1];
      parts_[i].next_begin = next.begin + (last ? rows : 0);
      parts_[i].next_end = next.end + (last ? rows : 0);
    }
  ptrdiff_t most = 0;
  for (const Part& part : parts_) most = std::max(most, part.end - part.begin);
  loss_tasks_ = (most + loss_rows_ - 1) / loss_rows_;
  laid_tasks_ = (most + laid_rows_ - 1) / laid_rows_;
  part_sums_.assign(parts_.size() * static_cast<size_t>(loss_tasks_) * sums_, 0);
  cut_packings(rows);
  find_rounds();
}

// Packings that one task packs: of so many elements or more.
template <class T>
void Stepper<T>::cut_packings(ptrdiff_t rows) {
  packs_.clear();
  ptrdiff_t elements = 0;
  for (size_t p = 0; p < layout_.packings.size(); ++p) {
    const Packing& packing = layout_.packings[p];
    const ptrdiff_t times = (rows >= kPackRows && packing.forward) + (transposes_[p] != 0);
    if (times == 0) continue;
    if (packs_.empty() || elements >= kPackTask) {
      packs_.push_back(p);
      elements = 0;
    }
    const Step& step = layout_.nodes[packing.node].step;
    elements += times * step.sources[0].range.width() * step.dst.width();
  }
  if (!packs_.empty()) packs_.push_back(layout_.packings.size());
}

template <class T>
void Stepper<T>::pack_joins(const StepArgs<T>& args, ptrdiff_t rows) {
  if (rows < kJoinRows) return;
  for (const Join& join : layout_.joins)
    if (join.fresh)
      pack_join(*args.kernels, layout_, join, args.params, joined_.data(),
                joined_.data() + layout_.join_kernel);
}

template <class T>
void Stepper<T>::pack(const StepArgs<T>& args, ptrdiff_t rows, ptrdiff_t task) {
  for (size_t p = packs_[static_cast<size_t>(task)]; p < packs_[static_cast<size_t>(task) + 1]; ++p) {
    const Packing& packing = layout_.packings[p];
    if (rows >= kPackRows && packing.forward)
      pack_kernel(*args.kernels, layout_, packing, args.params, Reader::kManyRows, packed_.data());
    if (transposes_[p])
      pack_kernel(*args.kernels, layout_, packing, args.params, Reader::kBackward, transposed_.data());
  }
}

template <class T>
LossRows<T> Stepper<T>::rows_of(LossKind kind, size_t loss, int output, ptrdiff_t begin, ptrdiff_t end,
                                const Batch& batch, const Desk<T>& desk) const {
  const ptrdiff_t width = output_ranges_[static_cast<size_t>(output)].width();
  LossRows<T> g;
  g.kind = static_cast<int>(kind);
  const ptrdiff_t ld = desk.shown_ld[static_cast<size_t>(output)];
  const T* const target = desk.shown_targets[loss];
  g.m = end - begin;
  g.n = width;
  g.y = {desk.shown_outputs[static_cast<size_t>(output)] + begin * ld, ld};
  g.target = {target ? target + begin * width : nullptr, width};
  if (desk.labels[loss]) g.labels = desk.labels[loss] + begin;
  g.values = desk.values + begin;
  if (batch.binary[loss] && (kind == LossKind::kHinge || kind == LossKind::kSquaredHinge)) {
    g.target_scale = 2;
    g.target_shift = -1;
  }
  return g;
}

template <class T>
void Stepper<T>::run_losses(const StepArgs<T>& args, const Batch& batch, const BlockGradients<T>& back,
                            const Desk<T>& desk, ptrdiff_t begin, ptrdiff_t end, double* sums) const {
  for (size_t l = 0; l < recipe_.losses.size(); ++l) {
    const Loss& loss = recipe_.losses[l];
    const T* const weights = desk.shown_weights[l] ? desk.shown_weights[l] + begin : nullptr;
    LossRows<T> g = rows_of(loss.kind, l, loss.source(), begin, end, batch, desk);
    g.epsilon = static_cast<T>(loss.epsilon);
    g.delta = static_cast<T>(loss.delta);
    if (loss.label_smoothing != 0) {
      const bool binary =
          loss.kind == LossKind::kBinaryCrossentropy || loss.kind == LossKind::kBinaryCrossentropyLogits;
      g.target_scale = static_cast<T>(1 - loss.label_smoothing);
      g.target_shift = static_cast<T>(loss.label_smoothing / (binary ? 2 : static_cast<double>(g.n)));
    }
    const Range& range = output_ranges_[static_cast<size_t>(loss.source())];
    if (backward_ && grads_->wanted[static_cast<size_t>(range.value)]) {
      g.grad = back.value(range);
      g.grad.data += begin * g.grad.ld;
      g.add = std::any_of(recipe_.losses.begin(), recipe_.losses.begin() + static_cast<ptrdiff_t>(l),
                          [&](const Loss& before) { return before.source() == loss.source(); });
      g.factor = static_cast<T>(loss.weight * batch.factors[l]);
      g.weights = weights;
    }
    args.kernels->loss(g);
    sums[l] = weighted_sum(end - begin, g.values, weights);
  }
}

template <class T>
void Stepper<T>::run_metrics(const StepArgs<T>& args, const Batch& batch, const Desk<T>& desk,
                             ptrdiff_t begin, ptrdiff_t end, double* sums) const {
  const ptrdiff_t rows = end - begin;
  for (const Metric& metric : recipe_.metrics) {
    const size_t loss = static_cast<size_t>(metric.loss);
    LossRows<T> g = rows_of(metric.kind, loss, metric.output, begin, end, batch, desk);
    g.epsilon = static_cast<T>(metric.epsilon);
    g.delta = static_cast<T>(metric.threshold);
    args.kernels->loss(g);
    const bool weighted = metric.weighted && desk.shown_weights[loss];
    const T* const weights = weighted ? desk.shown_weights[loss] + begin : nullptr;
    *sums++ = weighted_sum(rows, g.values, weights);
    *sums++ = weights ? weighted_sum<T>(rows, weights, nullptr) : static_cast<double>(rows);
  }
}

// Shows a block where its rows, kernels and buffers are.
template <class T>
void Stepper<T>::seat(const StepArgs<T>& args, const Batch& batch, const Part& part, Stand* stand) const {
  Desk<T>& desk = stand->desk;
  show(plan_, recipe_, *args.data, batch, part.begin, &desk);
  for (size_t i = 0; i < desk.outputs.size(); ++i) {
    const ptrdiff_t width = output_ranges_[i].width();
    desk.shown_outputs[i] = args.outputs[i] ? args.outputs[i] + part.begin * width : desk.outputs[i];
    desk.shown_ld[i] = args.outputs[i] ? width : desk.output_ld[i];
  }
  Tensors<T>& tensors = stand->tensors;
  tensors.inputs = desk.shown_inputs.data();
  tensors.params = args.params;
  tensors.points = desk.shown_points.data();
  tensors.outputs = desk.shown_outputs.data();
  tensors.output_ld = desk.shown_ld.data();
  tensors.packed = batch.rows >= kPackRows ? packed_.data() : nullptr;
  tensors.joined =
      batch.rows >= kJoinRows && !layout_.joins.empty() ? joined_.data() + layout_.join_kernel : nullptr;
  Block<T>& block = stand->block;
  block.kernels = args.kernels;
  block.layout = &layout_;
  block.tensors = &tensors;
  block.rows = part.end - part.begin;
  block.buffers = stand->values;
  block.keeps = backward_;
  block.idle = idle_.data();
}

// What is between forward and backward, for some of the rows.
template <class T>
void Stepper<T>::turn(const StepArgs<T>& args, const Batch& batch, const BlockGradients<T>& back,
                      const Desk<T>& desk, size_t part, ptrdiff_t task) {
  const ptrdiff_t begin = task * loss_rows_, end = std::min(begin + loss_rows_, back.block->rows);
  if (begin >= end) return;
  double* const sums =
      part_sums_.data() + (part * static_cast<size_t>(loss_tasks_) + static_cast<size_t>(task)) * sums_;
  run_losses(args, batch, back, desk, begin, end, sums);
  run_metrics(args, batch, desk, begin, end, sums + recipe_.losses.size());
  if (!backward_) return;
  if (back.first && task == 0)
    for (int p : zeroed_)
      std::fill_n(grads_->param(layout_, p, back.shard), plan_.params[static_cast<size_t>(p)].size(), T(0));
  begin_gradients(back, begin, end);
}

template <class T>
void Stepper<T>::run_part(const StepArgs<T>& args, const Batch& batch, size_t i, int worker) {
  const Part& part = parts_[i];
  Stand& stand = stands_[static_cast<size_t>(worker)];
  lay_out(plan_, recipe_, *args.data, batch, part.begin, part.begin, part.end, &stand.desk);
  seat(args, batch, part, &stand);
  Ahead<T> ahead(plan_, recipe_, *args.data, std::min(args.rows, batch.begin + part.next_begin),
                 std::min(args.rows, batch.begin + part.next_end));
  const ptrdiff_t nodes = static_cast<ptrdiff_t>(layout_.nodes.size());
  ahead.fetch(nodes + 2);
  Block<T> block = stand.block;
  block.temporaries = temporaries_[static_cast<size_t>(worker)];
  run_nodes(block);
  ahead.fetch(nodes + 1);
  const BlockGradients<T> back{&block, grads_.get(), stand.grads, part.shard, part.first, false, nullptr};
  for (ptrdiff_t task = 0; task < loss_tasks_; ++task) turn(args, batch, back, stand.desk, i, task);
  if (!backward_) return;
  for (ptrdiff_t n = nodes; n-- > 0;) {
    run_gradient(back, layout_.nodes[static_cast<size_t>(n)], false);
    ahead.fetch(n + 1);
  }
}

template <class T>
void Stepper<T>::run_shards(const StepArgs<T>& args, const Batch& batch) {
  args.workers->run(pack_tasks(), [&](ptrdiff_t task, int) { pack(args, batch.rows, task); });
  args.workers->run(static_cast<ptrdiff_t>(tasks_.size()) - 1, [&](ptrdiff_t task, int worker) {
    for (size_t i = tasks_[static_cast<size_t>(task)]; i < tasks_[static_cast<size_t>(task) + 1]; ++i)
      run_part(args, batch, i, worker);
  });
}

template <class T>
void Stepper<T>::step(const StepArgs<T>& args, const Batch& batch, double* sums) {
  cut(batch.rows);
  pack_joins(args, batch.rows);
  const ptrdiff_t count = shards(batch.rows);
  if (shares_chains(count, args.workers->count()) && static_cast<size_t>(count) <= stands_.size()) {
    run_chains(args, batch);
  } else {
    run_shards(args, batch);
  }
  std::fill_n(sums, sums_, 0.0);
  for (size_t i = 0; i < part_sums_.size(); ++i) sums[i % sums_] += part_sums_[i];
}

#define FUSEDSPLIT_FOR_TYPE(T) template class Stepper<T>;
FUSEDSPLIT_FOR_TYPE(float)
FUSEDSPLIT_FOR_TYPE(double)
#undef FUSEDSPLIT_FOR_TYPE

}  // namespace fusedsplit
