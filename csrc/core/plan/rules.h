// The rules of a plan: the same as in fusedsplit/plan/rules.py.
#pragma once

#include <string>

#include "core/plan/plan.h"

namespace fusedsplit {

// "" or the first rule that the plan breaks, and where. May throw std::bad_alloc.
std::string check_plan(const Plan& plan);

}  // namespace fusedsplit
