#include "core/train/batch.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/layout/strides.h"
#include "core/train/philox.h"

namespace fusedsplit {
namespace {

ptrdiff_t output_width(const Plan& plan, int output) {
  return plan.values[static_cast<size_t>(plan.outputs[static_cast<size_t>(output)])].width;
}
ptrdiff_t input_width(const Plan& plan, size_t input) {
  return plan.values[static_cast<size_t>(plan.inputs[input])].width;
}

// Rows of some width, by their samples.
template <class T>
void gather(const T* from, ptrdiff_t width, const int64_t* samples, ptrdiff_t rows, T* to) {
  if (width == 1) {
    for (ptrdiff_t i = 0; i < rows; ++i) to[i] = from[samples[i]];
    return;
  }
  for (ptrdiff_t i = 0; i < rows; ++i)
    std::memcpy(to + i * width, from + samples[i] * width, static_cast<size_t>(width) * sizeof(T));
}

constexpr bool is_hinge(LossKind kind) { return kind == LossKind::kHinge || kind == LossKind::kSquaredHinge; }

// Whether a loss, or a metric with its targets, takes 0 and 1 for -1 and 1.
bool hinges(const Recipe& recipe, size_t loss) {
  return is_hinge(recipe.losses[loss].kind) ||
         std::any_of(recipe.metrics.begin(), recipe.metrics.end(), [&](const Metric& metric) {
           return static_cast<size_t>(metric.loss) == loss && is_hinge(metric.kind);
         });
}

// A row of the batch has its own numbers, whatever else is drawn.
template <class T>
void draw(const Dropout& dropout, int64_t step, ptrdiff_t row, ptrdiff_t width, T* to) {
  const T kept = static_cast<T>(1 / (1 - dropout.rate));
  const uint64_t least = static_cast<uint64_t>(std::llround(std::ldexp(dropout.rate, 32)));
  Random4 numbers{};
  for (ptrdiff_t j = 0; j < width; ++j) {
    if (j % 4 == 0)
      numbers = philox(dropout.seed, {static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32),
                                      static_cast<uint32_t>(row), static_cast<uint32_t>(j / 4)});
    to[j] = numbers[static_cast<size_t>(j % 4)] >= least ? kept : T(0);
  }
}

}  // namespace

template <class T>
Desk<T>::Desk(const Plan& plan, const Recipe& recipe, ptrdiff_t rows, Carver* carver) {
  for (size_t i = 0; i < plan.inputs.size(); ++i)
    inputs.push_back(carver->take<T>(input_width(plan, i) * rows));
  for (const Loss& loss : recipe.losses) {
    const bool sparse = is_sparse(loss.kind);
    targets.push_back(sparse ? nullptr : carver->take<T>(output_width(plan, loss.output) * rows));
    labels.push_back(sparse ? carver->take<ptrdiff_t>(rows) : nullptr);
    weights.push_back(carver->take<T>(rows));
  }
  for (int p = 0; p < plan.points; ++p) points.push_back(carver->take<int32_t>(rows));
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    const ptrdiff_t width = output_width(plan, static_cast<int>(i));
    // A single column lies close, so that rows fill the lanes of its loss.
    output_ld.push_back(width == 1 ? 1 : buffer_ld(width, kCacheLine / static_cast<ptrdiff_t>(sizeof(T))));
    outputs.push_back(carver->take<T>(output_ld.back() * rows));
  }
  values = carver->take<T>(rows);
  shown_inputs.resize(inputs.size());
  shown_outputs.resize(outputs.size());
  shown_ld.resize(outputs.size());
  shown_targets.resize(targets.size());
  shown_weights.resize(weights.size());
  shown_points.resize(points.size());
}

template <class T>
void lay_out(const Plan& plan, const Recipe& recipe, const Data<T>& data, const Batch& batch, ptrdiff_t first,
             ptrdiff_t begin, ptrdiff_t end, Desk<T>* desk) {
  const ptrdiff_t at = begin - first, rows = end - begin;
  const int64_t* const samples = data.order ? data.order + batch.begin + begin : nullptr;
  const auto gather_rows = [&](const T* from, ptrdiff_t width, T* to) {
    if (from && samples) gather(from, width, samples, rows, to + at * width);
  };
  const auto sample = [&](ptrdiff_t row) { return data.sample(batch.begin + begin + row); };
  for (size_t i = 0; i < plan.inputs.size(); ++i)
    gather_rows(data.inputs[i], input_width(plan, i), desk->inputs[i]);
  for (const Dropout& dropout : recipe.dropouts) {
    const size_t i = static_cast<size_t>(dropout.input);
    const ptrdiff_t width = input_width(plan, i);
    for (ptrdiff_t row = 0; row < rows; ++row)
      draw(dropout, batch.number, begin + row, width, desk->inputs[i] + (at + row) * width);
  }
  for (size_t l = 0; l < recipe.losses.size(); ++l) {
    gather_rows(data.weights[l], 1, desk->weights[l]);
    gather_rows(data.targets[l], output_width(plan, recipe.losses[l].output), desk->targets[l]);
    if (is_sparse(recipe.losses[l].kind))
      for (ptrdiff_t i = 0; i < rows; ++i)
        desk->labels[l][at + i] = static_cast<ptrdiff_t>(data.labels[l].at(sample(i)));
  }
  for (size_t p = 0; p < data.points.size(); ++p)
    if (data.points[p].per_row)
      for (ptrdiff_t i = 0; i < rows; ++i) desk->points[p][at + i] = data.points[p].data[sample(i)];
}

template <class T>
void show(const Plan& plan, const Recipe& recipe, const Data<T>& data, const Batch& batch, ptrdiff_t first,
          Desk<T>* desk) {
  // On the desk, or where they lie one after another in the caller's array.
  const auto rows_of = [&](const T* from, ptrdiff_t width, const T* laid) -> const T* {
    if (!from) return nullptr;
    return data.order ? laid : from + (batch.begin + first) * width;
  };
  for (size_t i = 0; i < plan.inputs.size(); ++i)
    desk->shown_inputs[i] = rows_of(data.inputs[i], input_width(plan, i), desk->inputs[i]);
  for (const Dropout& dropout : recipe.dropouts) {
    const size_t i = static_cast<size_t>(dropout.input);
    desk->shown_inputs[i] = desk->inputs[i];
  }
  for (size_t l = 0; l < recipe.losses.size(); ++l) {
    desk->shown_weights[l] = rows_of(data.weights[l], 1, desk->weights[l]);
    desk->shown_targets[l] =
        rows_of(data.targets[l], output_width(plan, recipe.losses[l].output), desk->targets[l]);
  }
  for (size_t p = 0; p < data.points.size(); ++p) {
    desk->shown_points[p] = data.points[p];
    if (data.points[p].per_row) desk->shown_points[p].data = desk->points[p];
  }
}

template <class T>
void Ahead<T>::fetch(ptrdiff_t left) {
  if (!data_.order) return;  // rows that follow one another come by themselves
  const auto fetch_row = [](const T* from, ptrdiff_t width) {
    const char* const begin = reinterpret_cast<const char*>(from);
    const char* const end = reinterpret_cast<const char*>(from + width);
    for (const char* line = begin; line < end; line += kCacheLine) __builtin_prefetch(line, 0, 2);
    __builtin_prefetch(end - 1, 0, 2);
  };
  const ptrdiff_t count = (end_ - at_ + left - 1) / left;
  for (const ptrdiff_t stop = at_ + count; at_ < stop; ++at_) {
    const int64_t sample = data_.order[at_];
    for (size_t i = 0; i < plan_.inputs.size(); ++i)
      if (data_.inputs[i]) fetch_row(data_.inputs[i] + sample * input_width(plan_, i), input_width(plan_, i));
    for (size_t l = 0; l < recipe_.losses.size(); ++l) {
      const ptrdiff_t width = output_width(plan_, recipe_.losses[l].output);
      if (data_.targets[l]) fetch_row(data_.targets[l] + sample * width, width);
    }
  }
}

template <class T>
void survey(const Plan& plan, const Recipe& recipe, const Data<T>& data, Batch* batch) {
  batch->factors.resize(recipe.losses.size());
  batch->binary.resize(recipe.losses.size());
  for (size_t l = 0; l < recipe.losses.size(); ++l) {
    const Loss& loss = recipe.losses[l];
    double count = static_cast<double>(batch->rows);
    if (loss.reduction == Reduction::kMeanOfWeights && data.weights[l]) {
      count = 0;
      for (ptrdiff_t i = 0; i < batch->rows; ++i)
        count += static_cast<double>(data.weights[l][data.sample(batch->begin + i)]);
    }
    batch->factors[l] = loss.reduction == Reduction::kSum ? 1 : count != 0 ? 1 / count : 0;
    if (!hinges(recipe, l)) continue;
    const ptrdiff_t width = output_width(plan, loss.output);
    bool binary = true;
    for (ptrdiff_t i = 0; binary && i < batch->rows; ++i) {
      const T* const row = data.targets[l] + data.sample(batch->begin + i) * width;
      binary = std::all_of(row, row + width, [](T t) { return t == T(0) || t == T(1); });
    }
    batch->binary[l] = binary;
  }
}

#define FUSEDSPLIT_FOR_TYPE(T)                                                                             \
  template struct Desk<T>;                                                                                 \
  template class Ahead<T>;                                                                                 \
  template void lay_out<T>(const Plan&, const Recipe&, const Data<T>&, const Batch&, ptrdiff_t, ptrdiff_t, \
                           ptrdiff_t, Desk<T>*);                                                           \
  template void show<T>(const Plan&, const Recipe&, const Data<T>&, const Batch&, ptrdiff_t, Desk<T>*);    \
  template void survey<T>(const Plan&, const Recipe&, const Data<T>&, Batch*);
FUSEDSPLIT_FOR_TYPE(float)
FUSEDSPLIT_FOR_TYPE(double)
#undef FUSEDSPLIT_FOR_TYPE

}  // namespace fusedsplit
