// `fusedsplit._core.Trainer32` and `Trainer64`.
#pragma once

#include <pybind11/pybind11.h>

namespace fusedsplit {

void bind_trainers(pybind11::module_& module);

}  // namespace fusedsplit
