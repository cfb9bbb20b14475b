// A plan's weights and the steps that train or evaluate it: the entry point of this room.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/export.h"
#include "core/train/batch.h"
#include "core/train/recipe.h"

namespace fusedsplit {

template <class T>
struct RunArgs {
  Data<T> data;
  ptrdiff_t rows = 0;             // of the order
  ptrdiff_t batch = 1;            // rows of a step; the last may have fewer
  const double* rates = nullptr;  // by step; not read by a recipe that only evaluates
  double seconds = -1;            // the run ends with the first step that ends later; negative: never
  std::vector<T*> outputs;        // by output of the plan: rows x width, or null
};

// What steps were: by step.
struct RunResult {
  std::vector<int64_t> rows;
  std::vector<double> losses;   // 1 + losses each: the total, and each loss by itself
  std::vector<double> metrics;  // metrics x 2 each: the sum of values, and of their weights
};

// One caller at a time: each function waits for the one that runs.
template <class T>
class FUSEDSPLIT_EXPORT Trainer {
 public:
  // The recipe must fit the plan (recipe_problem).
  Trainer(const Plan& plan, const Recipe& recipe);
  ~Trainer();

  const Plan& plan() const;
  const Recipe& recipe() const;

  void read_param(size_t param, T* to) const;
  void write_param(size_t param, const T* from);
  const std::vector<std::string>& slots() const;
  void read_slot(size_t slot, size_t param, T* to) const;
  void write_slot(size_t slot, size_t param, const T* from);
  int64_t iterations() const;
  void set_iterations(int64_t count);
  double u_product() const;
  void set_u_product(double value);

  // Runs steps. Returns "", or before anything is changed what is wrong with the order or a label.
  std::string run(const RunArgs<T>& args, RunResult* result);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

extern template class Trainer<float>;
extern template class Trainer<double>;

}  // namespace fusedsplit
