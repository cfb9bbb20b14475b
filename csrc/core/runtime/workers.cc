#include "core/runtime/workers.h"

#include <algorithm>
#include <atomic>

#include "core/runtime/cpus.h"
#include "core/runtime/float_mode.h"
#include "core/runtime/pool.h"

namespace fusedsplit {
namespace {

constexpr int kMaxThreads = 1024;

std::atomic<int>& thread_count() {
  static std::atomic<int> count{default_threads(kMaxThreads)};
  return count;
}

}  // namespace

int threads() { return thread_count().load(std::memory_order_relaxed); }

void set_threads(int count) {
  const int allowed = count < 1 ? default_threads(kMaxThreads) : std::min(count, kMaxThreads);
  thread_count().store(allowed, std::memory_order_relaxed);
}

Workers::Workers(int limit, bool worth_waking) {
  const int wanted = std::min(limit, threads());
  counts_ = wanted > 1;
  if (wanted < 2 || !(worth_waking || pool().busy()) || !pool().take()) return;
  count_ = pool().grow(wanted);
  if (count_ < 2) pool().give_back();
}

Workers::~Workers() {
  if (count_ > 1) pool().give_back();
  if (counts_) pool().end_call();
}

void Workers::run_chunks(ptrdiff_t chunks, const void* body, Call call) {
  if (count_ < 2 || chunks < 2) {
    const FloatMode mode;
    for (ptrdiff_t i = 0; i < chunks; ++i) call(body, i, 0);
    return;
  }
  for (ptrdiff_t first = 0; first < chunks; first += Pool::kMaxRound)
    pool().round(first, chunks - first < Pool::kMaxRound ? chunks - first : Pool::kMaxRound, count_, body,
                 call);
}

}  // namespace fusedsplit
