// A frozen plan as a Python callable, `fusedsplit._core.Frozen`: by CPython's own interface, since a call of a small
// plan takes no longer than its arguments do to pass through pybind11.

#include "python/predictor.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <structmember.h>

#include <algorithm>
#include <climits>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <variant>
#include <vector>

#include "core/exec/program.h"
#include "core/plan/plan.h"

namespace fusedsplit {
namespace {

namespace py = pybind11;

// Operations from which a call lets other Python threads run: taking the lock again costs 0.1 us, and more where they
// want it.
constexpr double kLongCall = 2e6;
// Of NumPy (numpy/ndarraytypes.h): what pybind11 does not name.
constexpr int kContiguous = 0x0001, kAligned = 0x0100, kWriteable = 0x0400;
constexpr int kFloat = 11, kDouble = 12, kMostAxes = 32;

const py::detail::npy_api& numpy() { return py::detail::npy_api::get(); }

// An array as it may be read in place.
struct View {
  char* data;
  int axes;
  const Py_intptr_t* shape;
  ptrdiff_t size;
};

// Whether `object` is an array of the type that can be used as it is; fills *view.
bool usable(PyObject* object, int type, bool writes, View* view) {
  if (Py_TYPE(object) != numpy().PyArray_Type_) return false;
  const auto* array = py::detail::array_proxy(object);
  const auto* descr = py::detail::array_descriptor_proxy(array->descr);
  const int flags = kContiguous | kAligned | (writes ? kWriteable : 0);
  if (descr->type_num != type || descr->byteorder == '>' || (array->flags & flags) != flags) return false;
  view->data = array->data;
  view->axes = array->nd;
  view->shape = array->dimensions;
  view->size = 1;
  for (int i = 0; i < array->nd; ++i) view->size *= array->dimensions[i];
  return array->nd <= kMostAxes;
}

using Shape = std::vector<Py_intptr_t>;

// Whether the last axes of an array are those of a row.
bool ends_with(const View& view, const Shape& row) {
  const int axes = static_cast<int>(row.size());
  return view.axes >= axes && std::equal(row.begin(), row.end(), view.shape + view.axes - axes);
}

ptrdiff_t product(const Shape& shape) {
  ptrdiff_t size = 1;
  for (const Py_intptr_t n : shape) size *= n;
  return size;
}

// A program with its params, and points that never change.
template <class T>
class Runner {
 public:
  Runner(const Plan& plan, const std::vector<const T*>& params, const std::vector<int32_t>& points,
         int threads)
      : program_(plan), prepared_(program_.prepare(params.data())), points_(points), threads_(threads) {}

  const Plan& plan() const { return program_.plan(); }

  void run(ptrdiff_t rows, const char* const* inputs, char* const* outputs) const {
    std::vector<Point> points;
    for (const int32_t& point : points_) points.push_back({&point, false});
    ForwardArgs<T> args;
    args.rows = rows;
    args.inputs = reinterpret_cast<const T* const*>(inputs);
    args.outputs = reinterpret_cast<T* const*>(outputs);
    args.points = points.data();
    args.threads = threads_;
    if (program_.work(rows) < kLongCall) return program_.forward(args, *prepared_);
    const py::gil_scoped_release release;
    program_.forward(args, *prepared_);
  }

 private:
  Program<T> program_;
  std::shared_ptr<const Prepared<T>> prepared_;
  std::vector<int32_t> points_;
  int threads_;
};

// What the Python object holds.
struct State {
  std::variant<std::unique_ptr<Runner<float>>, std::unique_ptr<Runner<double>>> runner;
  int type = kFloat;
  // Of the only input and the only output; empty if there are several.
  Shape input_row, output_row;
  bool single = false;
  py::object otherwise;

  ptrdiff_t width(bool input, size_t i) const {
    return std::visit(
        [&](const auto& r) {
          const Plan& plan = r->plan();
          return plan.values[static_cast<size_t>((input ? plan.inputs : plan.outputs)[i])].width;
        },
        runner);
  }
  size_t count(bool input) const {
    return std::visit(
        [&](const auto& r) { return input ? r->plan().inputs.size() : r->plan().outputs.size(); }, runner);
  }
  void run(ptrdiff_t rows, const char* const* inputs, char* const* outputs) const {
    std::visit([&](const auto& r) { r->run(rows, inputs, outputs); }, runner);
  }
};

struct Frozen {
  PyObject_HEAD vectorcallfunc call;
  State* state;
};

// A new array of the leading axes of the input and a row of the output; null with an exception set.
PyObject* new_output(const State& state, const View& x) {
  Py_intptr_t shape[2 * kMostAxes];
  const int leading = x.axes - static_cast<int>(state.input_row.size());
  std::copy_n(x.shape, leading, shape);
  std::copy(state.output_row.begin(), state.output_row.end(), shape + leading);
  const auto& api = numpy();
  PyObject* descr = api.PyArray_DescrFromType_(state.type);
  const int axes = leading + static_cast<int>(state.output_row.size());
  return api.PyArray_NewFromDescr_(api.PyArray_Type_, descr, axes, shape, nullptr, nullptr, 0, nullptr);
}

// Whether `out` has the leading axes of x and then those of a row.
bool fits(const State& state, const View& x, const View& out) {
  const int leading = x.axes - static_cast<int>(state.input_row.size());
  return out.axes == leading + static_cast<int>(state.output_row.size()) &&
         std::equal(x.shape, x.shape + leading, out.shape) && ends_with(out, state.output_row);
}

bool overlap(const View& a, const View& b, ptrdiff_t element) {
  return a.data < b.data + b.size * element && b.data < a.data + a.size * element;
}

// frozen(x, out): arrays that need no conversion are run on at once; everything else goes to Python.
PyObject* call(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* names) {
  const State& state = *reinterpret_cast<Frozen*>(self)->state;
  const Py_ssize_t count = PyVectorcall_NARGS(nargsf);
  if (names != nullptr || count != 2) {
    PyErr_SetString(PyExc_TypeError, "expected (x, out)");
    return nullptr;
  }
  try {
    View x, out;
    const bool direct =
        state.single && usable(args[0], state.type, false, &x) && ends_with(x, state.input_row);
    if (!direct || (args[1] != Py_None && !(usable(args[1], state.type, true, &out) && fits(state, x, out) &&
                                            !overlap(x, out, state.type == kFloat ? 4 : 8)))) {
      PyObject* given[] = {self, args[0], args[1]};
      return PyObject_Vectorcall(state.otherwise.ptr(), given, 3, nullptr);
    }
    PyObject* result = args[1];
    if (result == Py_None) {
      result = new_output(state, x);
      if (result == nullptr) return nullptr;
    } else {
      Py_INCREF(result);
    }
    const py::object owner = py::reinterpret_steal<py::object>(result);
    const char* input = x.data;
    char* output = py::detail::array_proxy(result)->data;
    state.run(x.size / state.width(true, 0), &input, &output);
    return py::object(owner).release().ptr();
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

// frozen.run(rows, inputs, outputs): arrays of rows * width elements each, in the plan's order.
PyObject* run(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const State& state = *reinterpret_cast<Frozen*>(self)->state;
  try {
    if (count != 3 || !PyList_Check(args[1]) || !PyList_Check(args[2])) {
      PyErr_SetString(PyExc_TypeError, "expected (rows, inputs, outputs)");
      return nullptr;
    }
    const Py_ssize_t rows = PyLong_AsSsize_t(args[0]);
    if (rows == -1 && PyErr_Occurred()) return nullptr;
    std::vector<char*> data[2];
    for (const bool input : {true, false}) {
      PyObject* list = args[input ? 1 : 2];
      bool good = rows >= 0 && static_cast<size_t>(PyList_GET_SIZE(list)) == state.count(input);
      for (Py_ssize_t i = 0; good && i < PyList_GET_SIZE(list); ++i) {
        View view{};
        const ptrdiff_t width = state.width(input, static_cast<size_t>(i));
        good = usable(PyList_GET_ITEM(list, i), state.type, !input, &view) && view.size % width == 0 &&
               view.size / width == rows;
        data[input ? 0 : 1].push_back(view.data);
      }
      if (!good) {
        PyErr_SetString(PyExc_ValueError, input
                                              ? "expected the inputs of the plan, contiguous, of its rows"
                                              : "expected the outputs of the plan, contiguous, of its rows");
        return nullptr;
      }
    }
    state.run(rows, data[0].data(), data[1].data());
    Py_RETURN_NONE;
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

template <class T>
std::unique_ptr<Runner<T>> make_runner(const Plan& plan, const py::list& arrays,
                                       const std::vector<int32_t>& points, int type, int threads) {
  std::vector<const T*> params;
  for (size_t i = 0; i < arrays.size(); ++i) {
    View view{};
    if (i >= plan.params.size() || !usable(arrays[i].ptr(), type, false, &view) ||
        view.size != plan.params[i].size())
      throw py::value_error("params: expected arrays of the plan's shapes, contiguous");
    params.push_back(reinterpret_cast<const T*>(view.data));
  }
  if (params.size() != plan.params.size() || points.size() != static_cast<size_t>(plan.points))
    throw py::value_error("params: expected all of the plan's, and its points");
  return std::make_unique<Runner<T>>(plan, params, points, threads);
}

py::object make(const std::vector<int64_t>& code, bool is_double, const py::list& params,
                const std::vector<int32_t>& points, int threads, const Shape& input_row,
                const Shape& output_row, const py::object& otherwise);

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<Frozen*>(self)->state;
  type->tp_free(self);
  Py_DECREF(type);
}

PyTypeObject* frozen_type() {
  static PyMemberDef members[] = {
      {"__vectorcalloffset__", T_PYSSIZET, offsetof(Frozen, call), READONLY, nullptr},
      {nullptr, 0, 0, 0, nullptr}};
  static PyMethodDef methods[] = {{"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&run)),
                                   METH_FASTCALL, "run(rows, inputs, outputs)"},
                                  {nullptr, nullptr, 0, nullptr}};
  static PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(&dealloc)},
                                {Py_tp_call, reinterpret_cast<void*>(&PyVectorcall_Call)},
                                {Py_tp_members, members},
                                {Py_tp_methods, methods},
                                {0, nullptr}};
  static PyType_Spec spec = {"fusedsplit._core.Frozen", sizeof(Frozen), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, slots};
  static PyTypeObject* type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (type == nullptr) throw py::error_already_set();
  return type;
}

py::object make(const std::vector<int64_t>& code, bool is_double, const py::list& params,
                const std::vector<int32_t>& points, int threads, const Shape& input_row,
                const Shape& output_row, const py::object& otherwise) {
  Plan plan;
  const std::string problem = decode_plan(code.data(), code.size(), &plan);
  if (!problem.empty()) throw py::value_error("plan: " + problem);
  auto state = std::make_unique<State>();
  state->type = is_double ? kDouble : kFloat;
  state->otherwise = otherwise;
  const int most = threads < 1 ? std::numeric_limits<int>::max() : threads;
  if (is_double) {
    state->runner = make_runner<double>(plan, params, points, kDouble, most);
  } else {
    state->runner = make_runner<float>(plan, params, points, kFloat, most);
  }
  state->single = state->count(true) == 1 && state->count(false) == 1 && !input_row.empty() &&
                  product(input_row) == state->width(true, 0) &&
                  product(output_row) == state->width(false, 0) && output_row.size() <= kMostAxes;
  state->input_row = input_row;
  state->output_row = output_row;
  PyTypeObject* type = frozen_type();
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) throw py::error_already_set();
  auto* frozen = reinterpret_cast<Frozen*>(self);
  frozen->call = &call;
  frozen->state = state.release();
  return py::reinterpret_steal<py::object>(self);
}

}  // namespace

void bind_frozen(py::module_& module) {
  module.def(
      "frozen", &make, py::arg("code"), py::arg("is_double"), py::arg("params"), py::arg("points"),
      py::arg("threads"), py::arg("input_row"), py::arg("output_row"), py::arg("otherwise"),
      "A callable (x, out) that runs a plan with these params; what it cannot run on as it is, it hands "
      "to otherwise(frozen, x, out).");
}

}  // namespace fusedsplit
