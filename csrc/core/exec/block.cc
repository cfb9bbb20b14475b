#include "core/exec/block.h"

#include <algorithm>
#include <cstring>

#include "core/exec/constants.h"

namespace fusedsplit {

template <class T>
LiveColumns live_columns(const Block<T>& block, const Step& step, ptrdiff_t i) {
  const Point& point = block.tensors->points[step.point];
  const ptrdiff_t width = step.sources[0].range.width();
  const ptrdiff_t at = std::clamp<ptrdiff_t>(point.data[point.per_row ? block.row + i : 0], 0, width);
  return step.side == Side::kLeading ? LiveColumns{0, at} : LiveColumns{at, width};
}

template <class T>
Rows<const T> dense_source(const Block<T>& block, const Step& step) {
  const Rows<T> source = block.value(step.sources[0].range);
  if (!live_by_row(block, step)) return {source.data, source.ld};
  const ptrdiff_t ld = block.layout->live_width, width = step.sources[0].range.width();
  for (ptrdiff_t i = 0; i < block.rows; ++i) {
    const LiveColumns live = live_columns(block, step, i);
    T* to = block.temporaries.live_source + i * ld;
    std::fill(to, to + live.begin, T(0));
    std::copy(source.data + i * source.ld + live.begin, source.data + i * source.ld + live.end,
              to + live.begin);
    std::fill(to + live.end, to + width, T(0));
  }
  return {block.temporaries.live_source, ld};
}

namespace {

bool writes_output(const Layout& layout, const Step& step) {
  return layout.places[static_cast<size_t>(step.dst.value)].role == Role::kOutput;
}

// Whether a node has something to do: an output that is there already is not computed again.
template <class T>
bool has_work(const Block<T>& block, const Node& node) {
  if (block.idle && block.idle[node.step.dst.value]) return false;
  return !block.recomputes || node.pre >= 0 || !writes_output(*block.layout, node.step);
}

// When only an output's pre-activation is wanted, that takes the place of the output.
template <class T>
bool only_pre(const Block<T>& block, const Step& step) {
  return block.recomputes && writes_output(*block.layout, step);
}

// The part that a node's product takes in a Merge, if it takes one.
template <class T>
void fold_product(const Block<T>& block, const Node& node, Gemm<T>* g) {
  if (node.fold < 0 || !block.in_turn) return;
  const Fold& fold = block.layout->folds[static_cast<size_t>(node.fold)];
  const Node& merge = block.layout->nodes[fold.merge];
  if (!has_work(block, merge)) return;
  const ptrdiff_t self = &node - block.layout->nodes.data();
  size_t t = 0;
  while (fold.terms[t].writer != self) ++t;
  const Source& own = merge.step.sources[fold.terms[t].source];
  const Rows<T> y = block.value(merge.step.dst);
  g->fold.op = static_cast<int>(merge.step.merge_op);
  g->fold.scale = static_cast<T>(own.scale);
  g->fold.y = y.data;
  g->fold.ldy = y.ld;
  g->fold.relu = t + 1 == fold.terms.size() && merge.step.activation.kind == ActivationKind::kRelu;
  if (t == 1 && fold.terms[0].writer < 0) {
    const Source& first = merge.step.sources[fold.terms[0].source];
    const Rows<T> x = block.value(first.range);
    g->fold.with = x.data;
    g->fold.ldwith = x.ld;
    g->fold.with_scale = static_cast<T>(first.scale);
  } else if (t > 0) {
    g->fold.with = y.data;
    g->fold.ldwith = y.ld;
  }
  g->fold.only = node.elided && !block.keeps;
  if (g->fold.only) {
    g->c = y.data;
    g->ldc = y.ld;
  }
}

template <class T>
void run_dense(const Block<T>& block, const Node& node, ptrdiff_t begin, ptrdiff_t end) {
  const Step& step = node.step;
  FUSEDSPLIT_ASSERT(end - begin == step.dst.width() || (!block.in_turn && !block.tensors->packed));
  const Rows<const T> a = dense_source(block, step);
  const bool plain = only_pre(block, step);
  const Rows<T> c = plain ? block.pre(node) : block.value(step.dst);
  Gemm<T> g;
  g.m = block.rows;
  g.n = end - begin;
  g.k = g.k_end = step.sources[0].range.width();
  if (step.point >= 0 && !live_by_row(block, step)) {
    const LiveColumns live = live_columns(block, step, 0);
    g.k_begin = live.begin;
    g.k_end = live.end;
  }
  g.a = a.data;
  g.lda = a.ld;
  g.packed = block.tensors->packed != nullptr && !node.by_panels;
  g.wide = block.tensors->wide;
  g.b = g.packed ? block.tensors->packed + place_of(*block.layout, node)
                 : block.tensors->params[step.kernel] + node.kernel_at + begin;
  g.ldb = node.kernel_ld;
  g.by_panels = node.by_panels;
  if (!g.packed && !g.by_panels && g.n <= kDotMaxColumns && g.m > kDotMaxColumns) {
    block.kernels->pack(g.k, g.n, g.b, g.ldb, block.temporaries.narrow);
    g.packed = true;
    g.b = block.temporaries.narrow;
  }
  g.c = c.data + begin;
  g.ldc = c.ld;
  if (step.bias >= 0) g.bias = block.tensors->params[step.bias] + node.column + begin;
  if (!plain) {
    g.activation = static_cast<int>(step.activation.kind);
    g.alpha = static_cast<T>(step.activation.alpha);
    if (block.keeps && node.pre >= 0) {
      const Rows<T> pre = block.pre(node);
      g.pre = pre.data + begin;
      g.ldpre = pre.ld;
    }
  }
  fold_product(block, node, &g);
  block.kernels->gemm(g);
}

// One node's columns of a join's result, which they are copied from.
template <class T>
void finish_joined(const Block<T>& block, const Node& node, const T* from, ptrdiff_t ld) {
  const Step& step = node.step;
  const ptrdiff_t n = step.dst.width();
  if (node.pre >= 0 && block.keeps) {
    const Rows<T> pre = block.pre(node);
    block.kernels->copy(block.rows, n, from, ld, pre.data, pre.ld, false);
  }
  if (block.recomputes && writes_output(*block.layout, step)) return;
  const Rows<T> to = block.value(step.dst);
  block.kernels->copy(block.rows, n, from, ld, to.data, to.ld, false);
  block.kernels->activate(static_cast<int>(step.activation.kind), static_cast<T>(step.activation.alpha),
                          block.rows, n, to.data, to.ld);
}

template <class T>
void run_join(const Block<T>& block, const Join& join) {
  const Layout& layout = *block.layout;
  const auto wanted = [&](size_t i) { return has_work(block, layout.nodes[i]); };
  if (std::none_of(join.nodes.begin(), join.nodes.end(), wanted)) return;
  const Rows<T> a = block.value(layout.nodes[join.nodes[0]].step.sources[0].range);
  Gemm<T> g;
  g.m = block.rows;
  g.n = join.n;
  g.k = g.k_end = join.k;
  g.a = a.data;
  g.lda = a.ld;
  g.b = block.tensors->joined + join.packed;
  g.packed = g.by_panels = true;
  g.c = block.temporaries.joined;
  g.ldc = layout.joined_width;
  g.bias = block.tensors->joined + join.bias;
  block.kernels->gemm(g);
  const T* from = g.c;
  for (size_t i : join.nodes) {
    finish_joined(block, layout.nodes[i], from, g.ldc);
    from += layout.nodes[i].step.dst.width();
  }
}

template <class T>
void run_merge(const Block<T>& block, const Node& node) {
  MergeRows<T> g = merge_of(block, node);
  if (only_pre(block, node.step)) {
    const Rows<T> pre = block.pre(node);
    g.y = pre.data;
    g.ldy = pre.ld;
    return block.kernels->merge(g);
  }
  block.kernels->merge(g);
  if (block.keeps && node.pre >= 0) {
    const Rows<T> pre = block.pre(node);
    block.kernels->copy(g.m, g.n, g.y, g.ldy, pre.data, pre.ld, false);
  }
  const Activation& activation = node.step.activation;
  block.kernels->activate(static_cast<int>(activation.kind), static_cast<T>(activation.alpha), g.m, g.n, g.y,
                          g.ldy);
}

}  // namespace

template <class T>
void merge_sources(const Block<T>& block, const Step& step) {
  FUSEDSPLIT_ASSERT(static_cast<ptrdiff_t>(step.sources.size()) <= block.layout->max_sources);
  for (size_t s = 0; s < step.sources.size(); ++s) {
    const Source& source = step.sources[s];
    const Rows<T> x = block.value(source.range);
    MergeSource<T> to;
    to.x = x.data;
    to.ldx = x.ld;
    to.scale = static_cast<T>(source.scale);
    to.repeat = source.range.width() == 1 && step.dst.width() > 1;
    block.temporaries.sources[s] = to;
  }
}

template <class T>
MergeRows<T> merge_of(const Block<T>& block, const Node& node) {
  const Step& step = node.step;
  merge_sources(block, step);
  MergeRows<T> g;
  g.op = static_cast<int>(step.merge_op);
  g.count = static_cast<ptrdiff_t>(step.sources.size());
  g.sources = block.temporaries.sources;
  g.m = block.rows;
  g.n = step.dst.width();
  if (step.gain.kind == OperandKind::kParam) g.gain = block.tensors->params[step.gain.param] + node.column;
  if (step.gain.kind == OperandKind::kConst) g.gain_const = static_cast<T>(step.gain.value);
  if (step.shift.kind == OperandKind::kParam) g.shift = block.tensors->params[step.shift.param] + node.column;
  if (step.shift.kind == OperandKind::kConst) g.shift_const = static_cast<T>(step.shift.value);
  const Rows<T> y = block.value(step.dst);
  g.y = y.data;
  g.ldy = y.ld;
  return g;
}

template <class T>
MixRows<T> mix_of(const Block<T>& block, const Node& node) {
  const Step& step = node.step;
  merge_sources(block, step);
  MixRows<T> g;
  g.count = static_cast<ptrdiff_t>(step.sources.size()) - 1;
  g.gate = block.temporaries.sources[0];
  g.experts = block.temporaries.sources + 1;
  g.m = block.rows;
  g.n = step.dst.width();
  const Rows<T> y = block.value(step.dst);
  g.y = y.data;
  g.ldy = y.ld;
  return g;
}

template <class T>
RowArgs<T> row_of(const Block<T>& block, const Node& node) {
  const Step& step = node.step;
  const Rows<T> x = block.value(step.sources[0].range);
  RowArgs<T> g;
  g.op = static_cast<int>(step.row_op);
  g.epsilon = static_cast<T>(step.epsilon);
  g.m = block.rows;
  g.n = step.sources[0].range.width();
  g.x = {x.data, x.ld};
  g.y = block.value(step.dst);
  return g;
}

template <class T>
void run_node(const Block<T>& block, const Node& node) {
  const Step& step = node.step;
  if (!has_work(block, node)) return;
  switch (step.kind) {
    case StepKind::kDense:
      return run_dense(block, node, 0, step.dst.width());
    case StepKind::kMerge:
      return run_merge(block, node);
    case StepKind::kMix:
      return block.kernels->mix(mix_of(block, node));
    case StepKind::kRow:
      return block.kernels->row(row_of(block, node));
  }
}

bool is_lopsided(const std::vector<Chain>& chains, int workers) {
  double sum = 0, most = 0;
  for (const Chain& chain : chains) {
    sum += chain.flops;
    most = std::max(most, chain.flops);
  }
  return chains.size() == 1 || most * workers > kLopsided * sum;
}

bool is_shared_out(const Node& node, ptrdiff_t rows) {
  const Step& step = node.step;
  if (step.kind != StepKind::kDense || step.point >= 0) return false;
  const ptrdiff_t k = step.sources[0].range.width(), n = step.dst.width();
  return 2.0 * static_cast<double>(rows * k) * static_cast<double>(n) >= kSharedWork &&
         std::max(shared_parts(k), shared_parts(n)) > 1;
}

ptrdiff_t shared_parts(ptrdiff_t columns) { return std::max<ptrdiff_t>(1, columns / kSharedColumns); }

ptrdiff_t shared_part(ptrdiff_t columns, ptrdiff_t i) {
  const ptrdiff_t parts = shared_parts(columns);
  return i < parts ? columns * i / parts / kPad * kPad : columns;
}

template <class T>
void run_columns(const Block<T>& block, const Node& node, ptrdiff_t begin, ptrdiff_t end) {
  if (has_work(block, node)) run_dense(block, node, begin, end);
}

template <class T>
void run_nodes(Block<T> block) {
  block.in_turn = true;
  const Layout& layout = *block.layout;
  for (size_t i = 0; i < layout.nodes.size(); ++i) {
    const Node& node = layout.nodes[i];
    if (node.folded) continue;
    if (node.join < 0 || !block.tensors->joined) {
      run_node(block, node);
    } else if (const Join& join = layout.joins[static_cast<size_t>(node.join)]; join.nodes[0] == i) {
      run_join(block, join);
    }
  }
}

template <class T>
void pack_join(const Kernels<T>& kernels, const Layout& layout, const Join& join, const T* const* params,
               T* kernel, T* joined) {
  T* bias = joined + join.bias;
  T* to = kernel;
  for (size_t i : join.nodes) {
    const Node& node = layout.nodes[i];
    const Step& step = node.step;
    const ptrdiff_t n = step.dst.width();
    kernels.copy(join.k, n, params[step.kernel] + node.kernel_at, node.kernel_ld, to, join.n, false);
    if (step.bias >= 0) {
      std::copy_n(params[step.bias] + node.column, n, bias);
    } else {
      std::fill_n(bias, n, T(0));
    }
    to += n;
    bias += n;
  }
  kernels.pack(join.k, join.n, kernel, join.n, joined + join.packed);
}

template <class T>
void pack_kernel(const Kernels<T>& kernels, const Layout& layout, const Packing& packing,
                 const T* const* params, Reader reader, T* packed) {
  const Node& node = layout.nodes[packing.node];
  const Step& step = node.step;
  const ptrdiff_t k = step.sources[0].range.width(), n = step.dst.width();
  const ptrdiff_t cols = node.kernel_ld;
  const T* kernel = params[step.kernel] + node.kernel_at;
  T* to = packed + packing.at;
  switch (reader) {
    case Reader::kManyRows:
      return kernels.pack(k, n, kernel, cols, to);
    case Reader::kFewRows:
      return kernels.pack_wide(k, n, kernel, cols, to);
    case Reader::kBackward:
      return kernels.pack_transposed(n, k, kernel, cols, to);
  }
}

#define FUSEDSPLIT_FOR_TYPE(T)                                                                        \
  template LiveColumns live_columns<T>(const Block<T>&, const Step&, ptrdiff_t);                      \
  template Rows<const T> dense_source<T>(const Block<T>&, const Step&);                               \
  template void merge_sources<T>(const Block<T>&, const Step&);                                       \
  template MergeRows<T> merge_of<T>(const Block<T>&, const Node&);                                    \
  template MixRows<T> mix_of<T>(const Block<T>&, const Node&);                                        \
  template RowArgs<T> row_of<T>(const Block<T>&, const Node&);                                        \
  template void run_node<T>(const Block<T>&, const Node&);                                            \
  template void run_columns<T>(const Block<T>&, const Node&, ptrdiff_t, ptrdiff_t);                   \
  template void run_nodes<T>(Block<T>);                                                               \
  template void pack_join<T>(const Kernels<T>&, const Layout&, const Join&, const T* const*, T*, T*); \
  template void pack_kernel<T>(const Kernels<T>&, const Layout&, const Packing&, const T* const*, Reader, T*);
FUSEDSPLIT_FOR_TYPE(float)
FUSEDSPLIT_FOR_TYPE(double)
#undef FUSEDSPLIT_FOR_TYPE

}  // namespace fusedsplit
