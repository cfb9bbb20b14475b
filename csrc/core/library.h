// The core as a library that the op and the Python module share, so that a process has one pool of threads,
// one shelf of scratch memory and one choice of ISA.
#pragma once

#include <string>

#include "build.h"
#include "core/export.h"
#include "core/microkernels/isa.h"

namespace fusedsplit {

// The kBuild of the core library.
FUSEDSPLIT_EXPORT const char* core_build();

// "", or why this library must not call the core library in this process: it is one of another build, which may
// have other structures under the same names, or does not know what the environment asks of it.
inline std::string core_problem() {
  const std::string found = core_build();
  if (found == kBuild) return max_isa_problem();
  return std::string("expected the core library of build ") + kBuild + ". Received: that of build " + found +
         ": install fusedsplit again";
}

}  // namespace fusedsplit
