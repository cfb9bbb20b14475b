"""explain_model.py: every call of a model is in a region or listed with its reason, and the text says so."""

import keras
import pytest
from keras import layers as kl

import fusedsplit as fs
from fusedsplit.backends import dispatch
from fusedsplit.backends.base import CallContext
from fusedsplit.bench import architectures
from tests.models.test_architectures import SMALL


def _mlp() -> keras.Model:
    return architectures.mlp(6, (8, 5), 0.3)


def _deep(blocks: int) -> keras.Model:
    """Four calls a block."""
    x = h = keras.Input((8,))
    for i in range(blocks):
        r = kl.Dense(8, activation="relu")(h)
        r = kl.BatchNormalization()(r)
        r = kl.GaussianNoise(0.1)(r) if i % 5 == 0 else kl.Dropout(0.1)(r)
        h = kl.Add()([h, r])
    return keras.Model(x, h, name="deep")


@pytest.mark.parametrize("name", SMALL)
def test_every_call_is_fused_or_has_its_reason(name):
    model = SMALL[name]()
    explanation = fs.explain(model)
    fused = fs.fuse(model)
    for mode in (explanation.inference, explanation.training):
        paths = [call.path for call in (*mode.fused_calls, *mode.left_calls)]
        assert sorted(paths) == sorted(call.path for call in fused.graph.calls)
        assert all(left.reason for left in mode.left)
        for found, region in zip(mode.regions, fused.schedule(mode.training).regions, strict=True):
            assert (found.flops, found.steps) == (region.plan.flops(), len(region.plan.steps))
    text = str(explanation)
    for left in (*explanation.inference.left, *explanation.training.left):
        assert left.reason in text
    assert max(map(len, text.splitlines())) <= 180


def test_what_a_region_says_of_itself():
    (found,) = fs.explain(_mlp()).inference.regions
    assert (found.products, found.steps, found.flops, found.rows) == (3, 5, 2 * (6 * 8 + 8 * 5 + 5), 1)
    assert set(found.choices) == {"eager", "graph", "inside XLA", "saving, export"}
    assert found.choices["eager"].split()[0] in ("op", "xla")
    assert found.choices["saving, export"].startswith("Keras' own operations")
    assert len(found.region.layers) == 9


def test_plain_and_fused_models_say_what_would_be_and_what_is():
    model = _mlp()
    would, does = fs.explain(model), fs.explain(fs.fuse(model, backend="tf"))
    assert not would.is_fused and does.is_fused and (would.backend, does.backend) == ("auto", "tf")
    assert "mlp: 9 calls; fs.fuse would run 9 of them in 1 region at inference, 6 of them in 2 regions" in str(would)
    assert "mlp: 9 calls; runs 9 of them in 1 region at inference" in str(does)
    assert does.inference.regions[0].choices["graph"] == "tf (explicitly chosen)"
    assert not isinstance(model, fs.FusedModel)


def test_the_text_tells_inference_from_training():
    text = str(fs.explain(_mlp()))
    assert "while training it looks across rows" in text and "nothing to gain: it is one Dense" in text
    assert "at inference: left to Keras" not in text
    assert "at inference and while training: fused" in str(fs.explain(SMALL["nbeats"]()))
    assert "fit: Keras' loop: " in text and "predict: the core" in text


def test_attributes_are_the_data_that_the_text_shows():
    explanation = fs.explain(SMALL["vae"]())
    assert [len(region.calls) for region in explanation.regions] == [3, 2]
    ((reason, (name,)),) = explanation.left.items()
    assert reason == "Sampling is not known to be row-wise" and name.startswith("sampling")
    assert set(explanation.loops) == {"fit", "evaluate", "predict"}


@pytest.mark.parametrize("fuse", (False, True))
def test_nothing_to_fuse_is_said(fuse):
    x = keras.Input((4,))
    model = keras.Model(x, kl.Dense(3)(x), name="one")
    explanation = fs.explain(fs.fuse(model) if fuse else model)
    head = "it runs as Keras runs it" if fuse else "fs.fuse would leave it as it is"
    text = str(explanation)
    assert text.startswith(f"one: 1 call, nothing to fuse: {head}")
    assert "none: nothing of it is fused" in text
    assert explanation.regions == [] and explanation.gain is None
    assert explanation.left == {"nothing to gain: it is one Dense": [model.layers[1].name]}


def test_the_gain_is_counted():
    gain = fs.explain(_deep(4)).gain
    unfused, fused = gain.operations
    assert gain.eager > 3 and f"{unfused} TensorFlow operations become {fused}" in str(gain)
    x = keras.Input((8,))
    model = keras.Model(x, kl.Dense(2)(kl.Dense(3)(kl.Dense(3)(x))))
    assert fs.explain(model).gain.operations[0] == 6
    assert fs.explain(fs.fuse(model, backend="reference")).gain.operations == (6, 6)
    if not dispatch.BACKENDS["op"].not_supported_reasons(None, CallContext("float32")):
        assert fs.explain(model).gain.operations[1] == 1


def test_a_large_model_stays_readable():
    text = str(fs.explain(_deep(50)))
    lines = text.splitlines()
    assert "200 calls; fs.fuse would run 200 of them in 1 region at inference, 137 of them in 49 regions" in lines[0]
    assert len(lines) < 50 and max(map(len, lines)) <= 160
    assert "2, 3, ... 49 (39)" in text and "it is random while training" in text


def test_calls_with_one_reason_stand_together():
    x = keras.Input((4,))
    y = kl.Softmax(axis=0)(kl.Dense(2)(kl.Softmax(axis=0)(kl.Dense(3)(kl.Dense(3)(x)))))
    left = fs.explain(keras.Model(x, y)).left
    assert [len(names) for reason, names in left.items() if "Softmax" in reason] == [2]


def test_many_kinds_of_regions_are_cut_short():
    x = keras.Input((4,))
    outs = []
    for i in range(15):
        noise = kl.GaussianNoise(0.1)(kl.Softmax(axis=0)(x))
        outs.append(kl.Softmax(axis=0)(kl.Dense(3 + i)(kl.Dense(2 + i)(noise))))
    text = str(fs.explain(keras.Model(x, outs)))
    assert "more; `.regions` has them" in text


def test_a_backend_that_cannot_run_is_said(monkeypatch):
    monkeypatch.setattr(dispatch.BACKENDS["xla"], "not_supported_reasons", lambda plan, context: ["it is switched off"])
    dispatch._choose.cache_clear()
    text = str(fs.explain(fs.fuse(_mlp(), backend="xla")))
    dispatch._choose.cache_clear()
    assert "raises: backend='xla' cannot run there" in text and "none: a call raises" in text


def test_the_reason_for_the_layers_themselves_is_said():
    model = fs.fuse(_mlp())
    model.regions  # noqa: B018
    model.layers[1].activity_regularizer = keras.regularizers.L2(0.1)
    text = str(fs.explain(model))
    assert "reference (Dense 'dense" in text and "has an activity regularizer)" in text


def test_masks_and_baked_training_are_noted():
    ids = keras.Input((3,), dtype="int32")
    h = kl.Embedding(5, 4, mask_zero=True, name="words")(ids)
    h = kl.Dropout(0.5, name="always")(kl.Dense(3)(h), training=True)
    explanation = fs.explain(keras.Model(ids, kl.Dense(2)(kl.Add()([h, kl.Dense(3)(h)]))))
    text = str(explanation)
    assert "the graph itself says training=True for always" in text
    assert "masks may come from words" in text
    assert [call.path for call in explanation.inference.regions[0].masked] == ["words"]
    assert "batch and 1 axis" in text


def test_masks_that_a_region_passes_on_are_no_matter():
    ids = keras.Input((3,), dtype="int32")
    y = kl.Dense(2)(kl.Dense(3)(kl.Embedding(5, 4, mask_zero=True)(ids)))
    explanation = fs.explain(keras.Model(ids, y))
    assert explanation.inference.regions[0].masked == () and "notes" not in str(explanation)


def test_fused_layers_in_a_model_are_calls_too():
    x = keras.Input((4,))
    h = fs.SplitDense(kl.Dense(4), [kl.Dense(2), kl.Dense(3)])(x)
    explanation = fs.explain(keras.Model(x, kl.Dense(2)(h)))
    assert explanation.inference.regions[0].products == 4


@pytest.mark.parametrize("wrong", [None, 3, kl.Dense(3)], ids=str)
def test_what_is_neither_is_refused(wrong):
    with pytest.raises(ValueError, match="expected a built fused layer, or a Keras model. Received"):
        fs.explain(wrong)


def test_models_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match="expected a Sequential whose input shape is known"):
        fs.explain(keras.Sequential([kl.Dense(2)]))
