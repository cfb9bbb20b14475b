// Training of random plans, for selftest.cc.
#pragma once

#include <string>
#include <vector>

#include "core/tools/selftest_plans.h"

namespace fusedsplit {

// What is wrong with 50 epochs of training a plan in several ways, by pools of several sizes: losses against the plain
// computation of the first step, and the bits of all weights against those of one thread.
std::vector<std::string> check_training(const Plan& plan, const Case& c, std::mt19937* random);

}  // namespace fusedsplit
