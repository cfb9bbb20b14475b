// What steps read of the caller's arrays, and how a block of rows gets it.
#pragma once

#include <cstdint>
#include <vector>

#include "core/exec/block.h"
#include "core/train/recipe.h"

namespace fusedsplit {

// Classes as the caller has them.
struct Labels {
  const int32_t* narrow = nullptr;
  const int64_t* wide = nullptr;
  int64_t at(int64_t sample) const { return narrow ? narrow[sample] : wide[sample]; }
};

// The caller's arrays, row-major. Those of inputs that are drawn, of losses without such targets, of losses without
// weights are null.
template <class T>
struct Data {
  ptrdiff_t samples = 0;
  std::vector<const T*> inputs;   // by input of the plan
  std::vector<const T*> targets;  // by loss
  std::vector<Labels> labels;     // by loss
  std::vector<const T*> weights;  // by loss
  std::vector<Point> points;
  const int64_t* order = nullptr;  // the samples as they are taken; null: as they lie

  int64_t sample(ptrdiff_t row) const { return order ? order[row] : row; }
};

// A step's rows, [begin, begin + rows) of the order, and what follows from all of them.
struct Batch {
  ptrdiff_t begin = 0;
  ptrdiff_t rows = 0;
  int64_t number = 0;           // of the step: dropout draws by it
  std::vector<double> factors;  // by loss: what a row's loss counts in the mean
  std::vector<char> binary;     // by loss: all targets are 0 or 1, which hinges count as -1 and 1
};

// Where a worker has what its block reads and gives. All of it is for at most so many rows.
template <class T>
struct Desk {
  std::vector<T*> inputs;          // by input: its rows, gathered or drawn
  std::vector<T*> targets;         // by loss
  std::vector<ptrdiff_t*> labels;  // by loss
  std::vector<T*> weights;         // by loss
  std::vector<int32_t*> points;
  std::vector<T*> outputs;  // rows `output_ld` apart
  std::vector<ptrdiff_t> output_ld;
  T* values = nullptr;  // a loss or metric by row
  // What the block is shown: these, or the caller's arrays themselves.
  std::vector<const T*> shown_inputs;
  std::vector<T*> shown_outputs;
  std::vector<ptrdiff_t> shown_ld;  // of outputs
  std::vector<const T*> shown_targets;
  std::vector<const T*> shown_weights;
  std::vector<Point> shown_points;

  Desk(const Plan& plan, const Recipe& recipe, ptrdiff_t rows, Carver* carver);
};

// Lays rows [begin, end) of a batch on the desk, whose first row is the batch's row `first`.
template <class T>
void lay_out(const Plan& plan, const Recipe& recipe, const Data<T>& data, const Batch& batch, ptrdiff_t first,
             ptrdiff_t begin, ptrdiff_t end, Desk<T>* desk);
// Shows a block whose first row is `first` where its rows are.
template <class T>
void show(const Plan& plan, const Recipe& recipe, const Data<T>& data, const Batch& batch, ptrdiff_t first,
          Desk<T>* desk);

// Some rows of the order that a worker will lay out next, fetched bit by bit while it computes.
template <class T>
class Ahead {
 public:
  Ahead(const Plan& plan, const Recipe& recipe, const Data<T>& data, ptrdiff_t begin, ptrdiff_t end)
      : plan_(plan), recipe_(recipe), data_(data), at_(begin), end_(end) {}
  // The next of `left` equal parts of what is left.
  void fetch(ptrdiff_t left);

 private:
  const Plan& plan_;
  const Recipe& recipe_;
  const Data<T>& data_;
  ptrdiff_t at_, end_;
};

// What the mean of a loss and a hinge's targets want to know of a step's rows as a whole.
template <class T>
void survey(const Plan& plan, const Recipe& recipe, const Data<T>& data, Batch* batch);

}  // namespace fusedsplit
