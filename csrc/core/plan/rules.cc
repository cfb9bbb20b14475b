#include "core/plan/rules.h"

#include <cmath>
#include <map>

namespace fusedsplit {
namespace {

std::string show(const Range& r) {
  return "value " + std::to_string(r.value) + ", columns " + std::to_string(r.start) + " to " +
         std::to_string(r.stop);
}

std::string show(const Param& p) {
  return p.rank == 2 ? "(" + std::to_string(p.rows) + ", " + std::to_string(p.cols) + ")"
                     : "(" + std::to_string(p.cols) + ",)";
}

// The columns of a value written so far, as disjoint intervals, one for each step: start -> stop.
class Written {
 public:
  // How many intervals hold the columns; 0 if some are not written.
  int64_t holders(ptrdiff_t start, ptrdiff_t stop) const {
    auto at = intervals_.upper_bound(start);
    if (at == intervals_.begin()) return 0;
    int64_t count = 0;
    for (--at; at != intervals_.end() && at->first <= start && start < at->second; ++at) {
      start = at->second;
      ++count;
      if (start >= stop) return count;
    }
    return 0;
  }

  // False, and no change, if some of the columns are written already.
  bool write(ptrdiff_t start, ptrdiff_t stop) {
    const auto after = intervals_.lower_bound(start);
    if (after != intervals_.end() && after->first < stop) return false;
    if (after != intervals_.begin() && std::prev(after)->second > start) return false;
    intervals_.emplace_hint(after, start, stop);
    return true;
  }

 private:
  std::map<ptrdiff_t, ptrdiff_t> intervals_;
};

// One pass over the steps that tracks which columns are written. Stops at the first broken rule.
class Checker {
 public:
  explicit Checker(const Plan& plan) : plan_(plan), written_(plan.values.size()) {}

  std::string run() {
    where_ = "values";
    check(!plan_.inputs.empty(), "at least one input", "none");
    check(!plan_.outputs.empty(), "at least one output", "none");
    declared();
    for (int i : plan_.inputs)
      written_[static_cast<size_t>(i)].write(0, plan_.values[static_cast<size_t>(i)].width);
    for (size_t i = 0; i < plan_.steps.size() && error_.empty(); ++i) {
      where_ = "step " + std::to_string(i);
      step(plan_.steps[i]);
    }
    for (size_t i = 0; i < plan_.values.size() && error_.empty(); ++i) {
      where_ = "value " + std::to_string(i);
      const ptrdiff_t width = plan_.values[i].width;
      check(written_[i].holders(0, width) > 0,
            "every one of its " + std::to_string(width) + " columns written", "only some of them");
    }
    return error_;
  }

 private:
  bool check(bool condition, const std::string& expected, const std::string& received) {
    if (!condition && error_.empty()) error_ = where_ + ": expected " + expected + ". Received: " + received;
    return error_.empty();
  }

  bool at_most(int64_t bound, const char* what, int64_t received) {
    return check(received <= bound, "at most " + std::to_string(bound) + " " + what,
                 std::to_string(received));
  }

  // No sum overflows: of 2^16 sizes each is at most 2^48, and those of params stop at the bound.
  void declared() {
    int64_t columns = 0, elements = 0;
    for (const Value& v : plan_.values) columns += v.width;
    at_most(kMaxColumns, "columns of all values", columns);
    for (const Param& p : plan_.params) {
      elements += p.size();
      if (!at_most(kMaxElements, "elements of all params", elements)) return;
    }
  }

  // What the executor makes of the steps so far: the sources of all pieces, and what these depend on. With the latter
  // all kernels together are bounded too, to 1024 elements for each link, however many steps have the same one.
  void count(const Step& step) {
    // A cut may be at any column but the first, and the next one kLeastPiece columns on.
    const bool cut = step.kind == StepKind::kDense || step.kind == StepKind::kMerge;
    const int64_t pieces = cut ? 1 + (step.dst.width() + kLeastPiece - 2) / kLeastPiece : 1;
    for (const Source& s : step.sources) {
      const Written& source = written_[static_cast<size_t>(s.range.value)];
      const int64_t held = source.holders(s.range.start, s.range.stop);
      if (!check(held > 0, "a range that is written before it is read", show(s.range))) return;
      reads_ += pieces;
      links_ += pieces * (held + s.range.width() / kLeastPiece);
      if (!at_most(kMaxReads, "sources of all pieces of steps", reads_)) return;
      if (!at_most(kMaxLinks, "links between pieces of steps", links_)) return;
    }
  }

  // Whether the range lies within a value; nothing else may be asked of one that does not.
  bool range(const Range& r) {
    const bool exists = r.value >= 0 && static_cast<size_t>(r.value) < plan_.values.size();
    if (!check(exists, "a value below " + std::to_string(plan_.values.size()), show(r))) return false;
    const ptrdiff_t width = plan_.values[static_cast<size_t>(r.value)].width;
    return check(0 <= r.start && r.start < r.stop && r.stop <= width,
                 "a non-empty range within " + std::to_string(width) + " columns", show(r));
  }

  void step(const Step& step) {
    for (const Source& s : step.sources)
      if (!range(s.range)) return;
    if (!range(step.dst)) return;
    count(step);
    if (!error_.empty()) return;
    switch (step.kind) {
      case StepKind::kDense:
        dense(step);
        break;
      case StepKind::kMerge:
        merge(step);
        break;
      case StepKind::kRow:
        row(step);
        break;
      case StepKind::kMix:
        mix(step);
    }
    if (error_.empty())
      check(written_[static_cast<size_t>(step.dst.value)].write(step.dst.start, step.dst.stop),
            "columns that no earlier step wrote", show(step.dst));
  }

  void dense(const Step& step) {
    Param kernel;
    kernel.rank = 2;
    kernel.rows = step.sources[0].range.width();
    kernel.cols = step.dst.width();
    param(step.kernel, kernel);
    if (step.bias != -1) vector(step.bias, step.dst.width());
    activation(step.activation);
    if (step.point != -1)
      check(0 <= step.point && step.point < plan_.points, "a point input of the plan",
            std::to_string(step.point));
  }

  void merge(const Step& step) {
    const bool empty_sum = step.merge_op == MergeOp::kAdd && step.gain.kind == OperandKind::kNone;
    check(!step.sources.empty() || empty_sum, "at least one source, but for a sum without gain", "none");
    const ptrdiff_t width = step.dst.width();
    for (const Source& s : step.sources) {
      check(s.range.width() == 1 || s.range.width() == width,
            "sources of width 1 or " + std::to_string(width), show(s.range));
      check(std::isfinite(s.scale), "finite scales", std::to_string(s.scale));
    }
    for (const Operand* o : {&step.gain, &step.shift}) {
      if (o->kind == OperandKind::kConst)
        check(std::isfinite(o->value), "a finite constant", std::to_string(o->value));
      if (o->kind == OperandKind::kParam) vector(o->param, width);
    }
    activation(step.activation);
  }

  void row(const Step& step) {
    const bool normalizes = step.row_op == RowOp::kNormalize;
    const ptrdiff_t width = normalizes || step.row_op == RowOp::kSoftmax ? step.sources[0].range.width() : 1;
    check(step.dst.width() == width, "a destination of width " + std::to_string(width), show(step.dst));
    if (normalizes) {
      check(std::isfinite(step.epsilon) && step.epsilon > 0, "a finite epsilon above 0",
            std::to_string(step.epsilon));
    } else {
      check(step.epsilon == 0, "an epsilon of 0", std::to_string(step.epsilon));
    }
  }

  void mix(const Step& step) {
    const size_t experts = step.sources.size() - 1;
    check(experts >= 1, "at least one expert", "none");
    check(static_cast<size_t>(step.sources[0].range.width()) == experts,
          "a gate of width " + std::to_string(experts), show(step.sources[0].range));
    for (size_t e = 1; e <= experts; ++e)
      check(step.sources[e].range.width() == step.dst.width(),
            "experts of width " + std::to_string(step.dst.width()), show(step.sources[e].range));
  }

  void activation(const Activation& a) {
    check(std::isfinite(a.alpha), "a finite activation parameter", std::to_string(a.alpha));
  }

  void vector(int index, ptrdiff_t width) {
    Param p;
    p.cols = width;
    param(index, p);
  }

  void param(int index, const Param& shape) {
    const bool exists = index >= 0 && static_cast<size_t>(index) < plan_.params.size();
    if (!check(exists, "a param below " + std::to_string(plan_.params.size()), std::to_string(index))) return;
    const Param& p = plan_.params[static_cast<size_t>(index)];
    check(p.rank == shape.rank && p.rows == shape.rows && p.cols == shape.cols,
          "a param of shape " + show(shape), show(p));
  }

  const Plan& plan_;
  std::vector<Written> written_;
  int64_t reads_ = 0, links_ = 0;
  std::string where_;
  std::string error_;
};

}  // namespace

std::string check_plan(const Plan& plan) { return Checker(plan).run(); }

}  // namespace fusedsplit
