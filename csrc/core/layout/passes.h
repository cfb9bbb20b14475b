// The passes that make a layout, in the order in which they run: each takes what those before it decided. `unit` is
// how many elements a cache line holds.
#pragma once

#include "core/layout/layout.h"

namespace fusedsplit {

// Buffers of values and of pre-activations.
Layout place_values(Sliced sliced, ptrdiff_t unit);
Layout place_nodes(Layout layout, ptrdiff_t unit);
// Gradients of params, in shards, or large ones of the second pass. `own` as for make_layout.
Layout place_params(Layout layout, const Plan& plan, bool own);
// What is computed together, and packed kernels.
Layout find_joins(Layout layout, ptrdiff_t unit);
Layout place_packings(Layout layout);
Layout find_folds(Layout layout);
// Of large kernels, which wait for the second pass.
Layout find_second_pass(Layout layout, ptrdiff_t unit);
// Gradients of values: who sets and who adds, and where derivatives of activations are applied.
Layout order_gradients(Layout layout);
Layout find_entries(Layout layout);
Layout find_masks(Layout layout);
// What may run side by side, what shares its memory, and how many rows go at a time.
Layout find_chains(Layout layout);
Layout reuse_buffers(Layout layout);
Layout size_blocks(Layout layout, size_t bytes);

}  // namespace fusedsplit
