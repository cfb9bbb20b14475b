#include "core/runtime/steering.h"

#if defined(__linux__)
#include <pthread.h>
#endif

namespace fusedsplit {

#if defined(__linux__)
void Steering::away_from_here(std::thread::native_handle_type thread) {
  const int here = sched_getcpu();
  cpu_set_t cpus;
  if (here < 0 || here >= CPU_SETSIZE || pthread_getaffinity_np(thread, sizeof(cpus), &cpus) != 0) return;
  before_ = cpus;
  CPU_CLR(here, &cpus);
  // On none but this one, or kept off it already.
  if (CPU_COUNT(&cpus) == 0 || !CPU_ISSET(here, &before_)) return;
  steered_ = pthread_setaffinity_np(thread, sizeof(cpus), &cpus) == 0;
}

void Steering::undo() {
  if (steered_) pthread_setaffinity_np(pthread_self(), sizeof(before_), &before_);
  steered_ = false;
}
#else
void Steering::away_from_here(std::thread::native_handle_type) {}
void Steering::undo() {}
#endif

}  // namespace fusedsplit
