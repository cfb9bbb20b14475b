// Which kernels run: chosen once, by what the processor can do and FUSEDSPLIT_MAX_ISA.
#pragma once

#include <string>
#include <vector>

#include "core/export.h"
#include "core/microkernels/kernels.h"

namespace fusedsplit {

// Names of the units in this build, slowest first, and of those that the processor can run.
FUSEDSPLIT_EXPORT std::vector<std::string> compiled_isas();
FUSEDSPLIT_EXPORT std::vector<std::string> usable_isas();

// The unit in use: the fastest usable one that FUSEDSPLIT_MAX_ISA allows (an unknown name allows all, see max_isa_problem).
FUSEDSPLIT_EXPORT const char* active_isa();

// "", or what is wrong with FUSEDSPLIT_MAX_ISA: a name that no unit of this build has.
FUSEDSPLIT_EXPORT std::string max_isa_problem();

// Uses another unit from now on, for tests; false, and no change, if it is unknown or not usable. A Program
// runs on any unit: nothing in it depends on the one that was in use when it was made.
FUSEDSPLIT_EXPORT bool set_isa(const char* name);

template <class T>
const Kernels<T>& active_kernels();
template <>
FUSEDSPLIT_EXPORT const Kernels<float>& active_kernels<float>();
template <>
FUSEDSPLIT_EXPORT const Kernels<double>& active_kernels<double>();

// A unit's table, for tests of one ISA; null if it is unknown or not usable.
const IsaUnit* isa_unit(const char* name);

}  // namespace fusedsplit
