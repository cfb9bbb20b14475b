// The callable that a Predictor is made of.
#pragma once

#include <pybind11/pybind11.h>

namespace fusedsplit {

void bind_frozen(pybind11::module_& module);

}  // namespace fusedsplit
