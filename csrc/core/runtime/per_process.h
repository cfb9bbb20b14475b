// What a process has one of, whatever forks.
#pragma once

#include <pthread.h>

#include <atomic>

namespace fusedsplit {

// The one T of this process, made when it is first asked for and never destroyed: threads may outlive main().
// The child of a fork has none of the parent's threads and perhaps its locked mutexes, so it leaves the
// parent's T alone and starts over with its own.
template <class T>
class PerProcess {
 public:
  static T& get() {
    static_cast<void>(registered_);
    T* found = current_.load(std::memory_order_acquire);
    if (found) return *found;
    T* fresh = new T;
    if (current_.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
    return *found;
  }

 private:
  static void forget() { current_.store(nullptr); }

  static inline std::atomic<T*> current_{nullptr};
  // While the library is loaded: no guard of a static variable is held when somebody forks.
  static inline const int registered_ = pthread_atfork(nullptr, nullptr, &PerProcess::forget);
};

}  // namespace fusedsplit
