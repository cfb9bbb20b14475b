#include "core/tools/machine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "core/microkernels/isa.h"
#include "core/runtime/workers.h"

namespace fusedsplit {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Other load on a machine only adds.
constexpr int kRounds = 7;
// Floats of a cache line, so that no two threads write to one.
constexpr size_t kLine = 16;
double rate(int workers) {
  constexpr ptrdiff_t kLoops = 20000;
  const Kernels<float>& kernels = active_kernels<float>();
  std::vector<float> sinks(static_cast<size_t>(workers) * kLine);
  std::vector<double> operations(static_cast<size_t>(workers));
  Workers pool(workers);
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = Clock::now();
    pool.run(workers, [&](ptrdiff_t i, int) {
      const size_t at = static_cast<size_t>(i);
      operations[at] = kernels.spin_fma(kLoops, &sinks[at * kLine]);
    });
    best = std::max(best, operations[0] * workers / seconds_since(start));
  }
  return best;
}

// Reads every cache line whole.
float sum(const float* x, size_t count) {
  typedef float Vector __attribute__((vector_size(16)));
  Vector sums[8] = {};
  for (size_t i = 0; i + 32 <= count; i += 32)
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      Vector v;
      std::memcpy(&v, x + i + 4 * j, sizeof(v));
      sums[j] += v;
    }
  for (int j = 1; j < 8; ++j) sums[0] += sums[j];
  return sums[0][0];
}

}  // namespace

double fma_rate_of_thread() { return rate(1); }
double fma_rate() { return rate(threads()); }

double read_seconds(size_t bytes) {
  constexpr int kPasses = 50;
  const size_t workers = static_cast<size_t>(threads()), part = bytes / sizeof(float) / workers;
  const std::vector<float> buffer(part * workers, 1.0f);
  std::vector<float> sinks(workers * kLine);
  Workers pool(threads());
  double best = 1e9;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = Clock::now();
    pool.run(threads(), [&](ptrdiff_t i, int) {
      const size_t at = static_cast<size_t>(i);
      for (int pass = 0; pass < kPasses; ++pass) sinks[at * kLine] += sum(buffer.data() + at * part, part);
    });
    best = std::min(best, seconds_since(start) / kPasses);
  }
  return best;
}

}  // namespace fusedsplit
