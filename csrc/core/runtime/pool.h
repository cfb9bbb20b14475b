// The threads behind Workers (workers.h): one pool, for one caller at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/runtime/steering.h"

namespace fusedsplit {

// Never destroyed: its threads may outlive main().
class Pool {
 public:
  // Chunks in one round: claims count them in 24 bits.
  static constexpr ptrdiff_t kMaxRound = (1 << 24) - 1;
  using Call = void (*)(const void*, ptrdiff_t, int);

  bool take() { return !taken_.exchange(true, std::memory_order_acquire); }

  // Only by whoever took the pool.
  void give_back();

  // Whether calls come so quickly one after another that workers pay even for a small one.
  bool busy() const;
  // Around every call that could do with workers, also one that does not take the pool; tells how many others there
  // are at that time.
  int begin_call() { return calls_.fetch_add(1, std::memory_order_relaxed); }
  void end_call();

  // Makes sure that workers 1 to count - 1 exist; returns how many workers there are, the caller included.
  // Only by whoever took the pool.
  int grow(int count);

  // One round of at most kMaxRound chunks, numbered from `first`, for workers below `limit`. Only by whoever
  // took the pool.
  void round(ptrdiff_t first, ptrdiff_t count, int limit, const void* body, Call call);

 private:
  // A thread: where it waits when there is nothing to do.
  struct Thread {
    std::thread::native_handle_type handle{};
    std::atomic<bool> parked{true};  // from the beginning; written under the pool's mutex
    std::condition_variable wake;
    Steering steering;  // while parked the waker's, then the thread's
  };

  // Takes chunks until none is left; says whether there was one.
  bool drain(int worker);

  void work(int worker, Thread* self);

  // Sees to it that `wanted` of the workers below `limit` are awake, besides the caller.
  void wake(int wanted, int limit);

  std::atomic<bool> taken_{false};
  std::atomic<bool> session_{false};
  std::atomic<int> calls_{0};
  std::atomic<std::chrono::steady_clock::time_point> last_call_{};
  std::vector<std::unique_ptr<Thread>> threads_;  // of workers 1, 2, ...; by whoever took the pool
  alignas(64) std::atomic<uint64_t> claim_{0};
  const void* body_ = nullptr;
  Call call_ = nullptr;
  ptrdiff_t first_ = 0;
  alignas(64) std::atomic<ptrdiff_t> done_{0};
  alignas(64) std::mutex mutex_;
};

// The one of this process.
Pool& pool();

}  // namespace fusedsplit
