// Measures the error of every activation and derivative, and of the losses' logarithm, on every ISA this machine can
// run, against libm in a wider type: double for float (every float, or one in --stride), long double for double (a
// fixed random sample).
//
//   ulp [--stride N] [--isa NAME] [--only CASE]
//
// Prints a table and exits with 1 where an error is out of bounds:
//   values   tanh, sigmoid, softplus, softsign, exponential, log and the exact ones: 4 ULP with fma, 6 without;
//            elu, selu, gelu, gelu_tanh, silu, hard_sigmoid: the larger of that and 2^-23 |x| (2^-52 for
//            double)
//   slopes   from x to the derivative through the rounded output where that is what it uses: as for gelu
// Denormals are flushed in the core, so where the true result is below twice the smallest normal number, an
// error up to that number counts as none.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/microkernels/isa.h"
#include "core/plan/kinds.h"
#include "core/runtime/float_mode.h"

namespace fusedsplit {
namespace {

using Kind = ActivationKind;

template <class R>
struct Exact {
  R value, slope;
};

template <class R>
Exact<R> exact_gelu(R x) {
  const R cdf = R(0.5) * std::erfc(-x * R(0.70710678118654752440084436210485L));
  return {x * cdf, cdf + x * std::exp(-x * x / 2) * R(0.39894228040143267793994605993438L)};
}

// s = 1 / (1 + e^-z), and 1 - s without cancellation.
template <class R>
Exact<R> exact_gelu_tanh(R x) {
  constexpr R kOuter = R(1.5957691216057307117597842397375273L), kInner = R(0.044715L);
  const R z = x * kOuter * (1 + kInner * x * x), dz = kOuter * (1 + 3 * kInner * x * x);
  const R e = std::exp(-std::fabs(z)), s = (z < 0 ? e : 1) / (1 + e), rest = (z < 0 ? 1 : e) / (1 + e);
  return {x * s, s * (1 + x * rest * dz)};
}

// Values and slopes in a type R that is wider than what they judge.
template <class R>
Exact<R> exact(Kind kind, R alpha, R x) {
  constexpr R kScale = R(1.0507009873554804934193349852946L),
              kSeluAlpha = R(1.6732632423543772848170429916717L);
  if (kind == Kind::kGelu) return exact_gelu(x);
  if (kind == Kind::kGeluTanh) return exact_gelu_tanh(x);
  const R e = std::exp(-std::fabs(x));
  switch (kind) {
    case Kind::kRelu:
      return {x < 0 ? 0 : x, R(x > 0)};
    case Kind::kRelu6:
      return {x < 0 ? 0 : x > 6 ? 6 : x, R(x > 0 && x < 6)};
    case Kind::kLeakyRelu:
      return {x > 0 ? x : alpha * x, x > 0 ? 1 : alpha};
    case Kind::kElu:
      return {x > 0 ? x : alpha * std::expm1(x), x > 0 ? 1 : x < 0 ? alpha * e : alpha};
    case Kind::kSelu:
      return {kScale * (x < 0 ? kSeluAlpha * std::expm1(x) : x), kScale * (x < 0 ? kSeluAlpha * e : 1)};
    case Kind::kSilu: {
      const R s = (x < 0 ? e : 1) / (1 + e), rest = (x < 0 ? 1 : e) / (1 + e);
      return {x * s, s * (1 + x * rest)};
    }
    case Kind::kSigmoid:
      return {(x < 0 ? e : 1) / (1 + e), e / ((1 + e) * (1 + e))};
    case Kind::kHardSigmoid:
      return {x < -3 ? 0 : x > 3 ? 1 : (x + 3) / 6, x > -3 && x < 3 ? R(1) / 6 : 0};
    case Kind::kTanh:
      return {std::tanh(x), 4 * e * e / ((1 + e * e) * (1 + e * e))};
    case Kind::kSoftplus:
      return {(x < 0 ? 0 : x) + std::log1p(e), (x < 0 ? e : 1) / (1 + e)};
    case Kind::kSoftsign:
      return {x / (1 + std::fabs(x)), 1 / ((1 + std::fabs(x)) * (1 + std::fabs(x)))};
    case Kind::kExponential:
      return {x < 0 ? e : std::exp(x), x < 0 ? e : std::exp(x)};
    default:
      return {x, 1};
  }
}

struct Case {
  const char* name;
  Kind kind;
  double alpha;
  bool by_x;               // values may also be off by 2^-23 |x|
  bool logarithm = false;  // not an activation: what losses take of probabilities; its slope is theirs
};

constexpr Case kCases[] = {
    {"relu", Kind::kRelu, 0, false},
    {"relu6", Kind::kRelu6, 0, false},
    {"leaky_relu", Kind::kLeakyRelu, 0.25, false},
    {"elu", Kind::kElu, 1, true},
    {"elu(-0.5)", Kind::kElu, -0.5, true},
    {"selu", Kind::kSelu, 0, true},
    {"gelu", Kind::kGelu, 0, true},
    {"gelu_tanh", Kind::kGeluTanh, 0, true},
    {"silu", Kind::kSilu, 0, true},
    {"sigmoid", Kind::kSigmoid, 0, false},
    {"hard_sigmoid", Kind::kHardSigmoid, 0, true},
    {"tanh", Kind::kTanh, 0, false},
    {"softplus", Kind::kSoftplus, 0, false},
    {"softsign", Kind::kSoftsign, 0, false},
    {"exponential", Kind::kExponential, 0, false},
    {"log", Kind::kLinear, 0, false, true},
};

// The largest error seen, in units of the last place and as a fraction of its bound.
struct Worst {
  double ulp = 0, ulp_at = 0;
  double part = 0, part_at = 0;

  void see(double new_ulp, double new_part, double x) {
    if (new_ulp > ulp) ulp = new_ulp, ulp_at = x;
    if (new_part > part) part = new_part, part_at = x;
  }
  void merge(const Worst& other) {
    if (other.ulp > ulp) ulp = other.ulp, ulp_at = other.ulp_at;
    if (other.part > part) part = other.part, part_at = other.part_at;
  }
};

// The error where NaN or infinity stands on one side only.
constexpr double kWrong = 1e300;

// Judges y against the wider r.
template <class T, class R>
void judge(T x, T y, R r, double limit, bool by_x, Worst* worst) {
  using Limits = std::numeric_limits<T>;
  if (r != r || y != y) {
    if ((r != r) != (y != y)) worst->see(kWrong, kWrong, x);
    return;
  }
  if (static_cast<T>(r) == y) return;
  if (std::isinf(y) || std::isinf(r)) {
    // Overflow one step too early or too late is no more than an error of the last place.
    const bool edge =
        std::fabs(r) > Limits::max() * R(1 - 2 * Limits::epsilon()) && std::fabs(y) > Limits::max() / 2;
    if (!edge || (y < 0) != (r < 0)) worst->see(kWrong, kWrong, x);
    return;
  }
  const R error = std::fabs(static_cast<R>(y) - r), size = std::fabs(r);
  if (size < 2 * R(Limits::min()) && error <= R(Limits::min())) return;
  const R ulp = std::ldexp(R(1), std::max(std::ilogb(size), Limits::min_exponent - 1) - (Limits::digits - 1));
  R allowed = limit * ulp;
  if (by_x) allowed = std::fmax(allowed, std::fabs(static_cast<R>(x)) * Limits::epsilon());
  worst->see(static_cast<double>(error / ulp), static_cast<double>(error / allowed), x);
}

constexpr ptrdiff_t kBlock = 4096;

template <class T>
struct Subject {
  const char* name;
  const Kernels<T>* kernels;
  double limit;  // ULP
  Worst value, slope;
};

template <class T>
void run_core(const Kernels<T>& kernels, const Case& c, const T* x, ptrdiff_t n, T* y, T* slope) {
  std::vector<T> ones(n, T(1));
  const FloatMode mode;
  const int kind = static_cast<int>(c.kind);
  std::memcpy(y, x, n * sizeof(T));
  kernels.activate(kind, static_cast<T>(c.alpha), 1, n, y, n);
  const bool from_x = activation_grad_needs(c.kind, c.alpha) == GradNeeds::kPre;
  ActivationGrad<T> grad;
  grad.kind = kind;
  grad.alpha = static_cast<T>(c.alpha);
  grad.m = 1;
  grad.n = n;
  grad.ref = {from_x ? x : y, n};
  grad.dy = {ones.data(), n};
  grad.dz = {slope, n};
  kernels.activation_grad(grad);
}

// Poisson's loss, p - t ln(p + epsilon), of p = 0 and t = -1.
template <class T>
void run_logarithm(const Kernels<T>& kernels, const T* x, ptrdiff_t n, T* y) {
  const FloatMode mode;
  const T prediction = 0, target = -1;
  for (ptrdiff_t i = 0; i < n; ++i) {
    LossRows<T> g;
    g.kind = static_cast<int>(LossKind::kPoisson);
    g.m = g.n = 1;
    g.y = {&prediction, 1};
    g.target = {&target, 1};
    g.epsilon = x[i];
    g.values = y + i;
    kernels.loss(g);
  }
}

template <class T, class R>
void judge_block(const Case& c, const T* x, ptrdiff_t n, std::vector<Subject<T>>* subjects) {
  std::vector<Exact<R>> truth(n);
  for (ptrdiff_t i = 0; i < n; ++i) {
    // A denormal argument counts as zero, as it does in the core.
    const R v = std::fpclassify(x[i]) == FP_SUBNORMAL ? R(0) : static_cast<R>(x[i]);
    truth[i] = c.logarithm ? Exact<R>{std::log(v), 0} : exact<R>(c.kind, static_cast<R>(c.alpha), v);
  }
  std::vector<T> y(n), dz(n);
  for (Subject<T>& s : *subjects) {
    if (c.logarithm) {
      run_logarithm(*s.kernels, x, n, y.data());
    } else {
      run_core(*s.kernels, c, x, n, y.data(), dz.data());
    }
    for (ptrdiff_t i = 0; i < n; ++i) {
      judge<T, R>(x[i], y[i], truth[i].value, s.limit, c.by_x, &s.value);
      if (c.logarithm) continue;
      // As in TensorFlow the slope ends where x + 3 is rounded to 6, which is one float before 3.
      const bool ends = c.kind == Kind::kHardSigmoid && x[i] + T(3) >= T(6);
      judge<T, R>(x[i], dz[i], ends ? R(0) : truth[i].slope, s.limit, true, &s.slope);
    }
  }
}

// Fills x with the arguments of block `block`; the number of them, 0 past the end.
ptrdiff_t arguments(int64_t block, int64_t stride, float* x) {
  const int64_t all = int64_t{1} << 32;
  ptrdiff_t n = 0;
  for (int64_t i = block * kBlock * stride; n < kBlock && i < all; i += stride) {
    const uint32_t bits = static_cast<uint32_t>(i);
    std::memcpy(&x[n++], &bits, sizeof(bits));
  }
  return n;
}

// Half of the doubles have any bits, the others a size between 2^-30 and 2^10, where things happen.
ptrdiff_t arguments(int64_t block, int64_t, double* x) {
  if (block >= 64) return 0;
  std::mt19937_64 random(static_cast<uint64_t>(block));
  for (ptrdiff_t i = 0; i < kBlock; ++i) {
    uint64_t bits = random();
    if (i % 2) {
      const uint64_t exponent = 1023 - 30 + (bits >> 52) % 40;
      bits = (bits & 0x800fffffffffffffu) | exponent << 52;
    }
    std::memcpy(&x[i], &bits, sizeof(bits));
  }
  return kBlock;
}

template <class T, class R>
void sweep(const Case& c, int64_t stride, std::vector<Subject<T>>* subjects) {
  const unsigned count = std::max(1u, std::thread::hardware_concurrency());
  std::atomic<int64_t> next{0};
  std::vector<std::vector<Subject<T>>> parts(count, *subjects);
  auto work = [&](unsigned id) {
    std::vector<T> x(kBlock);
    while (const ptrdiff_t n = arguments(next++, stride, x.data()))
      judge_block<T, R>(c, x.data(), n, &parts[id]);
  };
  std::vector<std::thread> threads;
  for (unsigned id = 1; id < count; ++id) threads.emplace_back(work, id);
  work(0);
  for (std::thread& t : threads) t.join();
  for (const auto& part : parts)
    for (size_t s = 0; s < part.size(); ++s) {
      (*subjects)[s].value.merge(part[s].value);
      (*subjects)[s].slope.merge(part[s].slope);
    }
}

template <class T>
std::vector<Subject<T>> subjects_of(const std::string& only_isa) {
  std::vector<Subject<T>> subjects;
  for (const std::string& name : usable_isas()) {
    if (!only_isa.empty() && name != only_isa) continue;
    const IsaUnit* unit = isa_unit(name.c_str());
    Subject<T> s{unit->name, nullptr, 6, {}, {}};
    if constexpr (sizeof(T) == 4) {
      s.kernels = &unit->f32;
      s.limit = 4;
    } else {
      s.kernels = &unit->f64;
    }
#if defined(__x86_64__)
    if (name == "baseline") s.limit = 6;  // no fma
#endif
    subjects.push_back(s);
  }
  return subjects;
}

bool report(const char* type, const Case& c, const char* isa, const char* what, const Worst& w) {
  const bool good = w.part <= 1;
  std::printf("%-7s%-13s%-9s%-6s", type, c.name, isa, what);
  if (w.part >= kWrong) {
    std::printf("  NaN or infinity is wrong at %.9g\n", w.part_at);
  } else {
    std::printf("%10.3g ULP at %-14.8g %8.2f of the bound at %-14.8g%s\n", w.ulp, w.ulp_at, w.part, w.part_at,
                good ? "" : "  OUT OF BOUNDS");
  }
  return good;
}

template <class T, class R>
bool measure(const char* type, const Case& c, int64_t stride, const std::string& only_isa) {
  std::vector<Subject<T>> subjects = subjects_of<T>(only_isa);
  sweep<T, R>(c, stride, &subjects);
  bool good = true;
  for (const Subject<T>& s : subjects) {
    good = report(type, c, s.name, "value", s.value) && good;
    if (!c.logarithm) good = report(type, c, s.name, "slope", s.slope) && good;
  }
  std::fflush(stdout);
  return good;
}

int run(int argc, char** argv) {
  int64_t stride = 1;
  std::string isa, only;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i], text = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--stride") {
      stride = std::atoll(text.c_str());
    } else if (flag == "--isa") {
      isa = text;
    } else if (flag == "--only") {
      only = text;
    } else {
      std::fprintf(stderr, "expected --stride, --isa or --only. Received: %s\n", flag.c_str());
      return 2;
    }
  }
  if (stride < 1) {
    std::fprintf(stderr, "expected a positive stride. Received: %lld\n", static_cast<long long>(stride));
    return 2;
  }
  bool good = true, any = false;
  for (const Case& c : kCases) {
    if (!only.empty() && only != c.name) continue;
    any = true;
    good = measure<float, double>("float", c, stride, isa) && good;
    good = measure<double, long double>("double", c, stride, isa) && good;
  }
  if (!any) std::fprintf(stderr, "expected the name of an activation. Received: --only %s\n", only.c_str());
  return good && any ? 0 : 1;
}

}  // namespace
}  // namespace fusedsplit

int main(int argc, char** argv) { return fusedsplit::run(argc, argv); }
