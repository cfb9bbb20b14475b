#include "core/exec/gradients.h"

#include <algorithm>

#include "core/exec/constants.h"

namespace fusedsplit {

template <class T>
Gradients<T>::Gradients(const Layout& layout, const BackwardArgs<T>& call)
    : args(&call), wanted(layout.places.size()) {
  for (size_t v = 0; v < layout.places.size(); ++v) {
    const Place& place = layout.places[v];
    wanted[v] = place.role == Role::kInput && call.input_grads[place.index];
  }
  for (const Node& node : layout.nodes) {
    const Step& step = node.step;
    bool wants = wants_param(step.kernel) || wants_param(step.bias) || wants_param(step.gain.param) ||
                 wants_param(step.shift.param);
    for (const Source& source : step.sources)
      wants = wants || wanted[static_cast<size_t>(source.range.value)];
    if (wants) wanted[static_cast<size_t>(step.dst.value)] = 1;
  }
}

template <class T>
void Gradients<T>::skip_unreached(const Layout& layout) {
  unreached.assign(layout.places.size(), 1);
  for (size_t v = 0; v < layout.places.size(); ++v) {
    const Place& place = layout.places[v];
    if (place.role == Role::kOutput && args->output_grads[place.index]) unreached[v] = 0;
  }
  for (size_t n = layout.nodes.size(); n-- > 0;) {
    const Step& step = layout.nodes[n].step;
    if (unreached[static_cast<size_t>(step.dst.value)]) continue;
    for (const Source& source : step.sources) unreached[static_cast<size_t>(source.range.value)] = 0;
  }
}

template <class T>
T* Gradients<T>::param(const Layout& layout, int param, ptrdiff_t shard) const {
  if (shard == 0) return args->param_grads[param];
  return shards + (shard - 1) * layout.shard_size + layout.params[static_cast<size_t>(param)].offset;
}

template <class T>
Rows<T> BlockGradients<T>::value(const Range& range) const {
  const Place& place = block->layout->places[static_cast<size_t>(range.value)];
  if (place.role == Role::kInput)
    return {all->args->input_grads[place.index] + block->row * place.width + range.start, place.width};
  return {buffers + (own_buffers ? place.own_grad : place.grad) * block->rows + range.start, place.ld};
}

template <class T>
T* BlockGradients<T>::param(int index, ptrdiff_t column) const {
  return all->param(*block->layout, index, shard) + column;
}

namespace {

template <class T>
void zero_rows(const Rows<T>& rows, ptrdiff_t m, ptrdiff_t n) {
  for (ptrdiff_t i = 0; i < m; ++i) std::fill(rows.data + i * rows.ld, rows.data + i * rows.ld + n, T(0));
}

// dz = dy * activation'(...) of a node for rows [row, row + m) of the block. `range` is the node's dst, or
// more columns after it that have the same activation. dy may be dz.
template <class T>
void activation_rows(const Block<T>& block, const Node& node, const Range& range, ptrdiff_t row, ptrdiff_t m,
                     Rows<const T> dy, Rows<T> dz) {
  const Step& step = node.step;
  ActivationGrad<T> g;
  g.kind = static_cast<int>(step.activation.kind);
  g.alpha = static_cast<T>(step.activation.alpha);
  g.m = m;
  g.n = range.width();
  const GradNeeds needs = activation_grad_needs(step.activation.kind, step.activation.alpha);
  const bool activated = step.kind == StepKind::kDense || step.kind == StepKind::kMerge;
  if (!activated || needs == GradNeeds::kNothing) {
    if (dy.data != dz.data) block.kernels->copy(m, g.n, dy.data, dy.ld, dz.data, dz.ld, false);
    return;
  }
  const Rows<T> ref = needs == GradNeeds::kPre ? block.pre(node) : block.value(step.dst);
  g.ref = {ref.data + row * ref.ld, ref.ld};
  g.dy = dy;
  g.dz = dz;
  block.kernels->activation_grad(g);
}

// The gradient of some columns of an output, for rows from `row` of the block on.
template <class T>
Rows<const T> output_grad(const BlockGradients<T>& grads, const Place& place, const Range& range,
                          ptrdiff_t row) {
  if (grads.all->given) {
    const Rows<T> dy = grads.value(range);
    return {dy.data + row * dy.ld, dy.ld};
  }
  const T* dy = grads.all->args->output_grads[place.index];
  return {dy + (grads.block->row + row) * place.width + range.start, place.width};
}

// The gradient after the activation of a step's dst, masked in place if it has not been yet.
template <class T>
Rows<T> step_gradient(const BlockGradients<T>& grads, const Node& node) {
  const Rows<T> dz = grads.value(node.step.dst);
  if (!node.masked)
    activation_rows<T>(*grads.block, node, node.step.dst, 0, grads.block->rows, {dz.data, dz.ld}, dz);
  return dz;
}

// Of columns [begin, end), and the bias's in the same pass over dz; or of the two only the bias's.
template <class T>
void kernel_gradient(const BlockGradients<T>& grads, const Node& node, const Rows<T>& dz, bool only_bias,
                     ptrdiff_t begin, ptrdiff_t end) {
  const Block<T>& block = *grads.block;
  const Step& step = node.step;
  LiveColumns live{0, step.sources[0].range.width()};
  Gemm<T> g;
  g.whole_m = live.end;
  g.n = end - begin;
  g.k = g.k_end = block.rows;
  g.b = dz.data + begin;
  g.ldb = dz.ld;
  g.exact = grads.own_buffers;
  if (grads.all->wants_param(step.bias)) {
    g.sums = grads.param(step.bias, node.column + begin);
    g.add_sums = grads.adds(step.bias);
  }
  if (!only_bias) {
    const Rows<const T> a = dense_source(block, step);
    if (step.point >= 0 && !live_by_row(block, step)) live = live_columns(block, step, 0);
    g.m = live.end - live.begin;
    g.a = a.data + live.begin;
    g.lda = a.ld;
    g.ldc = node.kernel_ld;
    g.c = grads.param(step.kernel, node.kernel_at + begin) + live.begin * g.ldc;
    g.add = grads.adds(step.kernel);
  }
  block.kernels->gemm_tn(g);
}

// For the second pass.
template <class T>
void keep_for_second_pass(const BlockGradients<T>& grads, const Node& node, const Rows<T>& dz) {
  const Block<T>& block = *grads.block;
  const SecondPassNode& waiting = block.layout->second_pass[static_cast<size_t>(node.second_pass)];
  block.kernels->copy(block.rows, node.step.dst.width(), dz.data, dz.ld,
                      grads.second_pass_dz + waiting.offset * block.rows, waiting.ld, false);
}

// Of the gradient of a source with a point only the live columns count.
template <class T>
void live_gradient(const BlockGradients<T>& grads, const Node& node) {
  const Block<T>& block = *grads.block;
  const Step& step = node.step;
  const Rows<T> to = grads.value(step.sources[0].range);
  const ptrdiff_t ld = block.layout->live_width, width = step.sources[0].range.width();
  for (ptrdiff_t i = 0; i < block.rows; ++i) {
    const LiveColumns live = live_columns(block, step, i);
    const T* from = block.temporaries.whole_gradient + i * ld;
    T* row = to.data + i * to.ld;
    if (!node.grad_add[0]) std::fill(row, row + width, T(0));
    for (ptrdiff_t j = live.begin; j < live.end; ++j) row[j] += from[j];
  }
}

// Of rows [begin, end), and where columns [first, last) of the source are whole panels of the packed kernel, of these.
template <class T>
void source_gradient(const BlockGradients<T>& grads, const Node& node, const Rows<T>& dz, ptrdiff_t begin,
                     ptrdiff_t end, ptrdiff_t first, ptrdiff_t last) {
  const Block<T>& block = *grads.block;
  const Step& step = node.step;
  const Rows<T> to = grads.value(step.sources[0].range);
  Gemm<T> g;
  g.m = end - begin;
  g.n = last - first;
  g.k = g.k_end = step.dst.width();
  g.a = dz.data + begin * dz.ld;
  g.lda = dz.ld;
  g.b = grads.all->transposed + place_of(*grads.block->layout, node) + first * g.k;
  g.packed = true;
  g.c = step.point >= 0 ? block.temporaries.whole_gradient : to.data + begin * to.ld + first;
  g.ldc = step.point >= 0 ? block.layout->live_width : to.ld;
  g.add = step.point < 0 && node.grad_add[0];
  if (node.masks) {
    const Rows<T> y = block.value(step.sources[0].range);
    g.mask = y.data + begin * y.ld + first;
    g.ldmask = y.ld;
  }
  block.kernels->gemm(g);
  if (step.point >= 0) live_gradient(grads, node);
}

template <class T>
void dense_gradient(const BlockGradients<T>& grads, const Node& node, bool defer) {
  const Step& step = node.step;
  const Rows<T> dz = step_gradient(grads, node);
  const bool wants_kernel = grads.all->wants_param(step.kernel),
             waits = node.second_pass >= 0 && grads.second_pass_dz;
  if (wants_kernel || grads.all->wants_param(step.bias))
    kernel_gradient(grads, node, dz, waits || !wants_kernel, 0, step.dst.width());
  if (wants_kernel && waits) keep_for_second_pass(grads, node, dz);
  if (grads.all->wanted[static_cast<size_t>(step.sources[0].range.value)] && !(defer && node.defers))
    source_gradient(grads, node, dz, 0, grads.block->rows, 0, step.sources[0].range.width());
}

// Adds the gradients' places to the sources that merge_of or mix_of listed.
template <class T>
void give_sources(const BlockGradients<T>& grads, const Node& node) {
  MergeSource<T>* sources = grads.block->temporaries.sources;
  for (size_t s = 0; s < node.step.sources.size(); ++s) {
    const Range& range = node.step.sources[s].range;
    if (!grads.all->wanted[static_cast<size_t>(range.value)]) continue;
    const Rows<T> to = grads.value(range);
    sources[s].grad = to.data;
    sources[s].ldgrad = to.ld;
    sources[s].add = node.grad_add[s];
  }
}

template <class T>
void merge_gradient(const BlockGradients<T>& grads, const Node& node) {
  const Block<T>& block = *grads.block;
  const Step& step = node.step;
  const Rows<T> dz = step_gradient(grads, node);
  MergeGrad<T> g;
  g.merge = merge_of(block, node);
  give_sources(grads, node);
  g.dz = dz.data;
  g.lddz = dz.ld;
  if (step.merge_op == MergeOp::kMul) g.tile = merge_tile(g.merge.count);
  g.suffix = block.temporaries.suffix;
  if (grads.all->wants_param(step.gain.param)) g.gain_sums = block.temporaries.sums;
  block.kernels->merge_grad(g);
  if (g.gain_sums)
    block.kernels->copy(1, g.merge.n, g.gain_sums, 0, grads.param(step.gain.param, node.column), 0,
                        grads.adds(step.gain.param));
  if (grads.all->wants_param(step.shift.param))
    block.kernels->column_sums(block.rows, g.merge.n, dz.data, dz.ld,
                               grads.param(step.shift.param, node.column), grads.adds(step.shift.param));
}

template <class T>
void mix_gradient(const BlockGradients<T>& grads, const Node& node) {
  const Rows<T> dy = step_gradient(grads, node);
  MixRows<T> g = mix_of(*grads.block, node);
  give_sources(grads, node);
  g.gate = grads.block->temporaries.sources[0];
  g.dy = dy.data;
  g.lddy = dy.ld;
  grads.block->kernels->mix_grad(g);
}

// Of a node that no gradient comes to: zeros where it is the first to write its sources'.
template <class T>
void zero_sources(const BlockGradients<T>& grads, const Node& node) {
  for (size_t s = 0; s < node.step.sources.size(); ++s) {
    const Range& range = node.step.sources[s].range;
    const bool needed =
        grads.all->wanted[static_cast<size_t>(range.value)] && grads.all->reaches(range.value);
    if (needed && !node.grad_add[s]) zero_rows(grads.value(range), grads.block->rows, range.width());
  }
}

template <class T>
void row_gradient(const BlockGradients<T>& grads, const Node& node) {
  const Range& range = node.step.sources[0].range;
  if (!grads.all->wanted[static_cast<size_t>(range.value)]) return;
  const Rows<T> dy = step_gradient(grads, node);
  RowArgs<T> g = row_of(*grads.block, node);
  g.dy = {dy.data, dy.ld};
  g.dx = grads.value(range);
  g.add = node.grad_add[0];
  grads.block->kernels->row_grad(g);
}

}  // namespace

template <class T>
void begin_gradients(const BlockGradients<T>& grads, ptrdiff_t begin, ptrdiff_t end) {
  const Block<T>& block = *grads.block;
  const Layout& layout = *block.layout;
  const auto rows_of = [&](const Range& range) {
    const Rows<T> rows = grads.value(range);
    return Rows<T>{rows.data + begin * rows.ld, rows.ld};
  };
  for (size_t v = 0; v < layout.places.size(); ++v) {
    const Place& place = layout.places[v];
    if (!grads.all->wanted[v] || !grads.all->reaches(static_cast<int>(v))) continue;
    const Range whole{static_cast<int>(v), 0, place.width};
    if (place.role != Role::kOutput) {
      if (place.grad_zeroed) zero_rows(rows_of(whole), end - begin, place.width);
    } else if (!grads.all->args->output_grads[place.index]) {
      zero_rows(rows_of(whole), end - begin, place.width);
    } else if (place.read && !grads.all->given) {
      const Rows<T> to = rows_of(whole);
      const Rows<const T> dy = output_grad(grads, place, whole, begin);
      block.kernels->copy(end - begin, place.width, dy.data, dy.ld, to.data, to.ld, false);
    }
  }
  for (ptrdiff_t row = begin; row < end; row += kMaskedRows)
    for (const Entry& entry : layout.entries) {
      const Place& place = layout.places[static_cast<size_t>(entry.range.value)];
      if (!grads.all->wanted[static_cast<size_t>(entry.range.value)]) continue;
      if (!grads.all->args->output_grads[place.index]) continue;
      const Rows<T> to = grads.value(entry.range);
      activation_rows<T>(block, layout.nodes[entry.node], entry.range, row, std::min(kMaskedRows, end - row),
                         output_grad(grads, place, entry.range, row), {to.data + row * to.ld, to.ld});
    }
}

template <class T>
void run_gradient(const BlockGradients<T>& grads, const Node& node, bool defer) {
  if (!grads.all->wanted[static_cast<size_t>(node.step.dst.value)]) return;
  if (!grads.all->reaches(node.step.dst.value)) return zero_sources(grads, node);
  switch (node.step.kind) {
    case StepKind::kDense:
      return dense_gradient(grads, node, defer);
    case StepKind::kMerge:
      return merge_gradient(grads, node);
    case StepKind::kMix:
      return mix_gradient(grads, node);
    case StepKind::kRow:
      return row_gradient(grads, node);
  }
}

template <class T>
void run_second_pass(const std::vector<BlockGradients<T>>& blocks, const SecondPassTask& task) {
  const auto& [waiting, rows, columns] = task;
  for (const BlockGradients<T>& grads : blocks) {
    const Block<T>& block = *grads.block;
    const Node& node = block.layout->nodes[waiting->node];
    const Rows<T> a = block.value(node.step.sources[0].range);
    Gemm<T> g;
    g.m = rows.end - rows.begin;
    g.n = columns.end - columns.begin;
    g.whole_m = node.step.sources[0].range.width();
    g.k = g.k_end = block.rows;
    g.a = a.data + rows.begin;
    g.lda = a.ld;
    g.b = grads.second_pass_dz + waiting->offset * block.rows + columns.begin;
    g.ldb = waiting->ld;
    g.ldc = node.kernel_ld;
    g.c =
        grads.all->args->param_grads[node.step.kernel] + rows.begin * g.ldc + node.kernel_at + columns.begin;
    g.add = !grads.first;
    block.kernels->gemm_tn(g);
  }
}

template <class T>
void run_deferred(const BlockGradients<T>& grads, const Node& node, ptrdiff_t begin, ptrdiff_t end) {
  if (!node.defers || !grads.all->wanted[static_cast<size_t>(node.step.sources[0].range.value)]) return;
  source_gradient(grads, node, grads.value(node.step.dst), begin, end, 0, node.step.sources[0].range.width());
}

template <class T>
std::vector<GradientPart> gradient_parts(const BlockGradients<T>& grads, const Node& node) {
  const Step& step = node.step;
  const Gradients<T>& all = *grads.all;
  std::vector<GradientPart> parts;
  if (!all.wanted[static_cast<size_t>(step.dst.value)] || !is_shared_out(node, grads.block->rows))
    return parts;
  const auto add = [&](bool of_source, ptrdiff_t columns) {
    const ptrdiff_t count = shared_parts(columns);
    for (ptrdiff_t i = 0; i < count; ++i)
      parts.push_back({of_source, shared_part(columns, i), shared_part(columns, i + 1)});
  };
  if (all.wanted[static_cast<size_t>(step.sources[0].range.value)]) add(true, step.sources[0].range.width());
  if (all.wants_param(step.kernel) || all.wants_param(step.bias)) add(false, step.dst.width());
  return parts;
}

template <class T>
void mask_gradient(const BlockGradients<T>& grads, const Node& node) {
  step_gradient(grads, node);
}

template <class T>
void run_gradient_part(const BlockGradients<T>& grads, const Node& node, const GradientPart& part,
                       T* transposed) {
  const Block<T>& block = *grads.block;
  const Step& step = node.step;
  const Rows<T> dz = grads.value(step.dst);
  if (!part.of_source)
    return kernel_gradient(grads, node, dz, !grads.all->wants_param(step.kernel), part.begin, part.end);
  const ptrdiff_t n = step.dst.width(), cols = node.kernel_ld;
  const T* kernel = block.tensors->params[step.kernel] + node.kernel_at;
  block.kernels->pack_transposed(n, part.end - part.begin, kernel + part.begin * cols, cols,
                                 transposed + place_of(*block.layout, node) + part.begin * n);
  source_gradient(grads, node, dz, 0, block.rows, part.begin, part.end);
}

#define FUSEDSPLIT_FOR_TYPE(T)                                                                        \
  template struct Gradients<T>;                                                                       \
  template struct BlockGradients<T>;                                                                  \
  template void begin_gradients<T>(const BlockGradients<T>&, ptrdiff_t, ptrdiff_t);                   \
  template void run_gradient<T>(const BlockGradients<T>&, const Node&, bool);                         \
  template std::vector<GradientPart> gradient_parts<T>(const BlockGradients<T>&, const Node&);        \
  template void mask_gradient<T>(const BlockGradients<T>&, const Node&);                              \
  template void run_gradient_part<T>(const BlockGradients<T>&, const Node&, const GradientPart&, T*); \
  template void run_second_pass<T>(const std::vector<BlockGradients<T>>&, const SecondPassTask&);     \
  template void run_deferred<T>(const BlockGradients<T>&, const Node&, ptrdiff_t, ptrdiff_t);
FUSEDSPLIT_FOR_TYPE(float)
FUSEDSPLIT_FOR_TYPE(double)
#undef FUSEDSPLIT_FOR_TYPE

}  // namespace fusedsplit
