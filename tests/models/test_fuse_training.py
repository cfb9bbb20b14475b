"""Training goes on where it was: fused and plain models over one graph take turns, and it is one curve."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import fusedsplit as fs
from tests import children
from tests.models import keras_models as models

pytestmark = pytest.mark.filterwarnings("ignore::fusedsplit.FusedSplitWarning")
X, Y = models.data(80)
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "ema": lambda: keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "clipped": lambda: keras.optimizers.RMSprop(0.01, global_clipnorm=0.5),
}
NORMALIZED = models.normalized, "ema"


def curve(model, **kwargs):
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0, **kwargs}
    history = model.fit(X, Y, **options).history
    return [float(v) for values in history.values() for v in values]


def assert_same_state(model, other, tolerance=2e-4):
    for a, b in zip([*model.weights, *model.optimizer.variables], [*other.weights, *other.optimizer.variables]):
        if "seed" not in a.path:
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=tolerance, atol=tolerance / 10, err_msg=a.path)


# Tracing is what takes the time: two optimizers are traced here, and with one of them validation and a graph while
# training that is another than at inference; the others in the full run.
TRACED = ("adam", "ema")
CURVES = [
    *(pytest.param(models.functional, name, name not in TRACED, id=f"functional-{name}") for name in OPTIMIZERS),
    *(
        pytest.param(models.functional, name, False, id=f"functional-{name}-traced", marks=pytest.mark.full)
        for name in OPTIMIZERS
        if name not in TRACED
    ),
    pytest.param(*NORMALIZED, False, id="normalized"),
]


@pytest.mark.parametrize(("make", "optimizer", "eagerly"), CURVES)
def test_one_curve(make, optimizer, eagerly):
    plain, model = make(), make()
    model.set_weights(plain.get_weights())
    for m in (plain, model):
        m.compile(OPTIMIZERS[optimizer](), "mse", metrics=["mae"], run_eagerly=eagerly)
    options = {"validation_data": (X, Y)} if make is models.normalized else {}
    expected = [curve(plain, **options) for _ in range(3)]
    found = [curve(model, **options)]
    fused = fs.fuse(model)
    found.append(curve(fused, **options))
    unfused = fs.unfuse(fused)
    found.append(curve(unfused, **options))
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    assert_same_state(plain, unfused)
    assert unfused.optimizer is model.optimizer
    assert int(model.optimizer.iterations) == int(plain.optimizer.iterations)


@pytest.mark.parametrize(
    "options",
    [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 5}, {"jit_compile": False}],
    ids=str,
)
def test_how_it_is_compiled(options):
    """Five batches each: Keras 3.5 loses an execution of several steps that is cut short."""
    plain, model = models.functional(), models.functional()
    model.set_weights(plain.get_weights())
    for m in (plain, model):
        m.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], **options)
    fused = fs.fuse(model)
    np.testing.assert_allclose(curve(fused), curve(plain), rtol=2e-4)
    assert_same_state(plain, fused)
    found, expected = (m.evaluate(X, Y, batch_size=16, verbose=0) for m in (fused, plain))
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    found, expected = (m.predict(X, batch_size=16, verbose=0) for m in (fused, plain))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)


def test_batches_by_hand():
    plain, model = models.functional(), models.functional()
    model.set_weights(plain.get_weights())
    for m in (plain, model):
        m.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    fused = fs.fuse(model)
    for i in range(4):
        batch = X[16 * i : 16 * i + 16], Y[16 * i : 16 * i + 16]
        found = fused.train_on_batch(*batch, return_dict=True)
        expected = plain.train_on_batch(*batch, return_dict=True)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=2e-4)
    np.testing.assert_allclose(fused.test_on_batch(X, Y), plain.test_on_batch(X, Y), rtol=2e-4)
    np.testing.assert_allclose(fused.predict_on_batch(X), plain.predict_on_batch(X), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_loop_by_hand(graph):
    plain, model = models.functional(), models.functional()
    model.set_weights(plain.get_weights())
    fused = fs.fuse(model)

    def step_of(m):
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(m.trainable_variables)

        def step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((m(x, training=True) - y) ** 2)
            optimizer.apply_gradients(zip(tape.gradient(loss, m.trainable_variables), m.trainable_variables))
            return loss

        return tf.function(step) if graph else step

    steps = step_of(fused), step_of(plain)
    for i in range(4):
        batch = tf.constant(X[16 * i : 16 * i + 16]), tf.constant(Y[16 * i : 16 * i + 16])
        np.testing.assert_allclose(steps[0](*batch), steps[1](*batch), rtol=1e-4)
    for a, b in zip(fused.weights, plain.weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_second_order(graph, fused_backend):
    """The gradient of a penalty on the gradient by the inputs."""
    model = models.functional()
    fused = fs.fuse(model, backend=fused_backend)
    x = tf.constant(X[:8])

    def penalty_gradients(m):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(m(x, training=True) ** 2)
            penalty = tf.reduce_sum(inner.gradient(y, x) ** 2)
        kernels = [v.value for v in model.trainable_variables]
        return outer.gradient(penalty, kernels, unconnected_gradients="zero")

    run = tf.function(penalty_gradients) if graph else penalty_gradients
    for a, b in zip(run(fused), penalty_gradients(model)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(tf.reduce_max(tf.abs(b))))


def classifiers(h):
    """The ends of classifiers, which leave a crossentropy its logits."""
    return {
        "sigmoid": lambda: kl.Dense(1, activation="sigmoid")(h),
        "Activation": lambda: kl.Activation("sigmoid")(kl.Dense(1)(h)),
        "softmax": lambda: kl.Dense(3, activation="softmax")(h),
        "Softmax": lambda: kl.Softmax()(kl.Dense(3)(h)),
        "Activation softmax": lambda: kl.Activation("softmax")(kl.Dense(3)(h)),
        "SplitDense": lambda: fs.SplitDense(kl.Dense(4), [kl.Dense(3), None], head=kl.Dense(3, activation="softmax"))(
            h
        ),
        "then Identity": lambda: kl.Identity()(kl.Dense(3, activation="softmax")(h)),
    }


def classifier(last):
    x = keras.Input((6,))
    return keras.Model(x, classifiers(kl.Dense(5, activation="tanh")(x))[last]())


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("last", sorted(classifiers(None)))
def test_a_saturated_crossentropy_keeps_its_gradient(last, graph):
    model = classifier(last)
    found = next(layer for layer in reversed(model.layers) if isinstance(layer, (kl.Dense, fs.SplitDense)))
    head = found if isinstance(found, kl.Dense) else found.head[0]
    head.bias.assign([60.0] if head.units == 1 else [60.0, 0.0, -60.0])
    fused = fs.fuse(model)
    binary = head.units == 1
    y = tf.zeros((12, 1)) if binary else tf.one_hot([2] * 12, 3)
    loss = keras.losses.BinaryCrossentropy() if binary else keras.losses.CategoricalCrossentropy()

    def run(m):
        with tf.GradientTape() as tape:
            value = loss(y, m(X[:12], training=True))
        return [value, *tape.gradient(value, [head.bias.value, head.kernel.value])]

    found = tf.function(run)(fused) if graph else run(fused)
    expected = tf.function(run)(model) if graph else run(model)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert np.abs(found[1]).max() > 0.5


def test_no_logits_where_keras_has_none():
    """Behind a Reshape a crossentropy of Keras finds none, and clips."""
    x = keras.Input((6,))
    model = keras.Model(x, kl.Reshape((1,))(kl.Dense(1, activation="sigmoid")(kl.Dense(4)(x))))
    model.layers[2].bias.assign([60.0])
    fused, loss = fs.fuse(model), keras.losses.BinaryCrossentropy()
    np.testing.assert_allclose(loss(tf.zeros((12, 1)), fused(X[:12])), loss(tf.zeros((12, 1)), model(X[:12])))


def test_one_optimizer_for_both():
    """After `fuse` the model itself can go on as well, by turns."""
    model = models.functional()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    fused = fs.fuse(model)
    before = model.evaluate(X, Y, verbose=0)
    for _ in range(3):
        curve(model), curve(fused)
    assert fused.evaluate(X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-4)
    assert model.evaluate(X, Y, verbose=0) < before


MIRRORED = """
import numpy as np, tensorflow as tf, keras, fusedsplit as fs
from tests.models import keras_models as models

tf.get_logger().setLevel("ERROR")
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x, y = models.data(96)
curves = []
for fuse in (False, True):
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = models.functional()
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    if fuse:
        model = fs.fuse(model)
        assert model.distribute_strategy is strategy
        assert model.distribute_strategy.num_replicas_in_sync == 2
    history = model.fit(x, y, epochs=3, batch_size=32, shuffle=False, verbose=0).history
    curves.append([*history["loss"], *history["mae"], *model.evaluate(x, y, verbose=0)])
    curves[-1] += [float(v) for v in model.predict(x, verbose=0).ravel()]
np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3, atol=1e-4)
assert np.isfinite(curves).all()
"""


def test_mirrored_replicas():
    result = children.run(MIRRORED)
    assert result.returncode == 0, result.stderr[-3000:]
