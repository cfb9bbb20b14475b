// Checks the core without TensorFlow or Python: random plans against plain loops in double, gradients
// against differences of those, float against double, and that bits depend neither on threads nor on the
// batch nor on who else calls.
//
//   selftest [plans] [seed]
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "core/exec/executor.h"
#include "core/microkernels/isa.h"
#include "core/runtime/workers.h"
#include "core/tools/selftest_plans.h"
#include "core/tools/selftest_training.h"
#include "core/train/step.h"

namespace fusedsplit {
namespace {

template <class T>
struct Buffers {
  std::vector<std::vector<T>> arrays;
  std::vector<T*> pointers;

  void add(size_t n) { arrays.emplace_back(n); }
  template <class U>
  void copy(const std::vector<std::vector<U>>& from) {
    for (const auto& a : from) arrays.emplace_back(a.begin(), a.end());
  }
  T** data() {
    pointers.clear();
    for (auto& a : arrays) pointers.push_back(a.data());
    return pointers.data();
  }
};

// One plan, its tensors, and both directions of it.
template <class T>
struct Run {
  Run(const Plan& plan, const Case& c) : rows(c.rows) {
    inputs.copy(c.inputs);
    params.copy(c.params);
    output_grads.copy(c.output_grads);
    for (size_t p = 0; p < c.points.size(); ++p) points.push_back({c.points[p].data(), c.per_row[p]});
    for (int i : plan.outputs)
      outputs.add(static_cast<size_t>(rows * plan.values[static_cast<size_t>(i)].width));
    for (const auto& a : inputs.arrays) input_grads.add(a.size());
    for (const auto& a : params.arrays) param_grads.add(a.size());
  }

  void forward(const Program<T>& program, bool save) {
    saved.assign(save ? static_cast<size_t>(program.saved_size(rows)) : 0, T(-7));
    ForwardArgs<T> args;
    args.rows = rows;
    args.inputs = inputs.data();
    args.params = params.data();
    args.points = points.data();
    args.outputs = outputs.data();
    args.saved = save ? saved.data() : nullptr;
    program.forward(args);
  }

  void backward(const Program<T>& program, bool save) {
    const size_t bytes = program.workspace_bytes(rows);
    void* workspace = std::aligned_alloc(64, bytes + 64);
    std::memset(workspace, 0xff, bytes);
    BackwardArgs<T> args;
    args.rows = rows;
    args.inputs = inputs.data();
    args.params = params.data();
    args.points = points.data();
    args.outputs = outputs.data();
    args.saved = save ? saved.data() : nullptr;
    args.output_grads = output_grads.data();
    args.input_grads = input_grads.data();
    args.param_grads = param_grads.data();
    args.workspace = workspace;
    program.backward(args);
    std::free(workspace);
  }

  ptrdiff_t rows;
  Buffers<T> inputs, params, outputs, output_grads, input_grads, param_grads;
  std::vector<Point> points;
  std::vector<T> saved;
};

int failures = 0;

void expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

// Largest difference relative to the largest value.
template <class A, class B>
double difference(const std::vector<A>& a, const std::vector<B>& b) {
  double worst = 0, size = 1e-3;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    worst = d > worst || std::isnan(d) ? d : worst;
    size = std::max(size, std::fabs(static_cast<double>(b[i])));
  }
  return worst / size;
}

template <class A, class B>
void compare(const Buffers<A>& a, const std::vector<std::vector<B>>& b, double bound,
             const std::string& what) {
  for (size_t i = 0; i < b.size(); ++i) {
    const double d = difference(a.arrays[i], b[i]);
    expect(d <= bound,
           what + " " + std::to_string(i) + ": differs by " + std::to_string(d / bound) + " x the bound");
  }
}

double loss(const Plan& plan, const Case& c) {
  double sum = 0;
  const auto outputs = run_plainly(plan, c);
  for (size_t o = 0; o < outputs.size(); ++o)
    for (size_t i = 0; i < outputs[o].size(); ++i) sum += outputs[o][i] * c.output_grads[o][i];
  return sum;
}

// The derivative along a random direction in one array, by differences.
void check_direction(const Plan& plan, Case* c, std::vector<double>* array, const std::vector<double>& grad,
                     std::mt19937* random, const std::string& what) {
  std::normal_distribution<double> normal;
  std::vector<double> direction(array->size());
  const std::vector<double> at = *array;
  double want = 0, size = 0;
  for (size_t i = 0; i < at.size(); ++i) {
    direction[i] = normal(*random);
    want += direction[i] * grad[i];
    size += std::fabs(direction[i] * grad[i]);
  }
  // A kink of relu or max may lie between two points; hardly between all pairs.
  double best = 1e30;
  for (double step : {1e-6, 1e-7, 1e-8}) {
    double value[3];
    for (int side = -1; side <= 1; ++side) {
      for (size_t i = 0; i < at.size(); ++i) (*array)[i] = at[i] + side * step * direction[i];
      value[side + 1] = loss(plan, *c);
    }
    for (int from = 0; from < 2; ++from)
      for (int to = from + 1; to < 3; ++to)
        best = std::min(best, std::fabs((value[to] - value[from]) / ((to - from) * step) - want));
  }
  *array = at;
  expect(best <= 1e-4 * (size + 1), what + ": derivative off by " + std::to_string(best));
}

// The same bits, also where there are NaNs.
template <class T>
bool same_bits(const std::vector<std::vector<T>>& a, const std::vector<std::vector<T>>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0);
  });
}

// How much the outputs change, relative to their sizes, when all that goes in changes by a few roundings of
// float: towers of exponentials magnify them.
double sensitivity(const Plan& plan, const Case& c, const std::vector<std::vector<double>>& plain,
                   std::mt19937* random) {
  Case moved = c;
  for (auto* arrays : {&moved.inputs, &moved.params})
    for (auto& array : *arrays)
      for (double& x : array) x *= 1 + 0x1p-23 * static_cast<double>(static_cast<int>((*random)() % 5) - 2);
  const auto outputs = run_plainly(plan, moved);
  double worst = 0;
  for (size_t o = 0; o < plain.size(); ++o) worst = std::max(worst, difference(outputs[o], plain[o]));
  return worst;
}

template <class T>
void check_bits(const Plan& plan, const Program<T>& program, const Case& c, Run<T>* run,
                const std::string& what) {
  const auto outputs = run->outputs.arrays;
  const auto input_grads = run->input_grads.arrays;
  const auto param_grads = run->param_grads.arrays;
  const int before = threads();
  for (int count : {1, 2, 5}) {
    set_threads(count);
    run->forward(program, false);
    expect(same_bits(run->outputs.arrays, outputs), what + ": outputs depend on threads or on saving");
    run->backward(program, false);
    expect(same_bits(run->input_grads.arrays, input_grads) && same_bits(run->param_grads.arrays, param_grads),
           what + ": gradients depend on threads or on saving");
  }
  set_threads(before);
  // One row alone, from the middle.
  const ptrdiff_t row = c.rows / 2;
  const Case single = single_row(plan, c, row);
  Run<T> one(plan, single);
  one.forward(program, false);
  for (size_t o = 0; o < outputs.size(); ++o) {
    const size_t width = one.outputs.arrays[o].size();
    const auto begin = outputs[o].begin() + static_cast<ptrdiff_t>(width) * row;
    expect(same_bits<T>({{begin, begin + static_cast<ptrdiff_t>(width)}}, {one.outputs.arrays[o]}),
           what + ": a row depends on its batch");
  }
}

void check_plan_once(std::mt19937* random, int number) {
  const std::vector<int64_t> code = random_plan(random);
  Plan plan;
  const std::string error = decode_plan(code.data(), code.size(), &plan);
  const std::string what = "plan " + std::to_string(number) + " (" + active_isa() + ")";
  expect(error.empty(), what + ": " + error);
  if (!error.empty()) return;
  Case c = random_case(plan, random);
  const auto plain = run_plainly(plan, c);
  // Towers of exponentials cannot be differentiated by differences, and may overflow on the way.
  double largest = 0;
  for (const auto& y : plain)
    for (double v : y) largest = std::isfinite(v) ? std::max(largest, std::fabs(v)) : INFINITY;
  const double moves = sensitivity(plan, c, plain, random);
  if (!std::isfinite(largest) || !(moves < 1e-2)) return;

  const Program<double> wide(plan);
  Run<double> exact(plan, c);
  exact.forward(wide, true);
  exact.backward(wide, true);
  compare(exact.outputs, plain, std::max(1e-12, 16 * 0x1p-29 * moves), what + " double output");
  for (size_t i = 0; i < c.inputs.size() && largest < 50; ++i)
    check_direction(plan, &c, &c.inputs[i], exact.input_grads.arrays[i], random, what + " input");
  for (size_t i = 0; i < c.params.size() && largest < 50; ++i)
    check_direction(plan, &c, &c.params[i], exact.param_grads.arrays[i], random, what + " param");
  check_bits(plan, wide, c, &exact, what + " double");

  const Program<float> narrow(plan);
  Run<float> run(plan, c);
  run.forward(narrow, true);
  run.backward(narrow, true);
  for (const auto& y : run.outputs.arrays)
    for (float v : y)
      if (!std::isfinite(v)) return;
  // Sums round more often than what goes into them.
  const double bound = std::max(3e-5, 16 * moves);
  compare(run.outputs, plain, bound, what + " float output");
  check_bits(plan, narrow, c, &run, what + " float");
  if (number % 4 == 0 && largest < 50)
    for (const std::string& problem : check_training(plan, c, random))
      expect(false, what + " trained: " + problem);
}

// Several callers at a time, for pools of several sizes, and callers that are workers themselves: each gets
// the bits that it gets alone.
void check_callers(std::mt19937* random, int plans) {
  constexpr int kCallers = 8, kCalls = 6;
  const int before = threads();
  for (int number = 0; number < plans; ++number) {
    const std::vector<int64_t> code = random_plan(random);
    Plan plan;
    if (!decode_plan(code.data(), code.size(), &plan).empty()) continue;
    const Case c = random_case(plan, random);
    const Program<float> program(plan);
    set_threads(1);
    Run<float> alone(plan, c);
    alone.forward(program, true);
    alone.backward(program, true);
    std::atomic<int> wrong{0};
    const auto call = [&](ptrdiff_t, int) {
      Run<float> run(plan, c);
      for (int i = 0; i < kCalls; ++i) {
        run.forward(program, i % 2 == 0);
        run.backward(program, i % 2 == 0);
        const bool same = same_bits(run.outputs.arrays, alone.outputs.arrays) &&
                          same_bits(run.param_grads.arrays, alone.param_grads.arrays);
        if (!same) ++wrong;
      }
    };
    for (int count : {1, 2, 3, kCallers}) {
      set_threads(count);
      std::vector<std::thread> callers;
      for (int i = 0; i < kCallers; ++i) callers.emplace_back([&] { call(0, 0); });
      for (std::thread& caller : callers) caller.join();
      Workers(count).run(count, call);
      expect(wrong == 0, "plan " + std::to_string(number) + ": " + std::to_string(kCallers) + " callers, " +
                             std::to_string(count) + " threads: other bits");
    }
  }
  set_threads(before);
}

// A call that uses no workers leaves them to others, and every call has a CPU.
void check_workers() {
  const int before = threads();
  set_threads(4);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));  // no call is one of many any more
  {
    Workers small(4, false);
    Workers large(4);
    expect(small.count() == 1, "a small call wakes workers");
    expect(large.count() == 3,
           "a call that uses no workers keeps others from them, or from the CPUs left by it");
    Workers third(4);
    expect(third.count() == 1, "two calls have the workers");
  }
  Workers again(4, false);
  expect(again.count() == 4, "a call soon after another has no workers");
  set_threads(1);
  expect(Workers(4).count() == 1, "one thread is two workers");
  set_threads(2);
  expect(Workers(4).count() == 1, "two callers of two CPUs have workers");
  set_threads(before);
}

// Arbitrary integers: nothing may happen but a message.
void check_garbage(std::mt19937* random, int tries) {
  Plan plan;
  for (int i = 0; i < tries; ++i) {
    std::vector<int64_t> code = random_plan(random);
    const size_t hits = 1 + (*random)() % 3;
    for (size_t h = 0; h < hits; ++h) {
      int64_t& x = code[(*random)() % code.size()];
      const int64_t choices[] = {0,     -1,     1, x ^ 1, x ^ 3, INT64_MAX, INT64_MIN, int64_t{1} << 31,
                                 65536, 1 << 24};
      x = choices[(*random)() % 10];
    }
    if ((*random)() % 4 == 0) code.resize((*random)() % code.size());
    decode_plan(code.data(), code.size(), &plan);
  }
}

}  // namespace
}  // namespace fusedsplit

int main(int argc, char** argv) {
  using namespace fusedsplit;
  const int plans = argc > 1 ? std::atoi(argv[1]) : 100;
  std::mt19937 random(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1);
  check_garbage(&random, 20 * plans);
  work_per_worker = 1;
  work_to_wake = 0;
  work_of_two_shards = 1;
  for (int i = 0; i < plans; ++i)
    for (const std::string& isa : usable_isas()) {
      set_isa(isa.c_str());
      check_plan_once(&random, i);
    }
  check_workers();
  check_callers(&random, 1 + plans / 8);
  std::printf("%d plans on %zu ISAs, %d failures\n", plans, usable_isas().size(), failures);
  return failures ? 1 : 0;
}
