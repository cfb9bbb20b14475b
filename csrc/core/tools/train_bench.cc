// Times a training step with mse and Adam on all weights, batches in rotation through more memory than caches hold,
// and what it is of the best product in the same run.
//
//   train_bench [case...]   med wide large by default; F(U), shuffled: F(8) F(64) F(256)
//
// FUSEDSPLIT_BENCH_ROWS=4096,512,128   FUSEDSPLIT_BENCH_THREADS=2
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "core/microkernels/isa.h"
#include "core/runtime/workers.h"
#include "core/tools/cases.h"
#include "core/tools/ladder.h"
#include "core/tools/machine.h"

namespace fusedsplit {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The best of a fifth of a second: other load on the machine only adds.
template <class Call>
double best_of(const Call& call) {
  double best = 1e9;
  for (const auto begin = Clock::now(); seconds_since(begin) < 0.2;) {
    const auto start = Clock::now();
    call();
    best = std::min(best, seconds_since(start));
  }
  return best;
}

// Operations per second of a product of our own, all of whose sides are large.
double product_rate() {
  constexpr int64_t kSide = 2048;
  const Shape shape{"", kSide, kSide, {kSide}, {kSide}};
  const Plan plan = make_plan(shape, false);
  const ForwardCase product(plan, kSide);
  return 4.0 * kSide * kSide * kSide / best_of([&] { product.run(); });
}

// Forward and the gradients of all weights; the stem's source gets none.
double operations(const Shape& shape, int rows) {
  double first = 2.0 * static_cast<double>(shape.d * shape.u), rest = 0;
  for (size_t i = 0; i < shape.slices.size(); ++i)
    rest += 2.0 * static_cast<double>(shape.units[i] * (shape.slices[i] + shape.head));
  return rows * (2 * first + 3 * rest);
}

void bench(const Shape& shape, double best_product) {
  // Of x and targets; more than a level-3 cache.
  constexpr ptrdiff_t kBytes = ptrdiff_t{48} << 20;
  constexpr double kRound = 1e-3;
  const Plan plan = make_plan(shape, false);
  const bool shuffled = shape.name[0] == 'F';
  for (int rows : numbers_of("FUSEDSPLIT_BENCH_ROWS", {4096, 512, 128})) {
    const ptrdiff_t row_bytes = static_cast<ptrdiff_t>(sizeof(float)) *
                                (width_of(plan, plan.inputs[0]) + width_of(plan, plan.outputs[0]));
    TrainingCase training(plan, rows, std::max<ptrdiff_t>(4, kBytes / row_bytes / rows), shuffled);
    for (int count : numbers_of("FUSEDSPLIT_BENCH_THREADS", {threads()})) {
      const int before = threads();
      set_threads(count);
      const auto start = Clock::now();
      training.run(4);
      const ptrdiff_t steps =
          std::min(training.batches(), 1 + static_cast<ptrdiff_t>(4 * kRound / seconds_since(start)));
      const double step = best_of([&] { training.run(steps); }) / static_cast<double>(steps);
      set_threads(before);
      const double rate = operations(shape, rows) / step;
      std::printf("%-7s rows %5d threads %d  %9.1f us a step  %6.1f GF/s, %.2f of the best product\n",
                  shape.name, rows, count, step * 1e6, rate / 1e9, rate / best_product);
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace fusedsplit

int main(int argc, char** argv) {
  using namespace fusedsplit;
  const double product = product_rate(), registers = 0.88 * fma_rate(), best = std::max(product, registers);
  std::printf("%s, %d threads: a product of 2048 %.1f GF/s, 0.88 of registers only %.1f\n", active_isa(),
              threads(), product / 1e9, registers / 1e9);
  for (const Shape& shape : shapes()) {
    const std::string name = shape.name;
    bool wanted = argc < 2 && (name == "med" || name == "wide" || name == "large");
    for (int i = 1; i < argc; ++i) wanted = wanted || name == argv[i];
    if (wanted) bench(shape, best);
  }
  return 0;
}
