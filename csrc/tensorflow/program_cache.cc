#include "tensorflow/program_cache.h"

#include <map>
#include <mutex>
#include <string>

#include "core/runtime/per_process.h"
#include "tensorflow/call.h"

namespace fusedsplit {
namespace {

// Weak: the kernels own the programs, so the cache holds none alive that no kernel uses.
template <class T>
struct Cache {
  std::mutex mutex;
  std::map<std::vector<int64_t>, std::weak_ptr<const Compiled<T>>> programs;
};

template <class T>
void drop_expired(Cache<T>* cache) {
  for (auto it = cache->programs.begin(); it != cache->programs.end();) {
    it = it->second.expired() ? cache->programs.erase(it) : std::next(it);
  }
}

}  // namespace

template <class T>
Compiled<T>::Compiled(const Plan& plan) : program(plan) {
  for (const Value& value : plan.values) row_bytes += static_cast<double>(value.width) * sizeof(T);
}

template <class T>
void Compiled<T>::check_rows(ptrdiff_t rows) const {
  constexpr double kMostBytes = 1e14;
  // What the widest block of an executor may hold per thread before a call is refused rather than tried.
  constexpr size_t kMostScratch = size_t{4} << 30;
  // A block more than the rows, since executors round up.
  if ((static_cast<double>(rows) + 65536) * row_bytes > kMostBytes)
    throw OpError(TF_RESOURCE_EXHAUSTED,
                  "expected a batch that fits into memory. Received: " + std::to_string(rows) + " rows of " +
                      std::to_string(row_bytes) + " bytes");
  const size_t scratch = program.scratch_bytes();
  if (scratch > kMostScratch)
    throw OpError(TF_RESOURCE_EXHAUSTED,
                  "expected a plan whose widths need at most " + std::to_string(kMostScratch) +
                      " bytes of scratch per thread. Received: " + std::to_string(scratch));
}

template <class T>
std::shared_ptr<const Compiled<T>> compiled_plan(const std::vector<int64_t>& code) {
  Cache<T>& programs = PerProcess<Cache<T>>::get();
  {
    const std::lock_guard<std::mutex> lock(programs.mutex);
    const auto found = programs.programs.find(code);
    if (found != programs.programs.end()) {
      if (auto program = found->second.lock()) return program;
    }
  }
  Plan plan;
  const std::string problem = decode_plan(code.data(), code.size(), &plan);
  if (!problem.empty()) invalid("plan: " + problem);
  auto made = std::make_shared<const Compiled<T>>(plan);
  const std::lock_guard<std::mutex> lock(programs.mutex);
  drop_expired(&programs);
  auto& slot = programs.programs[code];
  if (auto other = slot.lock()) return other;  // made by another thread meanwhile
  slot = made;
  return made;
}

template struct Compiled<float>;
template struct Compiled<double>;
template std::shared_ptr<const Compiled<float>> compiled_plan<float>(const std::vector<int64_t>&);
template std::shared_ptr<const Compiled<double>> compiled_plan<double>(const std::vector<int64_t>&);

}  // namespace fusedsplit
