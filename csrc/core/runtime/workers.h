// Threads as their callers see them.
//
// The thread that calls is always the first worker: it takes chunks like the others and, when none is left,
// waits only for chunks that another worker has begun. So no call ever depends on a thread being scheduled,
// and a caller that finds the workers busy with another call, or as many callers as CPUs, runs alone.
#pragma once

#include <cstddef>
#include <vector>

#include "core/export.h"

namespace fusedsplit {

// How many threads a call may use, the caller included. At first FUSEDSPLIT_NUM_THREADS, or else the usable
// CPUs: the process's affinity and its cgroup's quota; a count below 1 goes back to that.
FUSEDSPLIT_EXPORT int threads();
FUSEDSPLIT_EXPORT void set_threads(int count);

// For measuring how work scales on machines of more CPUs: while it lives, calls of its thread are cut as for so many
// workers, run by this thread alone, and each chunk is timed.
class FUSEDSPLIT_EXPORT TaskLog {
 public:
  explicit TaskLog(int workers);
  ~TaskLog();
  TaskLog(const TaskLog&) = delete;
  TaskLog& operator=(const TaskLog&) = delete;

  int workers;
  std::vector<std::vector<double>> rounds;  // seconds of each chunk
};

// One call's use of the workers, for as long as the object lives. Between its runs the workers spin rather
// than sleep, so that a second run costs next to nothing.
class FUSEDSPLIT_EXPORT Workers {
 public:
  // At most `limit` workers; 1 asks for no others than the caller. Those that are not `worth_waking` are had
  // only while they are awake, which frequent calls keep them.
  explicit Workers(int limit, bool worth_waking = true);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // Workers that may run at once: 1 when alone.
  int count() const { return count_; }

  // Calls body(chunk, worker) for every chunk in [0, chunks), worker in [0, count()), each chunk with
  // denormals flushed and rounding to nearest. The body must not throw.
  template <class Body>
  void run(ptrdiff_t chunks, const Body& body) {
    run_chunks(chunks, &body, [](const void* b, ptrdiff_t chunk, int worker) {
      (*static_cast<const Body*>(b))(chunk, worker);
    });
  }

 private:
  using Call = void (*)(const void* body, ptrdiff_t chunk, int worker);
  void run_chunks(ptrdiff_t chunks, const void* body, Call call);

  int count_ = 1;
  bool counts_ = false;  // as a call that could do with workers
  TaskLog* log_ = nullptr;
};

}  // namespace fusedsplit
