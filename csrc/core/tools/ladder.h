// The shapes that the core is timed with: Dense -> split -> Dense branches -> concat, some with a head; and how the user
// says with how many rows and threads.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/plan/plan.h"

namespace fusedsplit {

struct Shape {
  const char* name;
  int64_t d, u;
  std::vector<int64_t> slices, units;
  int64_t head = 0;  // units of one more Dense behind the concat; 0: there is none
};

inline std::vector<Shape> shapes() {
  const auto equal = [](size_t n, int64_t w) { return std::vector<int64_t>(n, w); };
  return {{"seed2", 10, 8, {4, 4}, {4, 6}},
          {"med", 128, 256, equal(4, 64), equal(4, 64)},
          {"wide", 64, 512, equal(16, 32), equal(16, 32)},
          {"large", 512, 1024, equal(8, 128), equal(8, 128)},
          {"odd", 77, 330, {13, 50, 127, 140}, {13, 50, 127, 140}},
          {"thin", 64, 600, equal(100, 6), equal(100, 6)},
          {"one", 256, 3000, {3000}, {100}},
          {"d1024", 1024, 512, equal(4, 128), equal(4, 128)},
          {"d1000", 1000, 512, equal(4, 128), equal(4, 128)},
          {"scalar", 100, 64, equal(64, 1), equal(64, 1)},
          {"huge", 2048, 2048, equal(4, 512), equal(4, 512)},
          {"ffn", 512, 2048, {2048}, {512}},
          {"head", 128, 256, equal(4, 64), {1, 2, 3, 4}},
          {"F(8)", 133, 8, equal(2, 4), {4, 6}, 1},
          {"F(64)", 133, 64, equal(2, 32), {32, 48}, 1},
          {"F(256)", 133, 256, equal(2, 128), {128, 192}, 1}};
}

inline Plan make_plan(const Shape& s, bool relu_stem) {
  const size_t n = s.slices.size();
  int64_t total = 0;
  for (int64_t u : s.units) total += u;
  const int64_t head = s.head > 0;
  std::vector<int64_t> code{kPlanVersion,
                            0,
                            3 + head,
                            static_cast<int64_t>(2 + 2 * n) + 2 * head,
                            static_cast<int64_t>(1 + n) + head,
                            s.d,
                            0,
                            s.u,
                            1,
                            total,
                            2 - head};
  if (head) code.insert(code.end(), {s.head, 2});
  code.insert(code.end(), {2, s.d, s.u, 1, s.u});
  for (size_t i = 0; i < n; ++i) code.insert(code.end(), {2, s.slices[i], s.units[i], 1, s.units[i]});
  if (head) code.insert(code.end(), {2, total, s.head, 1, s.head});
  code.insert(code.end(), {0, 0, 0, s.d, 0, 1, relu_stem, 0, 1, 0, s.u, -1, 0});
  int64_t from = 0, to = 0, param = 2;
  for (size_t i = 0; i < n; ++i, param += 2) {
    code.insert(code.end(),
                {0, 1, from, from + s.slices[i], param, param + 1, 1, 0, 2, to, to + s.units[i], -1, 0});
    from += s.slices[i];
    to += s.units[i];
  }
  if (head) code.insert(code.end(), {0, 2, 0, total, param, param + 1, 0, 0, 3, 0, s.head, -1, 0});
  Plan plan;
  const std::string error = decode_plan(code.data(), code.size(), &plan);
  if (!error.empty()) std::printf("%s\n", error.c_str());
  return plan;
}

// The numbers that a variable of the environment lists, between any single characters.
inline std::vector<int> numbers_of(const char* variable, std::vector<int> otherwise) {
  const char* text = std::getenv(variable);
  if (!text) return otherwise;
  std::vector<int> list;
  for (const char* at = text; *at;) {
    char* end;
    list.push_back(static_cast<int>(std::strtol(at, &end, 10)));
    at = *end ? end + 1 : end;
  }
  return list;
}

}  // namespace fusedsplit
