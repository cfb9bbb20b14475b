// Times the core without TensorFlow or Python: Dense -> split -> Dense branches -> concat, forward and with
// gradients of all weights, beside the rate of fused multiply-adds that never leave the registers.
//
//   bench [case...]   seed2 med wide large odd thin one d1024 d1000 scalar huge head F(8) F(64) F(256);
//                     with r in front, a relu stem: rmed rwide rlarge
//
// FUSEDSPLIT_BENCH_ROWS=4096,512   FUSEDSPLIT_BENCH_THREADS=1,2   FUSEDSPLIT_BENCH_INPUT_GRADS=1
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <thread>

#include "core/exec/program.h"
#include "core/microkernels/isa.h"
#include "core/runtime/workers.h"
#include "core/tools/ladder.h"
#include "core/tools/machine.h"

namespace fusedsplit {
namespace {

// With one thread its own CPU time, which other load on the machine disturbs less.
double now() {
  timespec t;
  clock_gettime(threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
double seconds(double since) { return now() - since; }

struct Data {
  Data(const Plan& plan, ptrdiff_t rows) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    const auto fill = [&](ptrdiff_t n, float scale) {
      std::vector<float> array(static_cast<size_t>(n));
      for (float& x : array) x = scale * normal(random);
      return array;
    };
    const Program<float> program(plan);
    const ptrdiff_t in = plan.values[0].width;
    const ptrdiff_t out = plan.values[static_cast<size_t>(plan.outputs[0])].width;
    x = fill(rows * in, 1);
    y = fill(rows * out, 1);
    dy = fill(rows * out, 1);
    dx = fill(rows * in, 1);
    saved.resize(static_cast<size_t>(program.saved_size(rows)));
    workspace.resize(program.workspace_bytes(rows) + 64);
    for (const Param& p : plan.params) {
      params.push_back(fill(p.size(), 0.05f));
      grads.push_back(fill(p.size(), 1));
    }
    for (auto& p : params) param_pointers.push_back(p.data());
    for (auto& p : grads) grad_pointers.push_back(p.data());
  }

  std::vector<float> x, y, dy, dx, saved;
  std::vector<char> workspace;
  std::vector<std::vector<float>> params, grads;
  std::vector<const float*> param_pointers;
  std::vector<float*> grad_pointers;
};

void forward(const Program<float>& program, ptrdiff_t rows, Data* data, bool save) {
  const float* inputs[] = {data->x.data()};
  float* outputs[] = {data->y.data()};
  ForwardArgs<float> args;
  args.rows = rows;
  args.inputs = inputs;
  args.params = data->param_pointers.data();
  args.outputs = outputs;
  args.saved = save ? data->saved.data() : nullptr;
  program.forward(args);
}

void backward(const Program<float>& program, ptrdiff_t rows, Data* data) {
  static const bool input_grads = std::getenv("FUSEDSPLIT_BENCH_INPUT_GRADS") != nullptr;
  const float* inputs[] = {data->x.data()};
  const float* outputs[] = {data->y.data()};
  const float* dys[] = {data->dy.data()};
  float* dxs[] = {input_grads ? data->dx.data() : nullptr};
  BackwardArgs<float> args;
  args.rows = rows;
  args.inputs = inputs;
  args.params = data->param_pointers.data();
  args.outputs = outputs;
  args.saved = data->saved.data();
  args.output_grads = dys;
  args.input_grads = dxs;
  args.param_grads = data->grad_pointers.data();
  args.workspace =
      data->workspace.data() + (64 - reinterpret_cast<uintptr_t>(data->workspace.data()) % 64) % 64;
  program.backward(args);
}

// Best of rounds (other load on the machine only adds) that each last a few milliseconds.
template <class Call>
double time_of(const Call& call) {
  call();
  const auto begin = now();
  call();
  const int repeats = std::max(1, static_cast<int>(3e-3 / std::max(1e-7, seconds(begin))));
  std::vector<double> rounds;
  for (int r = 0; r < 15; ++r) {
    const auto start = now();
    for (int i = 0; i < repeats; ++i) call();
    rounds.push_back(seconds(start) / repeats);
  }
  std::sort(rounds.begin(), rounds.end());
  return rounds[0];
}

void bench(const Shape& shape, bool relu_stem) {
  const Plan plan = make_plan(shape, relu_stem);
  const Program<float> program(plan);
  double stem = 2.0 * static_cast<double>(shape.d * shape.u), branches = 0;
  for (int64_t units : shape.units) branches += 2.0 * static_cast<double>(units * shape.head);
  for (size_t i = 0; i < shape.slices.size(); ++i)
    branches += 2.0 * static_cast<double>(shape.slices[i] * shape.units[i]);
  for (int rows : numbers_of("FUSEDSPLIT_BENCH_ROWS", {4096, 512, 32, 1})) {
    Data data(plan, rows);
    for (int count : numbers_of("FUSEDSPLIT_BENCH_THREADS", {1, 2})) {
      set_threads(count);
      const double rate = fma_rate_of_thread() / 1e9;
      const bool only = std::getenv("FUSEDSPLIT_BENCH_TRAIN") != nullptr;  // for profiles
      const double infer = only ? 1 : time_of([&] { forward(program, rows, &data, false); });
      const double train = time_of([&] {
        forward(program, rows, &data, true);
        backward(program, rows, &data);
      });
      const double flops = rows * (stem + branches), all = rows * (2 * stem + 3 * branches);
      std::printf(
          "%s%-6s rows %5d threads %d  forward %9.1f us %6.1f GF/s "
          "(%.2f)   +grads %9.1f us %6.1f GF/s "
          "(%.2f)\n",
          relu_stem ? "r" : " ", shape.name, rows, count, infer * 1e6, flops / infer / 1e9,
          flops / infer / 1e9 / rate / count, train * 1e6, all / train / 1e9,
          all / train / 1e9 / rate / count);
    }
  }
}

}  // namespace
}  // namespace fusedsplit

int main(int argc, char** argv) {
  using namespace fusedsplit;
  std::printf(
      "%s, %d threads, registers only: %.1f GF/s a thread; in "
      "brackets: the share of it\n",
      active_isa(), threads(), fma_rate_of_thread() / 1e9);
  for (const Shape& shape : shapes())
    for (int relu = 0; relu < 2; ++relu) {
      bool wanted = argc < 2 && !relu;
      for (int i = 1; i < argc; ++i)
        wanted = wanted || (relu ? "r" : "") + std::string(shape.name) == argv[i];
      if (wanted) bench(shape, relu);
    }
  return 0;
}
