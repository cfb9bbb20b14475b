// What kernels expect of their arguments; see runtime/assert.h. Included by ISA units.
#pragma once

#include "core/microkernels/kernels.h"
#include "core/microkernels/kinds-inl.h"
#include "core/runtime/assert.h"

namespace fusedsplit {
namespace {

// Rows of n elements, `ld` apart, or one row.
constexpr bool holds_rows(ptrdiff_t ld, ptrdiff_t m, ptrdiff_t n) { return ld >= n || m <= 1; }

constexpr bool is_activation(int kind) {
  return kind >= 0 && kind < static_cast<int>(ActivationKind::kCount);
}

inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

template <class T>
void check_product(const Gemm<T>& g) {
  FUSEDSPLIT_ASSERT(g.m >= 0 && g.n >= 1 && g.k >= 1);
  FUSEDSPLIT_ASSERT(0 <= g.k_begin && g.k_begin <= g.k_end && g.k_end <= g.k);
  FUSEDSPLIT_ASSERT(g.b && (g.m == 0 || (g.a && g.c)));
  FUSEDSPLIT_ASSERT(g.packed ? is_aligned(g.b) : holds_rows(g.ldb, g.k, g.n));
  FUSEDSPLIT_ASSERT(holds_rows(g.ldc, g.m, g.n));
}

template <class T>
void check_gemm(const Gemm<T>& g) {
  check_product(g);
  FUSEDSPLIT_ASSERT(g.m >= 1 && holds_rows(g.lda, g.m, g.k));
  FUSEDSPLIT_ASSERT(is_activation(g.activation) && !g.sums);
  FUSEDSPLIT_ASSERT(!g.pre || holds_rows(g.ldpre, g.m, g.n));
  FUSEDSPLIT_ASSERT(!g.mask || holds_rows(g.ldmask, g.m, g.n));
  FUSEDSPLIT_ASSERT(!g.fold.y || g.fold.op == kOpAdd || g.fold.op == kOpMul);
  FUSEDSPLIT_ASSERT(!g.fold.y || holds_rows(g.fold.ldy, g.m, g.n));
  FUSEDSPLIT_ASSERT(!g.fold.with || (g.fold.y && holds_rows(g.fold.ldwith, g.m, g.n)));
}

template <class T>
void check_gemm_tn(const Gemm<T>& g) {
  check_product(g);
  FUSEDSPLIT_ASSERT(g.m <= g.whole_m && (g.m == 0 || holds_rows(g.lda, g.k, g.m)));
  FUSEDSPLIT_ASSERT(!g.packed && g.activation == kLinearKind && !g.bias && !g.pre && !g.mask && !g.fold.y);
}

template <class T>
void check_pack(ptrdiff_t k, ptrdiff_t n, const T* b, bool enough, const T* to) {
  FUSEDSPLIT_ASSERT(k >= 1 && n >= 1 && b && enough);
  FUSEDSPLIT_ASSERT(is_aligned(to));
}

template <class T>
void check_rows(ptrdiff_t m, ptrdiff_t n, const T* x, ptrdiff_t ldx, const T* y, ptrdiff_t ldy) {
  FUSEDSPLIT_ASSERT(m >= 0 && n >= 1 && x && y);
  FUSEDSPLIT_ASSERT(holds_rows(ldx, m, n) && holds_rows(ldy, m, n));
}

template <class T>
void check_activation_grad(const ActivationGrad<T>& g) {
  check_rows<T>(g.m, g.n, g.dy.data, g.dy.ld, g.dz.data, g.dz.ld);
  FUSEDSPLIT_ASSERT(is_activation(g.kind) && (!g.ref.data || holds_rows(g.ref.ld, g.m, g.n)));
}

// A source of a merge, or of a mixture of so many columns; `back`: its gradient as well.
template <class T>
void check_source(const MergeSource<T>& s, ptrdiff_t m, ptrdiff_t n, bool back) {
  const ptrdiff_t width = s.repeat ? 1 : n;
  FUSEDSPLIT_ASSERT(s.x && (s.ldx == 0 || holds_rows(s.ldx, m, width)));
  FUSEDSPLIT_ASSERT(!back || !s.grad || holds_rows(s.ldgrad, m, width));
}

template <class T>
void check_merge(const MergeRows<T>& g, bool back) {
  FUSEDSPLIT_ASSERT(g.op >= 0 && g.op < kMergeOps && g.m >= 1 && g.n >= 1);
  FUSEDSPLIT_ASSERT(g.count >= 1 || (g.count == 0 && g.op == kOpAdd));
  FUSEDSPLIT_ASSERT(back || (g.y && holds_rows(g.ldy, g.m, g.n)));
  for (ptrdiff_t s = 0; s < g.count; ++s) check_source(g.sources[s], g.m, g.n, back);
}

template <class T>
void check_merge_grad(const MergeGrad<T>& g) {
  check_merge(g.merge, true);
  FUSEDSPLIT_ASSERT(g.dz && holds_rows(g.lddz, g.merge.m, g.merge.n));
  FUSEDSPLIT_ASSERT(0 < g.tile && g.tile <= kMergeTile && (g.merge.op != kOpMul || g.suffix));
}

template <class T>
void check_mix(const MixRows<T>& g, bool back) {
  FUSEDSPLIT_ASSERT(g.count >= 1 && g.m >= 1 && g.n >= 1);
  FUSEDSPLIT_ASSERT(back ? g.dy && holds_rows(g.lddy, g.m, g.n) : g.y && holds_rows(g.ldy, g.m, g.n));
  check_source(g.gate, g.m, g.count, back);
  for (ptrdiff_t e = 0; e < g.count; ++e) check_source(g.experts[e], g.m, g.n, back);
}

template <class T>
void check_row(const RowArgs<T>& g, bool back) {
  FUSEDSPLIT_ASSERT(g.op >= 0 && g.op < static_cast<int>(RowOp::kCount) && g.m >= 1 && g.n >= 1);
  const ptrdiff_t width = g.op == kRowSoftmax || g.op == kRowNormalize ? g.n : 1;
  FUSEDSPLIT_ASSERT(g.x.data && holds_rows(g.x.ld, g.m, g.n));
  FUSEDSPLIT_ASSERT(g.y.data && holds_rows(g.y.ld, g.m, width));
  FUSEDSPLIT_ASSERT(!back || (g.dy.data && holds_rows(g.dy.ld, g.m, width)));
  FUSEDSPLIT_ASSERT(!back || (g.dx.data && holds_rows(g.dx.ld, g.m, g.n)));
}

template <class T>
void check_loss(const LossRows<T>& g) {
  FUSEDSPLIT_ASSERT(g.kind >= 0 && g.kind < static_cast<int>(LossKind::kCount) && g.m >= 1 && g.n >= 1);
  FUSEDSPLIT_ASSERT(g.y.data && holds_rows(g.y.ld, g.m, g.n) && g.values);
  FUSEDSPLIT_ASSERT((g.target.data && holds_rows(g.target.ld, g.m, g.n)) || g.labels);
  FUSEDSPLIT_ASSERT(!g.grad.data || (holds_rows(g.grad.ld, g.m, g.n) &&
                                     g.kind < static_cast<int>(LossKind::kBinaryAccuracy)));
}

}  // namespace
}  // namespace fusedsplit
