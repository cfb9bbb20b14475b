#include "python/trainers.h"

#include <algorithm>
#include <utility>

#include "core/train/trainer.h"
#include "python/arrays.h"

namespace fusedsplit {
namespace {

// A field of one of the dataclasses of fusedsplit/native/recipe.py; None is the type's own zero.
template <class V>
V field(const py::handle& object, const char* name) {
  const py::object value = object.attr(name);
  return value.is_none() ? V() : value.cast<V>();
}

LossKind kind_of(const std::string& name) {
  const LossKind kind = loss_kind(name);
  if (kind == LossKind::kCount) throw py::value_error("expected a loss that is built. Received: " + name);
  return kind;
}

Reduction reduction_of(const std::string& name) {
  if (name == "sum_over_batch_size" || name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  if (name == "mean_with_sample_weight") return Reduction::kMeanOfWeights;
  throw py::value_error(
      "reduction: expected 'sum_over_batch_size', 'mean', 'sum' or 'mean_with_sample_weight'. Received: " +
      name);
}

Loss loss_of(const py::handle& object) {
  Loss loss;
  const bool has_logits = !object.attr("logits").is_none();
  const std::string name = field<std::string>(object, "name");
  // Of most losses there is no form for logits.
  loss.kind = kind_of(has_logits || field<bool>(object, "from_logits") ? name + "_logits" : name);
  loss.output = field<int>(object, "output");
  if (has_logits) loss.logits = field<int>(object, "logits");
  loss.label_smoothing = field<double>(object, "label_smoothing");
  loss.delta = field<double>(object, "delta");
  loss.weight = field<double>(object, "weight");
  loss.epsilon = field<double>(object, "epsilon");
  loss.reduction = reduction_of(field<std::string>(object, "reduction"));
  return loss;
}

OptimizerKind optimizer_kind(const py::handle& object, const std::string& name) {
  if (name == "sgd") {
    if (field<double>(object, "momentum") == 0) return OptimizerKind::kSgd;
    return field<bool>(object, "nesterov") ? OptimizerKind::kNesterov : OptimizerKind::kMomentum;
  }
  if (name == "adam" || name == "adamw")
    return field<bool>(object, "amsgrad") ? OptimizerKind::kAmsgrad : OptimizerKind::kAdam;
  if (name == "rmsprop") return OptimizerKind::kRmsprop;
  if (name == "adagrad") return OptimizerKind::kAdagrad;
  if (name == "nadam") return OptimizerKind::kNadam;
  if (name == "lion") return OptimizerKind::kLion;
  throw py::value_error("expected an optimizer that is built. Received: " + name);
}

Optimizer optimizer_of(const py::handle& object) {
  Optimizer optimizer;
  const std::string name = field<std::string>(object, "name");
  optimizer.kind = optimizer_kind(object, name);
  const bool momentum = name == "sgd" || name == "rmsprop";
  optimizer.beta_1 = field<double>(object, momentum ? "momentum" : "beta_1");
  optimizer.beta_2 = field<double>(object, name == "rmsprop" ? "rho" : "beta_2");
  optimizer.epsilon = field<double>(object, "epsilon");
  optimizer.centered = field<bool>(object, "centered");
  optimizer.weight_decay = field<double>(object, "weight_decay");
  optimizer.clipnorm = field<double>(object, "clipnorm");
  optimizer.global_clipnorm = field<double>(object, "global_clipnorm");
  optimizer.clipvalue = field<double>(object, "clipvalue");
  optimizer.use_ema = field<bool>(object, "use_ema");
  optimizer.ema_momentum = field<double>(object, "ema_momentum");
  optimizer.ema_overwrite_frequency = field<int64_t>(object, "ema_overwrite_frequency");
  optimizer.accumulation_steps = std::max<int64_t>(1, field<int64_t>(object, "gradient_accumulation_steps"));
  return optimizer;
}

// By the loss with the same output.
int loss_with(const std::vector<Loss>& losses, int output) {
  for (size_t l = 0; l < losses.size(); ++l)
    if (losses[l].output == output) return static_cast<int>(l);
  return -1;
}

Metric metric_of(const py::handle& object, const std::vector<Loss>& losses) {
  Metric metric;
  metric.kind = kind_of(field<std::string>(object, "name"));
  metric.output = field<int>(object, "output");
  metric.loss = loss_with(losses, metric.output);
  metric.weighted = field<bool>(object, "weighted");
  metric.threshold = field<double>(object, "threshold");
  metric.epsilon = field<double>(object, "epsilon");
  return metric;
}

Recipe recipe_of(const Plan& plan, const py::handle& object) {
  Recipe recipe;
  for (const py::handle loss : object.attr("losses")) recipe.losses.push_back(loss_of(loss));
  const py::object optimizer = object.attr("optimizer");
  recipe.trains = !optimizer.is_none();
  if (recipe.trains) recipe.optimizer = optimizer_of(optimizer);
  for (const py::handle x : object.attr("trainable")) recipe.trainable.push_back(x.cast<bool>());
  for (const py::handle x : object.attr("decayed")) recipe.decayed.push_back(x.cast<bool>());
  for (const py::handle x : object.attr("regularizers"))
    recipe.regularizers.push_back(x.is_none() ? Regularizer{}
                                              : Regularizer{field<double>(x, "l1"), field<double>(x, "l2")});
  // None given: every param is trained and decays, none is regularized.
  if (recipe.trainable.empty()) recipe.trainable.assign(plan.params.size(), 1);
  if (recipe.decayed.empty()) recipe.decayed.assign(plan.params.size(), 1);
  if (recipe.regularizers.empty()) recipe.regularizers.resize(plan.params.size());
  for (const py::handle x : object.attr("dropouts"))
    recipe.dropouts.push_back({field<int>(x, "input"), field<double>(x, "rate"), field<uint64_t>(x, "seed")});
  for (const py::handle x : object.attr("metrics")) recipe.metrics.push_back(metric_of(x, recipe.losses));
  const std::string problem = recipe_problem(plan, recipe);
  if (!problem.empty()) throw py::value_error(problem);
  return recipe;
}

// Arrays are taken as they are: a copy of another dtype or layout would cost more than the step.
template <class E>
const E* exact_data(const char* name, size_t index, const py::handle& object,
                    std::vector<py::ssize_t> shape) {
  if (!py::isinstance<py::array_t<E, py::array::c_style>>(object))
    throw py::type_error(std::string(name) + "[" + std::to_string(index) +
                         "]: expected a C-contiguous array of " + std::string(py::str(py::dtype::of<E>())) +
                         ". Received: " + std::string(py::str(py::type::handle_of(object))) + " of dtype " +
                         std::string(py::str(py::getattr(object, "dtype", py::none()))));
  const py::array array = py::reinterpret_borrow<py::array>(object);
  check_shape(name, index, array, shape);
  return static_cast<const E*>(array.data());
}

template <class T>
class BoundTrainer {
 public:
  BoundTrainer(const Code& code, const py::object& recipe)
      : plan_(decoded(code)), trainer_(plan_, recipe_of(plan_, recipe)) {}

  py::list params() const {
    py::list list;
    for (size_t p = 0; p < plan_.params.size(); ++p) {
      py::array_t<T> array(param_shape(p));
      trainer_.read_param(p, array.mutable_data());
      list.append(array);
    }
    return list;
  }

  void set_params(const std::vector<Array<T>>& arrays) {
    check_count("params", plan_.params.size(), arrays.size());
    for (size_t p = 0; p < arrays.size(); ++p) check_shape("params", p, arrays[p], param_shape(p));
    for (size_t p = 0; p < arrays.size(); ++p) trainer_.write_param(p, arrays[p].data());
  }

  // By name, a list over the params with None for those that are not trained.
  py::dict slots() const {
    py::dict all;
    for (size_t s = 0; s < trainer_.slots().size(); ++s) {
      py::list list;
      for (size_t p = 0; p < plan_.params.size(); ++p) {
        if (!trainer_.recipe().trainable[p]) {
          list.append(py::none());
          continue;
        }
        py::array_t<T> array(param_shape(p));
        trainer_.read_slot(s, p, array.mutable_data());
        list.append(array);
      }
      all[py::str(trainer_.slots()[s])] = list;
    }
    return all;
  }

  void set_slots(const py::dict& given) {
    struct Write {
      size_t slot, param;
      Array<T> array;
    };
    std::vector<Write> writes;
    for (const auto& [key, value] : given) {
      const std::string name = py::cast<std::string>(key);
      const auto& names = trainer_.slots();
      const size_t s = static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
      if (s == names.size())
        throw py::value_error("slots: expected one that the optimizer has. Received: " + name);
      const py::sequence list = py::cast<py::sequence>(value);
      check_count(name.c_str(), plan_.params.size(), list.size());
      for (size_t p = 0; p < list.size(); ++p) {
        const py::object item = list[p];
        if (item.is_none() || !trainer_.recipe().trainable[p]) continue;
        writes.push_back({s, p, py::cast<Array<T>>(item)});
        check_shape(name.c_str(), p, writes.back().array, param_shape(p));
      }
    }
    for (const Write& write : writes) trainer_.write_slot(write.slot, write.param, write.array.data());
  }

  // Returns rows, losses, metrics of each step.
  py::tuple run(const py::list& inputs, const py::list& targets, const py::list& weights,
                const py::object& order, ptrdiff_t batch, const py::object& rates, const py::list& points,
                const py::object& seconds, const py::object& outputs, ptrdiff_t first_row) {
    RunArgs<T> args;
    if (batch < 1) throw py::value_error("batch: expected at least 1. Received: " + std::to_string(batch));
    args.batch = batch;
    args.seconds = seconds.is_none() ? -1 : seconds.cast<double>();
    read_inputs(inputs, targets, &args.data);
    read_targets(targets, weights, &args.data);
    read_points(points, &args.data);
    read_order(order, &args);
    read_rates(rates, &args);
    read_outputs(outputs, first_row, &args);
    RunResult result;
    std::string problem;
    {
      const py::gil_scoped_release release;
      problem = trainer_.run(args, &result);
    }
    if (!problem.empty()) throw py::value_error(problem);
    const py::ssize_t steps = static_cast<py::ssize_t>(result.rows.size());
    const Recipe& recipe = trainer_.recipe();
    return py::make_tuple(
        shaped(result.rows, {steps}),
        shaped(result.losses, {steps, static_cast<py::ssize_t>(1 + recipe.losses.size())}),
        shaped(result.metrics, {steps, static_cast<py::ssize_t>(recipe.metrics.size()), 2}));
  }

  Trainer<T>& trainer() { return trainer_; }

 private:
  std::vector<py::ssize_t> param_shape(size_t p) const {
    const Param& param = plan_.params[p];
    if (param.rank == 1) return {param.cols};
    return {param.rows, param.cols};
  }
  py::ssize_t width(int value) const { return plan_.values[static_cast<size_t>(value)].width; }
  py::ssize_t output_width(int output) const { return width(plan_.outputs[static_cast<size_t>(output)]); }

  template <class E>
  static py::array_t<E> shaped(const std::vector<E>& values, std::vector<py::ssize_t> shape) {
    py::array_t<E> array(std::move(shape));
    std::copy(values.begin(), values.end(), array.mutable_data());
    return array;
  }

  static ptrdiff_t samples_of(const py::list& inputs, const py::list& targets) {
    for (const py::list& list : {inputs, targets})
      for (const py::handle object : list)
        if (py::isinstance<py::array>(object)) {
          const py::array array = py::reinterpret_borrow<py::array>(object);
          if (array.ndim() > 0) return array.shape(0);
        }
    return 0;
  }

  void read_inputs(const py::list& inputs, const py::list& targets, Data<T>* data) const {
    data->samples = samples_of(inputs, targets);
    data->inputs.resize(plan_.inputs.size());
    std::vector<char> drawn(plan_.inputs.size());
    for (const Dropout& dropout : trainer_.recipe().dropouts) drawn[static_cast<size_t>(dropout.input)] = 1;
    size_t given = 0;
    for (const char is_drawn : drawn) given += !is_drawn;
    check_count("inputs", given, inputs.size());
    size_t at = 0;
    for (size_t i = 0; i < drawn.size(); ++i) {
      if (drawn[i]) continue;
      data->inputs[i] = exact_data<T>("inputs", at, inputs[at], {data->samples, width(plan_.inputs[i])});
      ++at;
    }
  }

  void read_targets(const py::list& targets, const py::list& weights, Data<T>* data) const {
    const std::vector<Loss>& losses = trainer_.recipe().losses;
    check_count("targets", losses.size(), targets.size());
    check_count("weights", losses.size(), weights.size());
    data->targets.resize(losses.size());
    data->labels.resize(losses.size());
    data->weights.resize(losses.size());
    for (size_t l = 0; l < losses.size(); ++l) {
      if (!weights[l].is_none()) data->weights[l] = exact_data<T>("weights", l, weights[l], {data->samples});
      if (!is_sparse(losses[l].kind)) {
        data->targets[l] =
            exact_data<T>("targets", l, targets[l], {data->samples, output_width(losses[l].output)});
        continue;
      }
      std::vector<py::ssize_t> shape = {data->samples};
      const py::object given = targets[l];
      if (py::isinstance<py::array>(given) && py::reinterpret_borrow<py::array>(given).ndim() == 2)
        shape.push_back(1);
      if (py::isinstance<py::array_t<int32_t>>(given)) {
        data->labels[l].narrow = exact_data<int32_t>("targets", l, given, shape);
      } else {
        data->labels[l].wide = exact_data<int64_t>("targets", l, given, shape);
      }
    }
  }

  void read_points(const py::list& points, Data<T>* data) const {
    check_count("points", static_cast<size_t>(plan_.points), points.size());
    for (size_t p = 0; p < points.size(); ++p) {
      const py::object given = points[p];
      const bool per_row =
          py::isinstance<py::array>(given) && py::reinterpret_borrow<py::array>(given).ndim() > 0;
      const std::vector<py::ssize_t> shape =
          per_row ? std::vector<py::ssize_t>{data->samples} : std::vector<py::ssize_t>{};
      data->points.push_back({exact_data<int32_t>("points", p, given, shape), per_row});
    }
  }

  static void read_order(const py::object& order, RunArgs<T>* args) {
    args->rows = args->data.samples;
    if (order.is_none()) return;
    args->rows = static_cast<ptrdiff_t>(py::len(order));
    args->data.order = exact_data<int64_t>("order", 0, order, {args->rows});
  }

  void read_rates(const py::object& rates, RunArgs<T>* args) const {
    if (!trainer_.recipe().trains) return;
    const ptrdiff_t steps = (args->rows + args->batch - 1) / args->batch;
    const ptrdiff_t given = static_cast<ptrdiff_t>(py::len(rates));
    if (given < steps)
      throw py::value_error("rates: expected one for each of " + std::to_string(steps) +
                            " steps. Received: " + std::to_string(given));
    args->rates = exact_data<double>("rates", 0, rates, {given});
  }

  void read_outputs(const py::object& outputs, ptrdiff_t first_row, RunArgs<T>* args) const {
    args->outputs.resize(plan_.outputs.size());
    if (outputs.is_none()) return;
    const py::list list = py::cast<py::list>(outputs);
    check_count("outputs", plan_.outputs.size(), list.size());
    for (size_t i = 0; i < list.size(); ++i) {
      if (list[i].is_none()) continue;
      const ptrdiff_t columns = output_width(static_cast<int>(i));
      const py::ssize_t rows = static_cast<py::ssize_t>(py::len(list[i]));
      exact_data<T>("outputs", i, list[i], {rows, columns});
      if (first_row < 0 || first_row + args->rows > rows)
        throw py::value_error("outputs[" + std::to_string(i) + "]: expected " + std::to_string(args->rows) +
                              " rows from row " + std::to_string(first_row) +
                              " on. Received: " + std::to_string(rows));
      args->outputs[i] = static_cast<T*>(py::cast<py::array>(list[i]).mutable_data()) + first_row * columns;
    }
  }

  Plan plan_;
  Trainer<T> trainer_;
};

template <class T>
void bind_trainer(py::module_& module, const char* name) {
  using Bound = BoundTrainer<T>;
  py::class_<Bound>(module, name)
      .def(py::init<const Code&, const py::object&>(), py::arg("code"), py::arg("recipe"))
      .def("params", &Bound::params)
      .def("set_params", &Bound::set_params, py::arg("arrays"))
      .def("slots", &Bound::slots)
      .def("set_slots", &Bound::set_slots, py::arg("slots"))
      .def_property(
          "iterations", [](Bound& b) { return b.trainer().iterations(); },
          [](Bound& b, int64_t count) { b.trainer().set_iterations(count); })
      .def_property(
          "u_product", [](Bound& b) { return b.trainer().u_product(); },
          [](Bound& b, double value) { b.trainer().set_u_product(value); })
      .def("run", &Bound::run, py::arg("inputs"), py::arg("targets"), py::arg("weights"), py::arg("order"),
           py::arg("batch"), py::arg("rates"), py::arg("points"), py::arg("seconds"), py::arg("outputs"),
           py::arg("first_row"));
}

}  // namespace

void bind_trainers(py::module_& module) {
  bind_trainer<float>(module, "Trainer32");
  bind_trainer<double>(module, "Trainer64");
}

}  // namespace fusedsplit
