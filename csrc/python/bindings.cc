// The core on NumPy arrays: `fusedsplit._core`.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "build.h"
#include "core/exec/program.h"
#include "core/library.h"
#include "core/microkernels/isa.h"
#include "core/microkernels/kernels.h"
#include "core/plan/kinds.h"
#include "core/plan/plan.h"
#include "core/runtime/workers.h"
#include "core/tools/machine.h"
#include "python/arrays.h"
#include "python/predictor.h"
#include "python/trainers.h"

namespace fusedsplit {
namespace {

std::string plan_problem(const Code& code) {
  Plan plan;
  return decode_plan(code.data(), code.size(), &plan);
}

// A plan compiled for one element type, on arrays of shape (rows, width).
template <class T>
class Bound {
 public:
  explicit Bound(const Code& code) : program_(decoded(code)) {}

  py::tuple forward(const std::vector<Array<T>>& inputs, const std::vector<Array<T>>& params,
                    const std::vector<Array<int32_t>>& points, bool save) const {
    const Read read(plan(), inputs, params, points);
    std::vector<py::array_t<T>> outputs;
    std::vector<T*> output_data;
    for (const int value : plan().outputs) {
      outputs.push_back(aligned_array<T>({read.rows, width(value)}));
      output_data.push_back(outputs.back().mutable_data());
    }
    py::array_t<T> saved = aligned_array<T>({save ? program_.saved_size(read.rows) : 0});
    ForwardArgs<T> args;
    args.rows = read.rows;
    args.inputs = read.inputs.data();
    args.params = read.params.data();
    args.points = read.points.data();
    args.outputs = output_data.data();
    args.saved = saved.size() > 0 ? saved.mutable_data() : nullptr;
    {
      const py::gil_scoped_release release;
      program_.forward(args);
    }
    return py::make_tuple(outputs, saved);
  }

  // `saved` may be empty (hidden values are computed again), an output's gradient None (zeros), and `wanted`
  // says for each input, then each param, whether its gradient is computed or None.
  py::tuple backward(const std::vector<Array<T>>& inputs, const std::vector<Array<T>>& params,
                     const std::vector<Array<int32_t>>& points, const std::vector<Array<T>>& outputs,
                     const Array<T>& saved, const std::vector<py::object>& output_grads,
                     const std::vector<bool>& wanted) const {
    const Read read(plan(), inputs, params, points);
    check_count("outputs", plan().outputs.size(), outputs.size());
    check_count("output_grads", plan().outputs.size(), output_grads.size());
    check_count("wanted", plan().inputs.size() + plan().params.size(), wanted.size());
    const ptrdiff_t saved_size = program_.saved_size(read.rows);
    if (saved.size() != 0)
      check_count("saved", static_cast<size_t>(saved_size), static_cast<size_t>(saved.size()));
    std::vector<Array<T>> kept;  // converted gradients live here
    std::vector<const T*> output_data, grad_data;
    for (size_t i = 0; i < outputs.size(); ++i) {
      const std::vector<py::ssize_t> shape = {read.rows, width(plan().outputs[i])};
      check_shape("outputs", i, outputs[i], shape);
      output_data.push_back(outputs[i].data());
      grad_data.push_back(nullptr);
      if (output_grads[i].is_none()) continue;
      kept.push_back(py::cast<Array<T>>(output_grads[i]));
      check_shape("output_grads", i, kept.back(), shape);
      grad_data.back() = kept.back().data();
    }
    Gradients grads(plan(), read.rows, wanted);
    const auto workspace = aligned_bytes(program_.workspace_bytes(read.rows));
    BackwardArgs<T> args;
    args.rows = read.rows;
    args.inputs = read.inputs.data();
    args.params = read.params.data();
    args.points = read.points.data();
    args.outputs = output_data.data();
    args.saved = saved.size() > 0 ? saved.data() : nullptr;
    args.output_grads = grad_data.data();
    args.input_grads = grads.inputs.data();
    args.param_grads = grads.params.data();
    args.workspace = workspace.get();
    {
      const py::gil_scoped_release release;
      program_.backward(args);
    }
    return py::make_tuple(grads.input_list, grads.param_list);
  }

  ptrdiff_t saved_size(ptrdiff_t rows) const { return program_.saved_size(rows); }
  size_t workspace_bytes(ptrdiff_t rows) const { return program_.workspace_bytes(rows); }
  size_t scratch_bytes() const { return program_.scratch_bytes(); }

 private:
  const Plan& plan() const { return program_.plan(); }
  py::ssize_t width(int value) const { return plan().values[static_cast<size_t>(value)].width; }

  // What a call reads, checked against the plan.
  struct Read {
    Read(const Plan& plan, const std::vector<Array<T>>& input_arrays,
         const std::vector<Array<T>>& param_arrays, const std::vector<Array<int32_t>>& point_arrays) {
      check_count("inputs", plan.inputs.size(), input_arrays.size());
      check_count("params", plan.params.size(), param_arrays.size());
      check_count("points", static_cast<size_t>(plan.points), point_arrays.size());
      rows = input_arrays[0].ndim() ? input_arrays[0].shape(0) : 0;
      for (size_t i = 0; i < input_arrays.size(); ++i) {
        const ptrdiff_t width = plan.values[static_cast<size_t>(plan.inputs[i])].width;
        check_shape("inputs", i, input_arrays[i], {rows, width});
        inputs.push_back(input_arrays[i].data());
      }
      for (size_t i = 0; i < param_arrays.size(); ++i) {
        const Param& param = plan.params[i];
        std::vector<py::ssize_t> shape = {param.rows, param.cols};
        if (param.rank == 1) shape.erase(shape.begin());
        check_shape("params", i, param_arrays[i], shape);
        params.push_back(param_arrays[i].data());
      }
      for (size_t i = 0; i < point_arrays.size(); ++i) {
        const bool per_row = point_arrays[i].ndim() > 0;
        if (per_row) check_shape("points", i, point_arrays[i], {rows});
        points.push_back({point_arrays[i].data(), per_row});
      }
    }
    ptrdiff_t rows = 0;
    std::vector<const T*> inputs, params;
    std::vector<Point> points;
  };

  // The arrays that backward writes, None where a gradient is not wanted.
  struct Gradients {
    Gradients(const Plan& plan, ptrdiff_t rows, const std::vector<bool>& wanted) {
      for (size_t i = 0; i < plan.inputs.size(); ++i) {
        const ptrdiff_t width = plan.values[static_cast<size_t>(plan.inputs[i])].width;
        add(wanted[i], {rows, width}, &input_list, &inputs);
      }
      for (size_t i = 0; i < plan.params.size(); ++i) {
        std::vector<py::ssize_t> shape = {plan.params[i].rows, plan.params[i].cols};
        if (plan.params[i].rank == 1) shape.erase(shape.begin());
        add(wanted[plan.inputs.size() + i], shape, &param_list, &params);
      }
    }
    void add(bool wanted, const std::vector<py::ssize_t>& shape, py::list* list, std::vector<T*>* data) {
      data->push_back(nullptr);
      if (!wanted) return list->append(py::none());
      py::array_t<T> array = aligned_array<T>(shape);
      data->back() = array.mutable_data();
      list->append(array);
    }
    py::list input_list, param_list;
    std::vector<T*> inputs, params;
  };

  Program<T> program_;
};

void check_activation(int kind) {
  if (kind >= 0 && kind < static_cast<int>(ActivationKind::kCount)) return;
  throw py::value_error("kind: expected the index of an activation. Received: " + std::to_string(kind));
}

template <class T>
py::array_t<T> like(const py::array_t<T>& x) {
  return aligned_array<T>({x.shape(), x.shape() + x.ndim()});
}

// One activation over an array, by the active ISA's code, in the float mode of every other chunk.
template <class T>
py::array_t<T> activate(int kind, double alpha, const Array<T>& x) {
  check_activation(kind);
  py::array_t<T> y = like<T>(x);
  T* const data = y.mutable_data();
  std::copy(x.data(), x.data() + x.size(), data);
  Workers(1).run(1, [&](ptrdiff_t, int) {
    active_kernels<T>().activate(kind, static_cast<T>(alpha), 1, x.size(), data, x.size());
  });
  return y;
}

// The derivative of an activation at x, times dy, from the argument or the output as backward takes it.
template <class T>
py::array_t<T> activate_grad(int kind, double alpha, const Array<T>& x, const Array<T>& dy) {
  check_activation(kind);
  check_shape("dy", 0, dy, {x.shape(), x.shape() + x.ndim()});
  const py::array_t<T> y = activate<T>(kind, alpha, x);
  py::array_t<T> dz = like<T>(x);
  ActivationGrad<T> grad;
  grad.kind = kind;
  grad.alpha = static_cast<T>(alpha);
  grad.m = 1;
  grad.n = x.size();
  const bool from_output =
      activation_grad_needs(static_cast<ActivationKind>(kind), alpha) == GradNeeds::kOutput;
  grad.ref = {from_output ? y.data() : x.data(), x.size()};
  grad.dy = {dy.data(), x.size()};
  grad.dz = {dz.mutable_data(), x.size()};
  Workers(1).run(1, [&](ptrdiff_t, int) { active_kernels<T>().activation_grad(grad); });
  return dz;
}

template <class T>
void bind_program(py::module_& module, const char* name) {
  py::class_<Bound<T>>(module, name)
      .def(py::init<const Code&>(), py::arg("code"))
      .def("forward", &Bound<T>::forward, py::arg("inputs"), py::arg("params"),
           py::arg("points") = std::vector<Array<int32_t>>(), py::arg("save") = false)
      .def("backward", &Bound<T>::backward, py::arg("inputs"), py::arg("params"), py::arg("points"),
           py::arg("outputs"), py::arg("saved"), py::arg("output_grads"), py::arg("wanted"))
      .def("saved_size", &Bound<T>::saved_size, py::arg("rows"))
      .def("workspace_bytes", &Bound<T>::workspace_bytes, py::arg("rows"))
      .def_property_readonly("scratch_bytes", &Bound<T>::scratch_bytes);
}

template <class T>
void bind_activations(py::module_& module) {
  module.def("activate", &activate<T>, py::arg("kind"), py::arg("alpha"), py::arg("x").noconvert());
  module.def("activate_grad", &activate_grad<T>, py::arg("kind"), py::arg("alpha"), py::arg("x").noconvert(),
             py::arg("dy").noconvert());
}

}  // namespace
}  // namespace fusedsplit

PYBIND11_MODULE(_core, module) {
  using namespace fusedsplit;  // NOLINT
  const std::string problem = core_problem();
  if (!problem.empty()) throw py::import_error(problem);
  module.doc() = "The native core of fusedsplit, on NumPy arrays.";
  module.attr("version") = kVersion;
  module.attr("plan_version") = kPlanVersion;
  module.def("plan_problem", &plan_problem, py::arg("code"),
             "What is wrong with an encoded plan; '' if nothing.");
  bind_program<float>(module, "Program32");
  bind_program<double>(module, "Program64");
  bind_frozen(module);
  bind_activations<float>(module);
  bind_activations<double>(module);
  bind_trainers(module);
  module.def("isa", &active_isa, "The instruction set in use.");
  module.def("isas", &usable_isas, "The instruction sets that were built and run here.");
  module.def("set_isa", &set_isa, py::arg("name"), "Switches to another usable one; False if there is none.");
  module.def("threads", &threads, "The most threads that a call uses.");
  module.def("set_threads", &set_threads, py::arg("threads"));
  module.def("fma_rate", &fma_rate, "Flop/s of all threads in registers.");
  module.def("read_seconds", &read_seconds, py::arg("bytes"), "How long all threads take to read a buffer.");
}
