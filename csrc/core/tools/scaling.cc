// What more threads would bring: calls are cut as for so many workers, run by one thread, and each task is timed; then
// the tasks of each round are given, in order, to whichever worker is free first. Two threads are timed as well, to
// check that.
//
//   scaling [rows]     512 by default: forward, and a training step with mse and Adam
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "core/runtime/workers.h"
#include "core/tools/cases.h"
#include "core/tools/ladder.h"

namespace fusedsplit {
namespace {

using Clock = std::chrono::steady_clock;

// Of a round that is shared: what a spinning worker costs, see pool.cc and the note on waking there.
constexpr double kRoundSeconds = 0.5e-6;
constexpr int kTries = 25;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The time of rounds whose chunks go to the worker that is free first.
double makespan(const TaskLog& log) {
  double sum = 0;
  for (const std::vector<double>& chunks : log.rounds) {
    std::vector<double> free(static_cast<size_t>(log.workers));
    for (double chunk : chunks) *std::min_element(free.begin(), free.end()) += chunk;
    sum += *std::max_element(free.begin(), free.end());
    if (log.workers > 1 && chunks.size() > 1) sum += kRoundSeconds;
  }
  return sum;
}

// What a call would take so many workers: what is outside rounds, and the rounds.
double simulated(const std::function<void()>& call, int workers) {
  double best = 1e9;
  for (int i = 0; i < kTries; ++i) {
    TaskLog log(workers);
    const auto start = Clock::now();
    call();
    double outside = seconds_since(start);
    for (const std::vector<double>& chunks : log.rounds)
      for (double chunk : chunks) outside -= chunk;
    best = std::min(best, std::max(0.0, outside) + makespan(log));
  }
  return best;
}

double timed(const std::function<void()>& call, int count) {
  set_threads(count);
  double best = 1e9;
  for (int i = 0; i < kTries; ++i) {
    const auto start = Clock::now();
    call();
    best = std::min(best, seconds_since(start));
  }
  set_threads(0);
  return best;
}

void show(const char* name, const char* what, ptrdiff_t rows, const std::function<void()>& call) {
  call();
  const double one = simulated(call, 1);
  std::printf("%-6s %-8s %5td rows  1 thread %8.1f us; simulated:", name, what, rows, one * 1e6);
  for (int workers : {2, 4, 8, 16, 32, 64})
    std::printf("  %d: %.2fx", workers, one / simulated(call, workers));
  std::printf("; timed, 2: %.2fx\n", timed(call, 1) / timed(call, 2));
}

void scale(const Shape& shape, ptrdiff_t rows) {
  const Plan plan = make_plan(shape, false);
  const ForwardCase forward(plan, rows);
  show(shape.name, "forward", rows, [&] { forward.run(); });
  TrainingCase training(plan, rows, 1, false);
  show(shape.name, "training", rows, [&] { training.run(1); });
}

}  // namespace
}  // namespace fusedsplit

int main(int argc, char** argv) {
  using namespace fusedsplit;
  const ptrdiff_t rows = argc > 1 ? std::max(1, std::atoi(argv[1])) : 512;
  for (const Shape& shape : shapes()) {
    const std::string name = shape.name;
    if (name == "med" || name == "wide" || name == "large" || name == "F(256)") scale(shape, rows);
  }
  return 0;
}
