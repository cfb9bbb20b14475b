"""The seeds' programs, as they are written there, beside ours."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Dense, Input, Lambda, add, concatenate

import fusedsplit as fs


def split_recombine_model(input_dim, dense_units):
    """Seed 000, example 1."""
    input_layer = Input(shape=(input_dim,))
    dense_layer = Dense(dense_units)(input_layer)
    split_size = dense_units // 2
    split_layer_1, split_layer_2 = Lambda(lambda x: tf.split(x, [split_size, dense_units - split_size], axis=1))(
        dense_layer
    )
    recombined_layer = concatenate([split_layer_1, split_layer_2])
    output_layer = Dense(1)(recombined_layer)
    return keras.Model(inputs=input_layer, outputs=output_layer)


def split_process_recombine_model(input_dim, dense_units, hidden_units_1, hidden_units_2):
    """Seed 000, example 2."""
    input_layer = Input(shape=(input_dim,))
    dense_layer = Dense(dense_units)(input_layer)
    split_size = dense_units // 2
    split_layer_1, split_layer_2 = Lambda(lambda x: tf.split(x, [split_size, dense_units - split_size], axis=1))(
        dense_layer
    )
    processed_layer_1 = Dense(hidden_units_1, activation="relu")(split_layer_1)
    processed_layer_2 = Dense(hidden_units_2, activation="relu")(split_layer_2)
    recombined_layer = concatenate([processed_layer_1, processed_layer_2])
    output_layer = Dense(1)(recombined_layer)
    return keras.Model(inputs=input_layer, outputs=output_layer)


def two_inputs_model():
    """Seed 003, example 1."""
    input1 = Input(shape=(10,))
    input2 = Input(shape=(5,))
    dense1 = Dense(64, activation="relu")(input1)
    dense2 = Dense(32, activation="relu")(input2)
    merged = concatenate([dense1, dense2])
    output = Dense(1, activation="sigmoid")(merged)
    return keras.Model(inputs=[input1, input2], outputs=output)


def added_model():
    """Seed 003, example 2."""
    input_tensor = Input(shape=(10,))
    dense1 = Dense(64, activation="relu")(input_tensor)
    dense2 = Dense(64, activation="relu")(input_tensor)
    merged = add([dense1, dense2])
    output = Dense(1, activation="sigmoid")(merged)
    return keras.Model(inputs=input_tensor, outputs=output)


def dynamic_split_recombine_model(input_dim, dense_units):
    """Seed 000, example 3."""
    input_layer = Input(shape=(input_dim,))
    dense_layer = Dense(dense_units)(input_layer)
    split_point = dense_units // 2

    def dynamic_split(x):
        return tf.split(x, [split_point, dense_units - split_point], axis=1)

    split_layer_1, split_layer_2 = Lambda(dynamic_split)(dense_layer)
    recombined_layer = concatenate([split_layer_1, split_layer_2])
    output_layer = Dense(1)(recombined_layer)
    return keras.Model(inputs=input_layer, outputs=output_layer)


def custom_merge_model():
    """Seed 003, example 3."""
    input1 = Input(shape=(10,))
    input2 = Input(shape=(5,))
    dense1 = Dense(64, activation="relu")(input1)
    dense2 = Dense(32, activation="relu")(input2)

    def custom_merge(tensors):
        x, y = tensors
        return tf.concat([x, y * 2], axis=-1)

    merged = Lambda(custom_merge)([dense1, dense2])
    output = Dense(1, activation="sigmoid")(merged)
    return keras.Model(inputs=[input1, input2], outputs=output)


PROGRAMS = {
    "000 example 1": (
        lambda: split_recombine_model(10, 8),
        lambda: fs.SplitDense(Dense(8), [None, None], head=Dense(1)),
        [10],
    ),
    "000 example 2": (
        lambda: split_process_recombine_model(10, 8, 4, 6),
        lambda: fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6, activation="relu")], head=Dense(1)),
        [10],
    ),
    "003 example 1": (
        two_inputs_model,
        lambda: fs.MergeDense(
            [Dense(64, activation="relu"), Dense(32, activation="relu")], head=Dense(1, activation="sigmoid")
        ),
        [10, 5],
    ),
    "003 example 2": (
        added_model,
        lambda: fs.MergeDense(
            [Dense(64, activation="relu"), Dense(64, activation="relu")],
            merge="add",
            head=Dense(1, activation="sigmoid"),
        ),
        [10],
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_and_ours_are_equal(name, backend, rng):
    theirs, ours, widths = PROGRAMS[name]
    model, layer = theirs(), ours()
    x = [rng.normal(size=(33, w)).astype("float32") for w in widths]
    x = x if len(x) > 1 else x[0]
    layer.build([(None, w) for w in widths] if len(widths) > 1 else (None, widths[0]))
    layer.set_weights(model.get_weights())
    with fs.use_backend(backend):
        np.testing.assert_allclose(layer(x), model(x), rtol=1e-5, atol=1e-6)
        gradients = []
        for f, weights in ((layer, layer.weights), (model, model.weights)):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(f(x) ** 2)
            gradients.append(tape.gradient(loss, [w.value for w in weights]))
    for ours_gradient, theirs_gradient in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours_gradient, theirs_gradient, rtol=1e-4, atol=1e-4)


def test_example_1_lowers_to_no_split_at_all():
    layer = fs.SplitDense(Dense(8), [None, None], head=Dense(1))
    layer.build((None, 10))
    assert len(layer.computation().plan().steps) == 2
