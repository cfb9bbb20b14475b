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

const IsaUnit* choose() {
  const char* cap = std::getenv("FUSEDSPLIT_MAX_ISA");
  bool known = false;
  for (const Candidate& c : candidates()) known = known || (cap && !std::strcmp(c.unit->name, cap));
  const IsaUnit* best = candidates().front().unit;
  for (const Candidate& c : candidates()) {
    if (c.usable) best = c.unit;
    if (known && !std::strcmp(c.unit->name, cap)) break;
  }
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
