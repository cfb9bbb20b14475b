// The table of a unit. Each isa_*.cc defines FUSEDSPLIT_UNIT_NAME (a string) and FUSEDSPLIT_UNIT_FN (its one
// exported function), includes one vec/*.h and then this file.
#pragma once

#include "core/microkernels/activations-inl.h"
#include "core/microkernels/checks-inl.h"
#include "core/microkernels/kernels.h"
#include "core/microkernels/kinds-inl.h"
#include "core/microkernels/tile-inl.h"
// After the tiles:
#include "core/microkernels/columns-inl.h"
// After the sums:
#include "core/microkernels/gemm-inl.h"
// After the products:
#include "core/microkernels/rows-inl.h"
// After the rows:
#include "core/microkernels/row-inl.h"
// After the operations along a row:
#include "core/microkernels/loss-inl.h"
#include "core/microkernels/update-inl.h"

namespace fusedsplit {
namespace {

template <class T>
constexpr Kernels<T> kernels_of_unit() {
  return {&gemm<T>,
          &gemm_tn<T>,
          &pack<T>,
          &pack_wide<T>,
          &pack_transposed<T>,
          &activate_rows<T>,
          &activation_grad<T>,
          &column_sums<T>,
          &copy_rows<T>,
          &merge_rows<T>,
          &merge_grad<T>,
          &mix_rows<T>,
          &mix_grad<T>,
          &row<T>,
          &row_grad<T>,
          &loss_rows<T>,
          &sum_shards<T>,
          &sum_squares<T>,
          &regularize<T>,
          &update<T>,
          &average_weights<T>,
          &spin_fma<T>};
}

}  // namespace

const IsaUnit* FUSEDSPLIT_UNIT_FN() {
  static constexpr IsaUnit kUnit = {FUSEDSPLIT_UNIT_NAME, kernels_of_unit<float>(),
                                    kernels_of_unit<double>()};
  return &kUnit;
}

}  // namespace fusedsplit
