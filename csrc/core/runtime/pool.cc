#include "core/runtime/pool.h"

#include <algorithm>
#include <thread>

#include "core/runtime/float_mode.h"
#include "core/runtime/per_process.h"

namespace fusedsplit {
namespace {

using Clock = std::chrono::steady_clock;

// How long a worker spins for the next call, if the last one came as soon. Finding a spinning worker costs
// 0.1 us; waking a parked one 4 us of the caller's time, and in a virtual machine 20 until it runs.
constexpr std::chrono::microseconds kSpin{200};
// In the hope of no more than the end of a round.
constexpr std::chrono::microseconds kBriefSpin{3};

void relax() {
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

}  // namespace

bool Pool::busy() const { return Clock::now() - last_call_.load(std::memory_order_relaxed) < kSpin; }

void Pool::end_call() {
  last_call_.store(Clock::now(), std::memory_order_relaxed);
  calls_.fetch_sub(1, std::memory_order_relaxed);
}

void Pool::give_back() {
  session_.store(false, std::memory_order_relaxed);
  taken_.store(false, std::memory_order_release);
}

int Pool::grow(int count) {
  try {
    for (int worker = static_cast<int>(threads_.size()) + 1; worker < count; ++worker) {
      threads_.reserve(threads_.size() + 1);
      auto fresh = std::make_unique<Thread>();
      std::thread thread([this, worker, self = fresh.get()] { work(worker, self); });
      fresh->handle = thread.native_handle();
      thread.detach();
      threads_.push_back(std::move(fresh));
    }
  } catch (...) {
    // Those that there are must do.
  }
  session_.store(true, std::memory_order_relaxed);
  return std::min(count, static_cast<int>(threads_.size()) + 1);
}

void Pool::wake(int wanted, int limit) {
  int parked = 0;
  for (int worker = 1; worker < limit; ++worker) parked += threads_[static_cast<size_t>(worker - 1)]->parked;
  // Who is awake looks for chunks by itself, also one that is about to park: it looks once more.
  int missing = wanted - (limit - 1 - parked);
  if (missing <= 0) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  for (int worker = 1; worker < limit && missing > 0; ++worker) {
    Thread& thread = *threads_[static_cast<size_t>(worker - 1)];
    if (!thread.parked) continue;
    thread.parked = false;
    thread.steering.away_from_here(thread.handle);
    thread.wake.notify_one();
    --missing;
  }
}

void Pool::round(ptrdiff_t first, ptrdiff_t count, int limit, const void* body, Call call) {
  body_ = body;
  call_ = call;
  first_ = first;
  done_.store(0, std::memory_order_relaxed);
  claim_.store(Claim::pack(static_cast<uint64_t>(limit), static_cast<uint64_t>(count)));
  wake(static_cast<int>(std::min<ptrdiff_t>(limit, count)) - 1, limit);
  drain(0);
  for (unsigned turn = 1; done_.load(std::memory_order_acquire) < count; ++turn) {
    relax();
    // Who still works may be waiting for this very CPU.
    if (turn % 1024 == 0) std::this_thread::yield();
  }
}

bool Pool::drain(int worker) {
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

void Pool::work(int worker, Thread* self) {
  auto idle_since = Clock::now();
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    self->wake.wait(lock, [&] { return !self->parked || Claim::unpack(claim_.load()).open_to(worker); });
    self->parked = false;
    lock.unlock();
    self->steering.undo();
    const auto woken = Clock::now();
    // Whether the last call came before a spinning worker would have given up.
    const bool busy_times = woken - idle_since < kSpin;
    idle_since = woken;
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
    lock.lock();
    self->parked = true;
  }
}

Pool& pool() { return PerProcess<Pool>::get(); }

}  // namespace fusedsplit
