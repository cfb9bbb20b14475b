#include "core/microkernels/isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace fusedsplit {

const IsaUnit* isa_unit_baseline();
#if defined(__x86_64__)
const IsaUnit* isa_unit_avx2();
const IsaUnit* isa_unit_avx512();
#endif

namespace {

struct Candidate {
  const IsaUnit* unit;
  bool usable;
};

// Slowest first. __builtin_cpu_supports also asks whether the system saves the wider registers.
const std::vector<Candidate>& candidates() {
  static const auto* all = [] {
    auto* list = new std::vector<Candidate>{{isa_unit_baseline(), true}};
#if defined(__x86_64__)
    __builtin_cpu_init();
    list->push_back({isa_unit_avx2(), __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")});
    list->push_back(
        {isa_unit_avx512(), __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")});
#endif
    return list;
  }();
  return *all;
}

// The position of the unit that FUSEDSPLIT_MAX_ISA names: the last where it is not set, -1 where it is the name
// of none.
int cap() {
  const int last = static_cast<int>(candidates().size()) - 1;
  const char* name = std::getenv("FUSEDSPLIT_MAX_ISA");
  if (!name || !*name) return last;
#if defined(__aarch64__)
  if (!std::strcmp(name, "neon")) return last;  // what the baseline is there
#endif
  for (int i = 0; i <= last; ++i)
    if (!std::strcmp(candidates()[static_cast<size_t>(i)].unit->name, name)) return i;
  return -1;
}

const IsaUnit* choose() {
  const size_t end = cap() < 0 ? candidates().size() : static_cast<size_t>(cap()) + 1;
  const IsaUnit* best = candidates().front().unit;
  for (size_t i = 0; i < end; ++i)
    if (candidates()[i].usable) best = candidates()[i].unit;
  return best;
}

std::atomic<const IsaUnit*>& active() {
  static std::atomic<const IsaUnit*> unit{choose()};
  return unit;
}

}  // namespace

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates()) names.emplace_back(c.unit->name);
  return names;
}

std::vector<std::string> usable_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates())
    if (c.usable) names.emplace_back(c.unit->name);
  return names;
}

std::string max_isa_problem() {
  if (cap() >= 0) return "";
  std::string names;
  for (const std::string& name : compiled_isas()) names += (names.empty() ? "" : ", ") + name;
  return "FUSEDSPLIT_MAX_ISA: expected one of " + names + ". Received: " + std::getenv("FUSEDSPLIT_MAX_ISA");
}

const IsaUnit* isa_unit(const char* name) {
  for (const Candidate& c : candidates())
    if (c.usable && !std::strcmp(c.unit->name, name)) return c.unit;
  return nullptr;
}

const char* active_isa() { return active().load(std::memory_order_relaxed)->name; }

bool set_isa(const char* name) {
  const IsaUnit* unit = isa_unit(name);
  if (unit) active().store(unit, std::memory_order_relaxed);
  return unit != nullptr;
}

template <>
const Kernels<float>& active_kernels<float>() {
  return active().load(std::memory_order_relaxed)->f32;
}
template <>
const Kernels<double>& active_kernels<double>() {
  return active().load(std::memory_order_relaxed)->f64;
}

}  // namespace fusedsplit
