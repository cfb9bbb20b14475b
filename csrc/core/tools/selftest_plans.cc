#include "core/tools/selftest_plans.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fusedsplit {
namespace {

// Of normalize: so large that rows of nearly equal columns do not magnify roundings.
constexpr double kEpsilon = 0.1;

int64_t bits(double x) {
  int64_t b;
  std::memcpy(&b, &x, sizeof(b));
  return b;
}

// Builds a plan value by value: each new value is written by steps that read earlier ones.
class Generator {
 public:
  explicit Generator(std::mt19937* random) : random_(*random) {}

  std::vector<int64_t> run() {
    const int inputs = 1 + pick(2), hidden = pick(6), outputs = 1 + pick(2);
    points_ = pick(3);
    for (int i = 0; i < inputs; ++i) add_value(width(), 0);
    for (int i = 0; i < hidden + outputs; ++i) {
      const int role = i < hidden ? 1 : 2;
      if (pick(4)) {
        write_value(role);
      } else {
        write_merged(role);
      }
    }
    std::vector<int64_t> code{kPlanVersion, points_, count(values_, 2), params_count_, steps_count_};
    for (const auto* part : {&values_, &params_, &steps_})
      code.insert(code.end(), part->begin(), part->end());
    return code;
  }

 private:
  int pick(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  static int64_t count(const std::vector<int64_t>& v, int64_t each) {
    return static_cast<int64_t>(v.size()) / each;
  }

  int64_t width() {
    static const int64_t widths[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 47, 48, 49, 64, 100, 257, 300};
    return widths[pick(19)];
  }

  void add_value(int64_t width, int64_t role) {
    values_.push_back(width);
    values_.push_back(role);
    widths_.push_back(width);
  }

  // Cuts the new value into one to three ranges, each written by its own step.
  void write_value(int64_t role) {
    const int64_t readable = count(values_, 2), w = width();
    add_value(w, role);
    int64_t start = 0;
    while (start < w) {
      const int64_t stop = pick(2) || start + 1 >= w ? w : start + 1 + pick(static_cast<int>(w - start));
      write_range(readable, readable, start, stop);
      start = stop;
    }
  }

  // Branches of equal width, merged.
  void write_merged(int64_t role) {
    const int64_t w = width();
    const int branches = 1 + pick(3);
    std::vector<int64_t> sources;
    for (int i = 0; i < branches; ++i) {
      const int64_t value = count(values_, 2);
      add_value(w, 1);
      if (pick(5)) {
        dense(value, value, 0, w);
        ++steps_count_;
      } else {
        write_range(value, value, 0, w);
      }
      sources.insert(sources.end(), {value, 0, w, bits(pick(2) ? 1.0 : -0.8)});
    }
    const int64_t value = count(values_, 2);
    add_value(w, role);
    add({1, pick(4), branches});
    add(sources);
    operand(w);
    operand(w);
    activation();
    add({value, 0, w});
    ++steps_count_;
  }

  void write_range(int64_t readable, int64_t value, int64_t start, int64_t stop) {
    const int kind = pick(8);
    if (kind < 4 || !others(readable, value, start, stop, kind)) dense(readable, value, start, stop);
    ++steps_count_;
  }

  // A range of an earlier value; of exactly `width` columns if that is not 0. Empty if there is none.
  std::vector<int64_t> source(int64_t readable, int64_t width) {
    for (int tries = 0; tries < 30; ++tries) {
      const int v = pick(static_cast<int>(readable));
      const int64_t w = widths_[static_cast<size_t>(v)];
      if (width > w) continue;
      const int64_t n = width ? width : 1 + pick(static_cast<int>(w));
      const int64_t begin = pick(static_cast<int>(w - n + 1));
      return {v, begin, begin + n};
    }
    return {};
  }

  int64_t param(int64_t rows, int64_t cols) {
    // Now and then a param that is there already.
    for (size_t i = 0; i < shapes_.size(); ++i)
      if (shapes_[i] == std::make_pair(rows, cols) && pick(2)) return static_cast<int64_t>(i);
    shapes_.emplace_back(rows, cols);
    params_.push_back(rows ? 2 : 1);
    if (rows) params_.push_back(rows);
    params_.push_back(cols);
    return params_count_++;
  }

  void add(const std::vector<int64_t>& code) { steps_.insert(steps_.end(), code.begin(), code.end()); }

  void activation() {
    const int kind = pick(pick(2) ? 2 : static_cast<int>(ActivationKind::kCount));
    add({kind, bits(kind == 3 ? 0.2 : kind == 4 ? 1.3 : 0.0)});
  }

  void dense(int64_t readable, int64_t value, int64_t start, int64_t stop) {
    const auto src = source(readable, 0);
    add({0});
    add(src);
    add({param(src[2] - src[1], stop - start), pick(3) ? param(0, stop - start) : -1});
    activation();
    add({value, start, stop, points_ ? pick(static_cast<int>(points_) + 1) - 1 : -1, pick(2)});
  }

  void operand(int64_t width) {
    const int kind = pick(2) ? 1 + pick(2) : 0;
    add({kind, kind == 1 ? param(0, width) : bits(kind == 2 ? 0.7 : 0)});
  }

  bool others(int64_t readable, int64_t value, int64_t start, int64_t stop, int kind) {
    const int64_t w = stop - start;
    const auto first = source(readable, w);
    if (kind == 7 || first.empty()) return row_or_mix(readable, value, start, stop);
    if (kind == 6 && pick(2)) {
      row(pick(2) ? RowOp::kSoftmax : RowOp::kNormalize, first, {value, start, stop});
      return true;
    }
    const int n = pick(8) ? 1 + pick(4) : 0;
    std::vector<int64_t> sources;
    for (int i = 0; i < n; ++i) {
      auto src = source(readable, pick(4) ? w : 1);
      if (src.empty()) src = source(readable, 1);
      sources.insert(sources.end(), src.begin(), src.end());
      sources.push_back(bits(pick(2) ? 1.0 : -0.8));
    }
    add({1, n ? pick(4) : static_cast<int64_t>(MergeOp::kAdd), n});
    add(sources);
    if (n) {
      operand(w);
    } else {
      add({0, 0});
    }
    operand(w);
    activation();
    add({value, start, stop});
    return true;
  }

  void row(RowOp op, const std::vector<int64_t>& source, const std::vector<int64_t>& destination) {
    add({2, static_cast<int64_t>(op)});
    add(source);
    add(destination);
    add({bits(op == RowOp::kNormalize ? kEpsilon : 0)});
  }

  bool row_or_mix(int64_t readable, int64_t value, int64_t start, int64_t stop) {
    if (stop - start == 1) {
      row(pick(2) ? RowOp::kMean : RowOp::kMax, source(readable, 0), {value, start, stop});
      return true;
    }
    const int experts = 1 + pick(3);
    const auto gate = source(readable, experts);
    std::vector<int64_t> sources;
    for (int i = 0; i < experts; ++i) {
      const auto src = source(readable, stop - start);
      if (src.empty()) return false;
      sources.insert(sources.end(), src.begin(), src.end());
    }
    if (gate.empty()) return false;
    add({3});
    add(gate);
    add({experts});
    add(sources);
    add({value, start, stop});
    return true;
  }

  std::mt19937& random_;
  int64_t points_ = 0, params_count_ = 0, steps_count_ = 0;
  std::vector<int64_t> values_, params_, steps_, widths_;
  std::vector<std::pair<int64_t, int64_t>> shapes_;
};

double activate(const Activation& a, double x) {
  const double scale = 1.0507009873554805, selu = 1.6732632423543772;
  switch (a.kind) {
    case ActivationKind::kRelu:
      return x < 0 ? 0 : x;
    case ActivationKind::kRelu6:
      return x < 0 ? 0 : x > 6 ? 6 : x;
    case ActivationKind::kLeakyRelu:
      return x > 0 ? x : a.alpha * x;
    case ActivationKind::kElu:
      return x > 0 ? x : a.alpha * std::expm1(x);
    case ActivationKind::kSelu:
      return scale * (x > 0 ? x : selu * std::expm1(x));
    case ActivationKind::kGelu:
      return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    case ActivationKind::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ActivationKind::kSilu:
      return x / (1 + std::exp(-x));
    case ActivationKind::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case ActivationKind::kHardSigmoid:
      return std::min(1.0, std::max(0.0, x / 6 + 0.5));
    case ActivationKind::kTanh:
      return std::tanh(x);
    case ActivationKind::kSoftplus:
      return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
    case ActivationKind::kSoftsign:
      return x / (1 + std::fabs(x));
    case ActivationKind::kExponential:
      return std::exp(x);
    default:
      return x;
  }
}

// One row of one plan.
class Plain {
 public:
  Plain(const Plan& plan, const Case& c, ptrdiff_t row) : plan_(plan), case_(c), row_(row) {
    size_t input = 0;
    for (const Value& v : plan.values) {
      values_.emplace_back(static_cast<size_t>(v.width));
      if (v.role != Role::kInput) continue;
      const auto begin = c.inputs[input++].begin() + row * v.width;
      std::copy(begin, begin + v.width, values_.back().begin());
    }
    for (const Step& step : plan.steps) run(step);
  }

  const std::vector<double>& value(int i) const { return values_[static_cast<size_t>(i)]; }

 private:
  double* at(const Range& r) { return values_[static_cast<size_t>(r.value)].data() + r.start; }
  const double* param(int i) const { return case_.params[static_cast<size_t>(i)].data(); }

  void run(const Step& step) {
    double* y = at(step.dst);
    const Range first = step.sources.empty() ? Range{} : step.sources[0].range;
    const double* x = at(first);
    const ptrdiff_t n = first.width(), w = step.dst.width();
    switch (step.kind) {
      case StepKind::kDense:
        return dense(step, x, n, y, w);
      case StepKind::kMerge:
        for (ptrdiff_t j = 0; j < w; ++j) y[j] = activate(step.activation, merged(step, j));
        return;
      case StepKind::kRow:
        return row(step, x, n, y);
      case StepKind::kMix:
        for (ptrdiff_t j = 0; j < w; ++j) {
          y[j] = 0;
          for (size_t e = 1; e < step.sources.size(); ++e) y[j] += x[e - 1] * at(step.sources[e].range)[j];
        }
    }
  }

  void dense(const Step& step, const double* x, ptrdiff_t n, double* y, ptrdiff_t w) {
    ptrdiff_t begin = 0, end = n;
    if (step.point >= 0) {
      const auto& points = case_.points[static_cast<size_t>(step.point)];
      const ptrdiff_t p =
          std::clamp<ptrdiff_t>(points[points.size() == 1 ? 0 : static_cast<size_t>(row_)], 0, n);
      (step.side == Side::kLeading ? end : begin) = p;
    }
    for (ptrdiff_t j = 0; j < w; ++j) {
      double sum = step.bias >= 0 ? param(step.bias)[j] : 0;
      for (ptrdiff_t k = begin; k < end; ++k) sum += x[k] * param(step.kernel)[k * w + j];
      y[j] = activate(step.activation, sum);
    }
  }

  static void row(const Step& step, const double* x, ptrdiff_t n, double* y) {
    const double top = *std::max_element(x, x + n), count = static_cast<double>(n);
    double sum = 0, exps = 0, squares = 0;
    for (ptrdiff_t j = 0; j < n; ++j) sum += x[j], exps += std::exp(x[j] - top);
    for (ptrdiff_t j = 0; j < n; ++j) squares += (x[j] - sum / count) * (x[j] - sum / count);
    switch (step.row_op) {
      case RowOp::kMean:
        *y = sum / count;
        return;
      case RowOp::kMax:
        *y = top;
        return;
      case RowOp::kSoftmax:
        for (ptrdiff_t j = 0; j < n; ++j) y[j] = std::exp(x[j] - top) / exps;
        return;
      default:
        for (ptrdiff_t j = 0; j < n; ++j)
          y[j] = (x[j] - sum / count) / std::sqrt(squares / count + step.epsilon);
    }
  }

  double merged(const Step& step, ptrdiff_t j) {
    double y = 0;
    for (size_t s = 0; s < step.sources.size(); ++s) {
      const Range& r = step.sources[s].range;
      const double x = step.sources[s].scale * at(r)[r.width() == 1 ? 0 : j];
      if (s == 0) {
        y = x;
      } else {
        y = step.merge_op == MergeOp::kAdd   ? y + x
            : step.merge_op == MergeOp::kMul ? y * x
            : step.merge_op == MergeOp::kMax ? std::max(y, x)
                                             : std::min(y, x);
      }
    }
    const auto operand = [&](const Operand& o, double none) {
      return o.kind == OperandKind::kNone    ? none
             : o.kind == OperandKind::kConst ? o.value
                                             : param(o.param)[j];
    };
    return operand(step.gain, 1) * y + operand(step.shift, 0);
  }

  const Plan& plan_;
  const Case& case_;
  ptrdiff_t row_;
  std::vector<std::vector<double>> values_;
};

}  // namespace

std::vector<int64_t> random_plan(std::mt19937* random) { return Generator(random).run(); }

Case random_case(const Plan& plan, std::mt19937* random) {
  static const ptrdiff_t rows[] = {1, 2, 3, 5, 6, 7, 8, 13, 37, 64, 100, 255, 257, 600};
  std::normal_distribution<double> normal;
  // Values that float holds, so that both types see the same.
  const auto fill = [&](ptrdiff_t n, double scale) {
    std::vector<double> array(static_cast<size_t>(n));
    for (double& x : array) x = static_cast<float>(scale * normal(*random));
    return array;
  };
  Case c;
  c.rows = rows[(*random)() % 14];
  for (int i : plan.inputs) c.inputs.push_back(fill(c.rows * plan.values[static_cast<size_t>(i)].width, 1));
  for (int i : plan.outputs)
    c.output_grads.push_back(fill(c.rows * plan.values[static_cast<size_t>(i)].width, 1));
  for (const Param& p : plan.params)
    c.params.push_back(fill(p.size(), 1 / std::sqrt(static_cast<double>(p.rank == 2 ? p.rows : 4))));
  for (int i = 0; i < plan.points; ++i) {
    c.per_row.push_back((*random)() % 2);
    std::vector<int32_t> points(c.per_row.back() ? static_cast<size_t>(c.rows) : 1);
    for (int32_t& p : points) p = static_cast<int32_t>((*random)() % 120) - 5;
    c.points.push_back(points);
  }
  return c;
}

Case single_row(const Plan& plan, const Case& c, ptrdiff_t row) {
  Case one;
  one.rows = 1;
  one.params = c.params;
  one.per_row = c.per_row;
  const auto cut = [&](const std::vector<double>& from, ptrdiff_t width) {
    return std::vector<double>(from.begin() + row * width, from.begin() + (row + 1) * width);
  };
  for (size_t i = 0; i < plan.inputs.size(); ++i)
    one.inputs.push_back(cut(c.inputs[i], plan.values[static_cast<size_t>(plan.inputs[i])].width));
  for (size_t i = 0; i < plan.outputs.size(); ++i)
    one.output_grads.push_back(
        cut(c.output_grads[i], plan.values[static_cast<size_t>(plan.outputs[i])].width));
  for (const auto& p : c.points) one.points.push_back({p[p.size() == 1 ? 0 : static_cast<size_t>(row)]});
  return one;
}

std::vector<std::vector<double>> run_plainly(const Plan& plan, const Case& c) {
  std::vector<std::vector<double>> outputs(plan.outputs.size());
  for (ptrdiff_t row = 0; row < c.rows; ++row) {
    const Plain plain(plan, c, row);
    for (size_t o = 0; o < plan.outputs.size(); ++o) {
      const auto& y = plain.value(plan.outputs[o]);
      outputs[o].insert(outputs[o].end(), y.begin(), y.end());
    }
  }
  return outputs;
}

}  // namespace fusedsplit
