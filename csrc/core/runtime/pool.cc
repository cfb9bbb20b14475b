#include "core/runtime/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "core/runtime/cpus.h"
#include "core/runtime/float_mode.h"

namespace fusedsplit {
namespace {

constexpr int kMaxThreads = 1024;
// Chunks in one round: claims count them in 24 bits.
constexpr ptrdiff_t kMaxRound = (1 << 24) - 1;
using Clock = std::chrono::steady_clock;
// How long a worker spins for the next call, if the last one came as soon. Finding a spinning worker costs
// 0.1 us; waking a parked one 4 us of the caller's time, and in a virtual machine 20 until it runs.
constexpr std::chrono::microseconds kSpin{200};
// In the hope of no more than the end of a round.
constexpr std::chrono::microseconds kBriefSpin{3};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// All that a claim needs to know, in one word that changes at once: workers with an id below `limit` may
// take chunk `next` while it is below `count`. A claim that succeeds is a claim on the current round,
// whatever the claimer had seen before.
struct Claim {
  uint64_t limit, count, next;
  static Claim unpack(uint64_t w) { return {w >> 48, (w >> 24) & 0xffffff, w & 0xffffff}; }
  static uint64_t pack(uint64_t limit, uint64_t count) { return limit << 48 | count << 24; }
  bool open_to(int worker) const { return static_cast<uint64_t>(worker) < limit && next < count; }
};

// Never destroyed: its threads may outlive main(). A fork child starts over with a new one.
class Pool {
 public:
  using Call = void (*)(const void*, ptrdiff_t, int);

  bool take() { return !taken_.exchange(true, std::memory_order_acquire); }

  // Whether a call need not wake anybody, or is one of many. Only by whoever took the pool.
  bool ready() const {
    const bool awake = started_ > 0 && sleepers_.load(std::memory_order_relaxed) == 0;
    return awake || Clock::now() - last_call_ < kSpin;
  }

  // Only by whoever took the pool.
  void give_back() {
    session_.store(false, std::memory_order_relaxed);
    last_call_ = Clock::now();
    taken_.store(false, std::memory_order_release);
  }

  // Makes sure that workers 1 to count - 1 exist; returns how many workers there are, the caller included.
  int grow(int count) {
    while (started_ + 1 < count) {
      try {
        std::thread(&Pool::work, this, started_ + 1).detach();
      } catch (...) {
        break;
      }
      ++started_;
    }
    session_.store(true, std::memory_order_relaxed);
    return started_ + 1 < count ? started_ + 1 : count;
  }

  // One round of at most kMaxRound chunks, numbered from `first`.
  void round(ptrdiff_t first, ptrdiff_t count, int limit, const void* body, Call call) {
    body_ = body;
    call_ = call;
    first_ = first;
    done_.store(0, std::memory_order_relaxed);
    claim_.store(Claim::pack(static_cast<uint64_t>(limit), static_cast<uint64_t>(count)));
    if (sleepers_.load() > 0) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
      }
      wake_.notify_all();
    }
    drain(0);
    for (unsigned turn = 1; done_.load(std::memory_order_acquire) < count; ++turn) {
      relax();
      // Who still works may be waiting for this very CPU.
      if (turn % 1024 == 0) std::this_thread::yield();
    }
  }

 private:
  // Takes chunks until none is left; says whether there was one.
  bool drain(int worker) {
    bool any = false;
    for (uint64_t word = claim_.load(); Claim::unpack(word).open_to(worker);) {
      if (!claim_.compare_exchange_weak(word, word + 1)) continue;
      const FloatMode mode;
      call_(body_, first_ + static_cast<ptrdiff_t>(Claim::unpack(word).next), worker);
      done_.fetch_add(1, std::memory_order_release);
      any = true;
      word = claim_.load();
    }
    return any;
  }

  void work(int worker) {
    auto idle_since = Clock::now();
    bool busy_times = false;  // the last call came before a spinning worker would have given up
    for (;;) {
      for (unsigned turn = 1;; ++turn) {
        if (drain(worker)) {
          idle_since = Clock::now();
          turn = 0;
          continue;
        }
        relax();
        if (turn % 16) continue;
        const bool spins = busy_times || session_.load(std::memory_order_relaxed);
        if (Clock::now() - idle_since > (spins ? kSpin : kBriefSpin)) break;
        // Whoever else has work for this CPU gets it.
        if (turn % 64 == 0) std::this_thread::yield();
      }
      {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return Claim::unpack(claim_.load()).open_to(worker); });
        sleepers_.fetch_sub(1);
      }
      const auto woken = Clock::now();
      busy_times = woken - idle_since < kSpin;
      idle_since = woken;
    }
  }

  std::atomic<bool> taken_{false};
  std::atomic<bool> session_{false};
  int started_ = 0;                // threads, by whoever took the pool
  Clock::time_point last_call_{};  // when the pool was given back, by the same
  alignas(64) std::atomic<uint64_t> claim_{0};
  const void* body_ = nullptr;
  Call call_ = nullptr;
  ptrdiff_t first_ = 0;
  alignas(64) std::atomic<ptrdiff_t> done_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

std::atomic<Pool*> the_pool{nullptr};

// The child of a fork has none of the threads, and perhaps a locked mutex: it leaves the old pool alone.
void forget_pool() { the_pool.store(nullptr); }

Pool& pool() {
  Pool* p = the_pool.load(std::memory_order_acquire);
  if (p) return *p;
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  static_cast<void>(registered);
  Pool* fresh = new Pool;
  if (the_pool.compare_exchange_strong(p, fresh)) return *fresh;
  delete fresh;
  return *p;
}

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
  const int wanted = limit < threads() ? limit : threads();
  if (wanted < 2 || !pool().take()) return;
  holds_pool_ = true;
  if (worth_waking || pool().ready()) count_ = pool().grow(wanted);
}

Workers::~Workers() {
  if (holds_pool_) pool().give_back();
}

void Workers::run_chunks(ptrdiff_t chunks, const void* body, Call call) {
  if (count_ < 2 || chunks < 2) {
    const FloatMode mode;
    for (ptrdiff_t i = 0; i < chunks; ++i) call(body, i, 0);
    return;
  }
  for (ptrdiff_t first = 0; first < chunks; first += kMaxRound)
    pool().round(first, chunks - first < kMaxRound ? chunks - first : kMaxRound, count_, body, call);
}

}  // namespace fusedsplit
