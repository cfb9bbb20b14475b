// What an ISA unit offers: one table of functions for each element type. No STL and no inline function may
// appear here, since every ISA unit includes this file (see isa.h).
#pragma once

#include <cstddef>

#include "core/microkernels/constants.h"
#include "core/microkernels/training.h"

namespace fusedsplit {

// A Merge that takes a product's result C on its way to memory: y = fold(op, with_scale * with, scale * C), or
// without `with` scale * C alone.
template <class T>
struct FoldRows {
  int op = 0;  // a MergeOp: kAdd or kMul
  T scale = 1;
  const T* with = nullptr;  // m x n: what was folded before; may be y
  ptrdiff_t ldwith = 0;
  T with_scale = 1;
  bool relu = false;  // of the Merge, once its last source is there
  T* y = nullptr;     // null: there is no Merge
  ptrdiff_t ldy = 0;
  bool only = false;  // C itself is not wanted: from the registers to y
};

// One matrix product, the only one of the core:  C (m x n) = act(A B + bias), or C += A B.
//
// For one element the sequence of operations depends on n and k alone, never on m or on where the element
// lies in C: a row's result is the same in every batch. Of gemm_tn it depends on whole_m as well.
template <class T>
struct Gemm {
  ptrdiff_t m = 0;
  ptrdiff_t n = 0;
  ptrdiff_t k = 0;        // the whole length of the sums, which fixes where chunks begin
  ptrdiff_t k_begin = 0;  // the terms that count; the others are taken as zero
  ptrdiff_t k_end = 0;
  const T* a = nullptr;  // m x k, or k x m for gemm_tn
  ptrdiff_t lda = 0;
  const T* b = nullptr;  // k x n, or what pack made of it
  ptrdiff_t ldb = 0;
  bool packed = false;
  bool wide = false;       // by pack_wide
  bool by_panels = false;  // however few columns: what a product is joined with must not show in its bits
  bool exact = false;  // columns of B beyond n must not even be loaded: another thread may be writing them
  T* c = nullptr;
  ptrdiff_t ldc = 0;
  bool add = false;
  const T* bias = nullptr;  // n values where sums start; null: zero
  int activation = 0;       // an ActivationKind
  T alpha = 0;
  T* pre = nullptr;  // where to keep A B + bias as well; null: nowhere
  ptrdiff_t ldpre = 0;
  const T* mask =
      nullptr;  // m x n; C is multiplied by 1 where mask is positive, by 0 elsewhere (relu's derivative)
  ptrdiff_t ldmask = 0;
  ptrdiff_t whole_m =
      0;  // of gemm_tn: the columns of A of which these m are some, which fixes where chunks begin
  T* sums = nullptr;  // of gemm_tn: where to put the sums of B's columns as well; null: nowhere
  bool add_sums = false;
  FoldRows<T> fold;
};

// A source of a merge, and where its gradient goes. ld is 0 for no step between rows; a source of width 1 is
// repeated over the columns.
template <class T>
struct MergeSource {
  const T* x = nullptr;
  ptrdiff_t ldx = 0;
  T scale = 1;
  bool repeat = false;
  T* grad = nullptr;  // null: not wanted
  ptrdiff_t ldgrad = 0;
  bool add = false;
};

// y = gain * fold(op, sources) + shift, row by row; gain and shift are vectors, or else constants.
template <class T>
struct MergeRows {
  int op = 0;  // a MergeOp
  ptrdiff_t count = 0;
  const MergeSource<T>* sources = nullptr;
  ptrdiff_t m = 0;
  ptrdiff_t n = 0;
  const T* gain = nullptr;
  const T* shift = nullptr;
  T gain_const = 1;
  T shift_const = 0;
  T* y = nullptr;
  ptrdiff_t ldy = 0;
};

// The derivative: dz is the gradient of gain * fold + shift.
template <class T>
struct MergeGrad {
  MergeRows<T> merge;
  const T* dz = nullptr;
  ptrdiff_t lddz = 0;
  ptrdiff_t tile = kMergeTile;  // columns at a time, at most kMergeTile
  T* suffix = nullptr;          // tile * count elements of scratch
  T* gain_sums = nullptr;       // n sums over the rows of dz * fold; null: not wanted
};

// y = sum over e of gate[e] * experts[e].
template <class T>
struct MixRows {
  ptrdiff_t count = 0;
  const MergeSource<T>* experts = nullptr;
  MergeSource<T> gate;
  ptrdiff_t m = 0;
  ptrdiff_t n = 0;
  T* y = nullptr;
  ptrdiff_t ldy = 0;
  const T* dy = nullptr;  // for the derivative
  ptrdiff_t lddy = 0;
};

// A rectangle of rows: m x n with a row every ld elements.
template <class T>
struct Rows {
  T* data = nullptr;
  ptrdiff_t ld = 0;
};

// An operation along each row, y = op(x), whose columns are n of x and, by the operation, n or 1 of y.
template <class T>
struct RowArgs {
  int op = 0;  // a RowOp
  T epsilon = 0;
  ptrdiff_t m = 0;
  ptrdiff_t n = 0;
  Rows<const T> x;
  Rows<T> y;
  Rows<const T> dy;  // for the derivative
  Rows<T> dx;
  bool add = false;
};

// dz = dy times the derivative of an activation, given its output or its argument as `ref`.
template <class T>
struct ActivationGrad {
  int kind = 0;  // an ActivationKind
  T alpha = 0;
  ptrdiff_t m = 0;
  ptrdiff_t n = 0;
  Rows<const T> ref;
  Rows<const T> dy;
  Rows<T> dz;
};

template <class T>
struct Kernels {
  void (*gemm)(const Gemm<T>&);
  // A is read down its columns: weight gradients.
  void (*gemm_tn)(const Gemm<T>&);
  // Packs B (k x n) for gemm; `to` holds what place_nodes reserves.
  void (*pack)(ptrdiff_t k, ptrdiff_t n, const T* b, ptrdiff_t ldb, T* to);
  // The same in the panels that few rows read.
  void (*pack_wide)(ptrdiff_t k, ptrdiff_t n, const T* b, ptrdiff_t ldb, T* to);
  // As pack, given B's transpose (n x k).
  void (*pack_transposed)(ptrdiff_t k, ptrdiff_t n, const T* b, ptrdiff_t ldb, T* to);
  void (*activate)(int kind, T alpha, ptrdiff_t m, ptrdiff_t n, T* y, ptrdiff_t ldy);
  void (*activation_grad)(const ActivationGrad<T>&);
  void (*column_sums)(ptrdiff_t m, ptrdiff_t n, const T* z, ptrdiff_t ldz, T* sums, bool add);
  void (*copy)(ptrdiff_t m, ptrdiff_t n, const T* x, ptrdiff_t ldx, T* y, ptrdiff_t ldy, bool add);
  void (*merge)(const MergeRows<T>&);
  void (*merge_grad)(const MergeGrad<T>&);
  void (*mix)(const MixRows<T>&);
  void (*mix_grad)(const MixRows<T>&);
  void (*row)(const RowArgs<T>&);
  // dx = derivative of row() times dy; y is what row() gave.
  void (*row_grad)(const RowArgs<T>&);
  void (*loss)(const LossRows<T>&);
  void (*sum_shards)(const ShardSum<T>&);
  double (*sum_squares)(ptrdiff_t n, const T* x);
  // l1 * sum of |w| + l2 * sum of w^2, whose gradient is added to g; a null g: only the value.
  double (*regularize)(ptrdiff_t n, T l1, T l2, const T* w, T* g);
  void (*update)(const Update<T>&);
  // average = momentum * average + (1 - momentum) * w.
  void (*average_weights)(ptrdiff_t n, T momentum, const T* w, T* average);
  // So many rounds of fused multiply-adds in registers, for measuring their rate: returns how many operations
  // these were, and leaves in *sink what keeps them from being optimized away.
  double (*spin_fma)(ptrdiff_t rounds, T* sink);
};

// What the one exported function of an ISA unit returns.
struct IsaUnit {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
};

}  // namespace fusedsplit
