// Any bytes as the code of a plan, for libFuzzer: decoded, held to the rules, and laid out in every way. `make fuzz`
// builds it with the sanitizers and bounds its memory and time.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "core/layout/constants.h"
#include "core/layout/layout.h"

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

void check(const uint8_t* data, size_t size) {
  std::vector<int64_t> code(size / sizeof(int64_t));
  if (!code.empty()) std::memcpy(code.data(), data, code.size() * sizeof(int64_t));
  Plan plan;
  if (!decode_plan(code.data(), code.size(), &plan).empty()) return;
  for (const ptrdiff_t cut : kCuts)
    for (const size_t bytes : {sizeof(float), sizeof(double)}) check_layout(make_layout(plan, bytes, cut));
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
