// Reads an encoded plan. Every integer is checked where it is read; the rules that relate them to one
// another are in rules.cc.
#include "core/plan/plan.h"

#include <cstring>

#include "core/plan/rules.h"

namespace fusedsplit {
namespace {

// Takes integers off the code. After a failure, which it keeps the message of, everything it gives is zero.
class Reader {
 public:
  Reader(const int64_t* code, size_t size) : code_(code), size_(size) {}

  const std::string& error() const { return error_; }
  bool ok() const { return error_.empty(); }
  size_t at() const { return at_; }

  void fail(const std::string& message) {
    if (ok()) error_ = message;
  }

  int64_t take() {
    if (!ok()) return 0;
    if (at_ >= size_) {
      fail("expected more than " + std::to_string(size_) + " integers. Received: a plan that ends early");
      return 0;
    }
    return code_[at_++];
  }

  int64_t bounded(int64_t low, int64_t high, const char* what) {
    const int64_t n = take();
    if (!ok() || (low <= n && n <= high)) return ok() ? n : 0;
    fail(std::string("expected ") + what + " from " + std::to_string(low) + " to " + std::to_string(high) +
         ". Received: " + std::to_string(n) + " at position " + std::to_string(at_ - 1));
    return 0;
  }

  int count() { return static_cast<int>(bounded(0, kMaxCount, "a count")); }

  // One of the first `n` enumerators of E.
  template <class E>
  E name(int n, const char* what) {
    return static_cast<E>(bounded(0, n - 1, what));
  }

  // Any integer, cut down to what an index or a width can be: -2 and kMaxWidth + 1 are both out of bounds.
  int64_t index() {
    const int64_t n = take();
    return n < -1 ? -2 : n > kMaxWidth ? kMaxWidth + 1 : n;
  }

  double number() {
    const int64_t bits = take();
    double x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }

  Range range() {
    Range r;
    r.value = static_cast<int>(index());
    r.start = static_cast<ptrdiff_t>(index());
    r.stop = static_cast<ptrdiff_t>(index());
    return r;
  }

  Activation activation() {
    Activation a;
    a.kind = name<ActivationKind>(static_cast<int>(ActivationKind::kCount), "an activation");
    a.alpha = number();
    return a;
  }

  Operand operand() {
    Operand o;
    o.kind = name<OperandKind>(kOperandKinds, "a kind of operand");
    if (o.kind == OperandKind::kConst) {
      o.value = number();
    } else if (o.kind == OperandKind::kParam) {
      o.param = static_cast<int>(index());
    } else {
      take();
    }
    return o;
  }

 private:
  const int64_t* code_;
  size_t size_;
  size_t at_ = 0;
  std::string error_;
};

void read_dense(Reader* reader, Step* step) {
  step->sources.push_back({reader->range(), 1});
  step->kernel = static_cast<int>(reader->index());
  step->bias = static_cast<int>(reader->index());
  step->activation = reader->activation();
  step->dst = reader->range();
  step->point = static_cast<int>(reader->index());
  step->side = reader->name<Side>(kSides, "a side");
}

void read_merge(Reader* reader, Step* step) {
  step->merge_op = reader->name<MergeOp>(kMergeOps, "a merge");
  const int n = reader->count();
  for (int i = 0; i < n && reader->ok(); ++i) {
    const Range range = reader->range();
    step->sources.push_back({range, reader->number()});
  }
  step->gain = reader->operand();
  step->shift = reader->operand();
  step->activation = reader->activation();
  step->dst = reader->range();
}

void read_mix(Reader* reader, Step* step) {
  step->sources.push_back({reader->range(), 1});
  const int n = reader->count();
  for (int i = 0; i < n && reader->ok(); ++i) step->sources.push_back({reader->range(), 1});
  step->dst = reader->range();
}

Step read_step(Reader* reader) {
  Step step;
  step.kind = reader->name<StepKind>(kStepKinds, "a kind of step");
  switch (step.kind) {
    case StepKind::kDense:
      read_dense(reader, &step);
      break;
    case StepKind::kMerge:
      read_merge(reader, &step);
      break;
    case StepKind::kRow:
      step.row_op = reader->name<RowOp>(static_cast<int>(RowOp::kCount), "a row operation");
      step.sources.push_back({reader->range(), 1});
      step.dst = reader->range();
      step.epsilon = reader->number();
      break;
    case StepKind::kMix:
      read_mix(reader, &step);
  }
  return step;
}

Param read_param(Reader* reader) {
  Param param;
  param.rank = static_cast<int>(reader->bounded(1, 2, "a rank"));
  param.rows = param.rank == 2 ? static_cast<ptrdiff_t>(reader->bounded(1, kMaxWidth, "a size")) : 1;
  param.cols = static_cast<ptrdiff_t>(reader->bounded(1, kMaxWidth, "a size"));
  return param;
}

// Lists grow only as integers are really there, so a short code with large counts allocates nothing large.
void read_plan(Reader* reader, Plan* plan) {
  const int64_t version = reader->take();
  if (reader->ok() && version != kPlanVersion)
    reader->fail("expected plan version " + std::to_string(kPlanVersion) + ". Received: version " +
                 std::to_string(version));
  plan->points = reader->count();
  const int values = reader->count(), params = reader->count(), steps = reader->count();
  for (int i = 0; i < values && reader->ok(); ++i) {
    Value value;
    value.width = static_cast<ptrdiff_t>(reader->bounded(1, kMaxWidth, "a width"));
    value.role = reader->name<Role>(3, "a role");
    if (value.role == Role::kInput) plan->inputs.push_back(i);
    if (value.role == Role::kOutput) plan->outputs.push_back(i);
    plan->values.push_back(value);
  }
  for (int i = 0; i < params && reader->ok(); ++i) plan->params.push_back(read_param(reader));
  for (int i = 0; i < steps && reader->ok(); ++i) plan->steps.push_back(read_step(reader));
}

}  // namespace

std::string decode_plan(const int64_t* code, size_t size, Plan* plan) {
  try {
    Reader reader(code, size);
    Plan read;
    read_plan(&reader, &read);
    if (!reader.ok()) return reader.error();
    if (reader.at() != size)
      return "expected " + std::to_string(reader.at()) + " integers. Received: " + std::to_string(size);
    const std::string error = check_plan(read);
    if (error.empty()) *plan = std::move(read);
    return error;
  } catch (const std::exception&) {
    return "expected a plan that fits in memory. Received: " + std::to_string(size) + " integers";
  }
}

}  // namespace fusedsplit
