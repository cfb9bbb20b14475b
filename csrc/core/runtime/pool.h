// The threads behind Workers (workers.h): one pool, for one caller at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace fusedsplit {

// Never destroyed: its threads may outlive main(). A fork child starts over with a new one.
class Pool {
 public:
  // Chunks in one round: claims count them in 24 bits.
  static constexpr ptrdiff_t kMaxRound = (1 << 24) - 1;
  using Call = void (*)(const void*, ptrdiff_t, int);

  bool take() { return !taken_.exchange(true, std::memory_order_acquire); }

  // Whether a call need not wake anybody, or is one of many. Only by whoever took the pool.
  bool ready() const;

  // Only by whoever took the pool.
  void give_back();

  // Makes sure that workers 1 to count - 1 exist; returns how many workers there are, the caller included.
  int grow(int count);

  // One round of at most kMaxRound chunks, numbered from `first`.
  void round(ptrdiff_t first, ptrdiff_t count, int limit, const void* body, Call call);

 private:
  // Takes chunks until none is left; says whether there was one.
  bool drain(int worker);

  void work(int worker);

  std::atomic<bool> taken_{false};
  std::atomic<bool> session_{false};
  int started_ = 0;                                    // threads, by whoever took the pool
  std::chrono::steady_clock::time_point last_call_{};  // when the pool was given back, by the same
  alignas(64) std::atomic<uint64_t> claim_{0};
  const void* body_ = nullptr;
  Call call_ = nullptr;
  ptrdiff_t first_ = 0;
  alignas(64) std::atomic<ptrdiff_t> done_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// The one of this process, made when it is first asked for.
Pool& pool();

}  // namespace fusedsplit
