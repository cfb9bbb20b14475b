// Where a thread wakes up.
#pragma once

#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace fusedsplit {

// Keeps a thread that is about to run off the CPU of whoever wakes it and goes on working there. Kernels of virtual
// machines tend to put it there although another CPU is idle (a halted one looks as if its host had taken it away),
// and then it waits for the end of the waker's time slice: milliseconds, call after call.
class Steering {
 public:
  // By the waker, while the thread sleeps or has just been made.
  void away_from_here(std::thread::native_handle_type thread);
  // By the thread as soon as it runs, before it is steered again: it may run where it might before.
  void undo();

 private:
#if defined(__linux__)
  cpu_set_t before_;
  bool steered_ = false;
#endif
};

}  // namespace fusedsplit
