"""Run by the interpreter of TensorFlow's environment: saves models, and what TensorFlow answers on a few rows.

python tensorflow_models.py FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as v1
from keras import layers

FOLDER = Path(sys.argv[1])
RANDOM = np.random.default_rng(3)
ROWS = 7


def seeded(model: keras.Model) -> keras.Model:
    for weight in model.weights:
        rows = RANDOM.normal(size=weight.shape) * 0.4
        weight.assign(np.abs(rows) + 0.5 if "variance" in weight.path else rows)
    return model


def keep(name: str, inputs: dict[str, np.ndarray], outputs: dict[str, object]) -> None:
    """Beside the model: arrays that no conversion has seen, and the answers."""
    answers = {f"out_{key}": np.asarray(value) for key, value in outputs.items()}
    np.savez(FOLDER / f"{name}.expected.npz", **{f"in_{key}": rows for key, rows in inputs.items()}, **answers)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def keras_model(name: str, model: keras.Model, rows: np.ndarray) -> None:
    seeded(model).export(FOLDER / name, verbose=False)
    loaded = tf.saved_model.load(FOLDER / name).signatures["serving_default"]
    sent = model.inputs[0].name
    keep(name, {sent: rows}, loaded(**{sent: tf.constant(rows)}))


def convolutions(fixed: bool = False) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), batch_size=1 if fixed else None, name="image"),
            layers.Conv2D(6, 3),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax", name="scores"),
        ]
    )


def recurrent() -> keras.Model:
    words = keras.Input((None,), dtype="int32", name="words")
    seen = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(layers.Embedding(30, 6)(words))
    return keras.Model(words, layers.Dense(2)(layers.GRU(4)(seen)))


def attention() -> keras.Model:
    tokens = keras.Input((6, 8), name="tokens")
    seen = layers.LayerNormalization()(tokens + layers.MultiHeadAttention(2, 4)(tokens, tokens))
    return keras.Model(tokens, layers.Dense(2)(seen))


class Several(tf.Module):
    def __init__(self) -> None:
        self.weight = tf.Variable(normal(4, 3))

    @tf.function(
        input_signature=[tf.TensorSpec([None, 4], tf.float32, "left"), tf.TensorSpec([None, 3], tf.float32, "right")]
    )
    def __call__(self, left: tf.Tensor, right: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"total": left @ self.weight + right, "largest": tf.argmax(right, axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "left")])
    def other(self, left: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(left @ self.weight)


class Loop(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x"), tf.TensorSpec([], tf.int32, "times")])
    def __call__(self, x: tf.Tensor, times: tf.Tensor) -> dict[str, tf.Tensor]:
        for _ in tf.range(times):
            x = tf.tanh(x * 1.5)
        return {"y": x}


class Words(tf.Module):
    """Splits text, which has no form in ONNX."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def __call__(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"plain": tf.strings.regex_replace(text, "[.,]", "")}


def modules() -> None:
    several = Several()
    tf.saved_model.save(
        several, FOLDER / "several", signatures={"serving_default": several.__call__, "other": several.other}
    )
    left, right = normal(ROWS, 4), normal(ROWS, 3)
    keep("several", {"left": left, "right": right}, several(left, right))
    tf.saved_model.save(several, FOLDER / "unnamed", signatures={"one": several.__call__, "other": several.other})
    loop = Loop()
    tf.saved_model.save(loop, FOLDER / "loop", signatures={"serving_default": loop.__call__})
    x, times = normal(ROWS, 3), np.array(4, np.int32)
    keep("loop", {"times": times, "x": x}, loop(x, times))
    words = Words()
    tf.saved_model.save(words, FOLDER / "text", signatures={"serving_default": words.__call__})


def frozen() -> None:
    graph = v1.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 5], name="input")
        keep_rate = v1.placeholder_with_default(1.0, [], name="keep")
        scores = tf.nn.softmax(tf.matmul(x, tf.constant(normal(5, 3))) * keep_rate, name="scores")
        tf.argmax(scores, 1, name="label")
    (FOLDER / "frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
    rows = normal(ROWS, 5)
    with v1.Session(graph=graph) as session:
        found = session.run(["scores:0", "label:0"], {"input:0": rows})
    keep("frozen", {"input": rows}, dict(zip(["scores", "label"], found, strict=True)))
    graph = v1.Graph()
    with graph.as_default():
        tf.nn.relu(v1.placeholder(tf.float32, None, name="anything"), name="out")
    (FOLDER / "shapeless.pb").write_bytes(graph.as_graph_def().SerializeToString())
    graph = v1.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        y = tf.matmul(x, v1.get_variable("w", [3, 2], use_resource=False), name="out")
        session.run(v1.global_variables_initializer())
        (FOLDER / "variables.pb").write_bytes(graph.as_graph_def().SerializeToString())
        v1.saved_model.simple_save(session, str(FOLDER / "old"), {"x": x}, {"y": y})
        rows = normal(ROWS, 3)
        keep("old", {"x": rows}, {"y": session.run(y, {x: rows})})


def residual() -> keras.Model:
    image = keras.Input((16, 16, 3), name="image")
    seen = layers.Conv2D(8, 3, padding="same")(image)
    for _ in range(3):
        inner = layers.Conv2D(8, 3, padding="same", activation="relu")(seen)
        seen = layers.ReLU()(layers.Add()([seen, layers.Conv2D(8, 3, padding="same")(inner)]))
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(seen)))


def lite() -> None:
    def samples() -> object:
        for _ in range(20):
            yield [normal(1, 16, 16, 3)]

    for name in ("float", "weights", "half", "int8", "int8-all"):
        converter = tf.lite.TFLiteConverter.from_keras_model(seeded(residual()))
        if name != "float":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "half":
            converter.target_spec.supported_types = [tf.float16]
        if name.startswith("int8"):
            converter.representative_dataset = samples
        if name == "int8-all":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        (FOLDER / f"{name}.tflite").write_bytes(converter.convert())
    fixed = tf.lite.TFLiteConverter.from_keras_model(seeded(convolutions(fixed=True)))
    (FOLDER / "one-row.tflite").write_bytes(fixed.convert())
    flex = tf.function(lambda x: tf.strings.length(tf.strings.as_string(x)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([flex.get_concrete_function(tf.TensorSpec([3]))])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    (FOLDER / "flex.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    keras_model("convolutions", convolutions(), normal(ROWS, 12, 12, 3))
    keras_model("recurrent", recurrent(), RANDOM.integers(0, 30, (ROWS, 9)).astype(np.int32))
    keras_model("attention", attention(), normal(ROWS, 6, 8))
    modules()
    frozen()
    lite()
