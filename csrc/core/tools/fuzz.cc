// Any bytes as the code of a plan, for libFuzzer: decoded, held to the rules, and laid out in every way; a small plan is
// also prepared and run, as a Predictor does with what its file says. `make fuzz` builds it with the sanitizers and with
// the core's assertions, and bounds its memory and time.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "core/exec/executor.h"
#include "core/exec/program.h"
#include "core/layout/constants.h"
#include "core/layout/layout.h"
#include "core/runtime/workers.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace fusedsplit {
namespace {

// What the executor cuts products to where rows are few, and a width that leads to more pieces.
constexpr ptrdiff_t kCuts[] = {0, 43, 128};

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fuzz: expected %s\n", what);
  std::abort();
}

void check_layout(const Layout& layout) {
  int64_t reads = 0;
  for (const Node& node : layout.nodes) reads += static_cast<int64_t>(node.step.sources.size());
  require(reads <= kMaxReads, "no more reads than the rules allow");
  require(static_cast<int64_t>(layout.nodes.size()) <= reads, "something to read for each node");
  for (const ptrdiff_t size :
       {layout.kept_width, layout.brief_width, layout.grad_width, layout.own_grad_width, layout.live_width,
        layout.param_size, layout.shard_size, layout.second_pass_width, layout.packed_size,
        layout.joined_size, layout.joined_width, layout.join_kernel, layout.max_suffix, layout.narrow_size})
    require(0 <= size && size < ptrdiff_t{1} << 46, "sizes that do not overflow");
  require(layout.joined_size <= kJoinedToParams * layout.param_size, "joins in proportion to the params");
  require(layout.brief_rows > 0 && layout.kept_rows > 0 && layout.most_shards > 0, "rows and shards");
}

// What is run: plans of so many columns, elements of params and operations a row at most, by so many rows. They are what
// the executor goes by: one row, few and many, and more than one block.
constexpr ptrdiff_t kMostColumns = 1 << 12, kMostElements = 1 << 16;
constexpr double kMostFlops = 1 << 17;
constexpr ptrdiff_t kRows[] = {1, 9, 150};

bool is_small(const Plan& plan, const Layout& layout) {
  ptrdiff_t columns = 0;
  for (const Value& value : plan.values) columns += value.width;
  return columns <= kMostColumns && layout.param_size <= kMostElements && layout.flops <= kMostFlops;
}

template <class T>
class Arrays {
 public:
  // So many arrays of `size(i)` elements.
  template <class Size>
  Arrays(size_t count, const Size& size, std::mt19937* random) {
    for (size_t i = 0; i < count; ++i) {
      arrays_.emplace_back(static_cast<size_t>(size(i)));
      for (T& x : arrays_.back()) x = static_cast<T>(static_cast<int>((*random)() % 512) - 256) / 256;
      pointers_.push_back(arrays_.back().data());
    }
  }
  T* const* data() const { return pointers_.data(); }
  bool operator==(const Arrays& other) const {
    for (size_t i = 0; i < arrays_.size(); ++i)
      for (size_t j = 0; j < arrays_[i].size(); ++j) {
        const T a = arrays_[i][j], b = other.arrays_[i][j];
        if (a != b && !(std::isnan(a) && std::isnan(b))) return false;
      }
    return true;
  }

 private:
  std::vector<std::vector<T>> arrays_;
  std::vector<T*> pointers_;
};

// Prepared and as they are, params give the same, whoever shares the work.
template <class T>
void check_forward(const Plan& plan) {
  std::mt19937 random(static_cast<unsigned>(plan.steps.size()));
  const Program<T> program(plan);
  const Arrays<T> params(plan.params.size(), [&](size_t i) { return plan.params[i].size(); }, &random);
  const auto prepared = program.prepare(params.data());
  for (const ptrdiff_t rows : kRows) {
    const auto sized = [&](const std::vector<int>& values) {
      return Arrays<T>(
          values.size(), [&](size_t i) { return rows * plan.values[static_cast<size_t>(values[i])].width; },
          &random);
    };
    const Arrays<T> inputs = sized(plan.inputs), one = sized(plan.outputs), other = sized(plan.outputs);
    // Also before the first column and behind the last.
    std::vector<int32_t> places(static_cast<size_t>(rows));
    for (int32_t& place : places) place = static_cast<int32_t>(random() % 300) - 100;
    std::vector<Point> points;
    for (int i = 0; i < plan.points; ++i) points.push_back({places.data(), i % 2 == 0});
    ForwardArgs<T> args;
    args.rows = rows;
    args.inputs = inputs.data();
    args.params = params.data();
    args.points = points.data();
    args.outputs = one.data();
    args.threads = 1;
    program.forward(args);
    for (const int most : {1, 2}) {
      args.outputs = other.data();
      args.threads = most;
      program.forward(args, *prepared);
      require(one == other, "what is prepared to give the same");
    }
  }
}

void check(const uint8_t* data, size_t size) {
  std::vector<int64_t> code(size / sizeof(int64_t));
  if (!code.empty()) std::memcpy(code.data(), data, code.size() * sizeof(int64_t));
  Plan plan;
  if (!decode_plan(code.data(), code.size(), &plan).empty()) return;
  for (const ptrdiff_t cut : kCuts)
    for (const size_t bytes : {sizeof(float), sizeof(double)}) check_layout(make_layout(plan, bytes, cut));
  if (!is_small(plan, make_layout(plan, sizeof(float), 0))) return;
  check_forward<float>(plan);
  check_forward<double>(plan);
}

// One integer becomes what plans are made of: a small number, a neighbour, the copy of another, or a large one.
void mutate(std::vector<int64_t>* code, std::mt19937* random) {
  const auto pick = [&](size_t n) { return (*random)() % n; };
  int64_t& x = (*code)[pick(code->size())];
  switch (pick(5)) {
    case 0:
      x = static_cast<int64_t>(pick(8)) - 1;
      break;
    case 1:
      x = static_cast<int64_t>(static_cast<uint64_t>(x) + (pick(2) ? 1 : ~uint64_t{0}));
      break;
    case 2:
      x = (*code)[pick(code->size())];
      break;
    case 3:
      x = static_cast<int64_t>(pick(2000));
      break;
    default:
      x = static_cast<int64_t>(uint64_t{1} << pick(64));
  }
}

}  // namespace
}  // namespace fusedsplit

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  fusedsplit::set_threads(2);
  fusedsplit::work_per_worker = 1;  // two threads even for these plans
  fusedsplit::work_to_wake = 0;
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fusedsplit::check(data, size);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int64_t> code(size / sizeof(int64_t));
  if (code.empty() || random() % 4 == 0) return LLVMFuzzerMutate(data, size, most);
  std::memcpy(code.data(), data, code.size() * sizeof(int64_t));
  for (unsigned i = 0; i <= random() % 3; ++i) fusedsplit::mutate(&code, &random);
  std::memcpy(data, code.data(), code.size() * sizeof(int64_t));
  return code.size() * sizeof(int64_t);
}
