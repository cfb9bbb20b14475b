"""suite.py: what `fusedsplit check` covers, and that it holds."""

import numpy as np
import pytest
import tensorflow as tf

import fusedsplit as fs
from fusedsplit.layers import merges
from fusedsplit.layers.spec import CallableMerge, SplitSpec
from fusedsplit.tools import suite


def _blocks(spec: SplitSpec):
    """A spec and those nested in it."""
    yield spec
    for items in (spec.stem, *(branch.items for branch in spec.branches), spec.head):
        for item in items:
            if isinstance(item, SplitSpec):
                yield from _blocks(item)


@pytest.fixture(scope="module")
def layers():
    return list(suite.layers(seed=0))


def test_every_merge_and_layer_is_there(layers):
    specs = [layer.spec_for(training) for _, layer, training in layers]
    specs += suite.seed_specs().values()
    found = {block.merge for spec in specs for block in _blocks(spec)}
    wanted = {merges.get(name) for name in merges.NAMES} | {fs.merges.dueling(b) for b in ("mean", "max", "naive")}
    wanted |= {None, fs.merges.mixture(), fs.merges.mixture(softmax=False), fs.merges.highway()}
    assert wanted <= found
    assert {merges.Weighted, CallableMerge} <= {type(merge) for merge in found}
    assert {type(layer).__name__ for _, layer, _ in layers} == {"SplitDense", "MergeDense", "DynamicSplitDense"}
    assert any(layer.takes_list for _, layer, _ in layers)
    assert any(len(list(_blocks(spec))) > 2 for spec in specs)


def test_split_points_are_of_every_kind(layers):
    ranks, soft = set(), 0
    for _, layer, training in layers:
        if not layer.takes_list:
            call = layer.computation(training).operands([tf.ones((5, 6))])
            ranks |= {point.shape.rank for point in call.points}
            soft += training and isinstance(layer, fs.DynamicSplitDense)
    assert ranks == {0, 1} and soft


def test_layers_hold(layers):
    for name, layer, training in layers:
        report = fs.check(layer, training=training, backends=["tf"])
        assert report.ok, f"{name}: {report}"


def test_weights_are_those_of_the_seed(layers):
    names = [name for name, *_ in layers]
    assert len(set(names)) == len(names)
    for (_, a, _), (_, b, _) in zip(layers, suite.layers(seed=0)):
        for v, w in zip(a.params, b.params, strict=True):
            np.testing.assert_array_equal(v, w)
            assert np.all(np.asarray(v) != 0)


def test_random_specs_hold():
    assert len(suite.seed_specs()) >= 5
    names = [name for name, _ in suite.random_specs(5, seed=1)]
    assert len(set(names)) == 5
    for _, spec in suite.random_specs(3, seed=1):
        assert fs.check(spec, backends=["tf"]).ok


def test_xla_takes_a_share_unless_it_is_asked_for(layers, monkeypatch, capsys):
    asked = {}

    def check(subject, training, backends, seed):
        asked[id(subject)] = backends
        return suite.CheckReport("x", (suite.Row("xla", "value", 0.0, 0.0, 0.0),), {})

    monkeypatch.setattr(suite, "check", check)
    monkeypatch.setattr(suite, "layers", lambda seed: layers)
    monkeypatch.setattr(suite, "seed_specs", dict)
    assert suite.run(0, 0, None) == 0
    chosen = {name: asked[id(layer)] for name, layer, _ in layers}
    assert chosen["maximum"] is None and "xla" not in chosen["add"] and "tf" in chosen["add"]
    assert set(suite._COMPILED) <= {*chosen, *_seed_names()}
    assert "--backends xla" in capsys.readouterr().out
    assert suite.run(0, 0, ["xla"]) == 0
    assert all(asked[id(layer)] == ["xla"] for _, layer, _ in layers)


def _seed_names():
    return {"asymmetric, a Dense each, head", "med", "17 branches"}
