#include "core/runtime/workers.h"

#include <algorithm>
#include <atomic>
#include <chrono>

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

thread_local TaskLog* current_log = nullptr;

}  // namespace

TaskLog::TaskLog(int count) : workers(count) { current_log = this; }
TaskLog::~TaskLog() { current_log = nullptr; }

int threads() { return thread_count().load(std::memory_order_relaxed); }

void set_threads(int count) {
  const int allowed = count < 1 ? default_threads(kMaxThreads) : std::min(count, kMaxThreads);
  thread_count().store(allowed, std::memory_order_relaxed);
}

Workers::Workers(int limit, bool worth_waking) {
  log_ = current_log;
  if (log_) {
    count_ = std::max(1, std::min(limit, log_->workers));
    return;
  }
  const int allowed = threads();
  counts_ = std::min(limit, allowed) > 1;
  if (!counts_) return;
  // Other callers have CPUs of their own; workers beyond those that are left would only be in their way.
  const int wanted = std::min(limit, allowed - pool().begin_call());
  if (wanted < 2 || !(worth_waking || pool().busy()) || !pool().take()) return;
  count_ = pool().grow(wanted);
  if (count_ < 2) pool().give_back();
}

Workers::~Workers() {
  if (log_) return;
  if (count_ > 1) pool().give_back();
  if (counts_) pool().end_call();
}

void Workers::run_chunks(ptrdiff_t chunks, const void* body, Call call) {
  if (log_) {
    using Clock = std::chrono::steady_clock;
    const FloatMode mode;
    log_->rounds.emplace_back();
    for (ptrdiff_t i = 0; i < chunks; ++i) {
      const auto start = Clock::now();
      call(body, i, static_cast<int>(i % count_));
      log_->rounds.back().push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    return;
  }
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
