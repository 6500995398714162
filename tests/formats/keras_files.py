"""Keras files for tests, made by code: ordinary models, files as Keras 2 wrote them, and hostile ones."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"
import h5py
import keras
import numpy as np
from keras import layers

Model = Any


def _seeded(model: Model) -> Model:
    """The model with weights that no layer has by itself, variances above zero."""
    generator = np.random.default_rng(4)
    for weight in model.weights:
        rows = generator.normal(size=weight.shape) * 0.4
        weight.assign(np.abs(rows) + 0.5 if "variance" in weight.path else rows)
    return model


def dense() -> Model:
    return keras.Sequential([keras.Input((8,), name="features"), layers.Dense(4, "relu"), layers.Dense(3, "softmax")])


def convolutions() -> Model:
    return keras.Sequential(
        [
            keras.Input((None, None, 3), name="image"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(6, 3, padding="same", strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.SeparableConv2D(8, 3),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(3, name="scores"),
        ]
    )


def recurrent() -> Model:
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="words"),
            layers.Embedding(30, 6),
            layers.LSTM(5, return_sequences=True, go_backwards=True),
            layers.Bidirectional(layers.GRU(4)),
            layers.Dense(2),
        ]
    )


def attention() -> Model:
    tokens = keras.Input((None, 8), name="tokens")
    seen = layers.LayerNormalization()(layers.Add()([tokens, layers.MultiHeadAttention(2, 4)(tokens, tokens)]))
    return keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(seen)))


def several() -> Model:
    left, right = keras.Input((4,)), keras.Input((6,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, "gelu"), layers.BatchNormalization()])
    both = layers.Concatenate()([inner(left), layers.UnitNormalization()(right)])
    answers = {"kind": layers.Dense(2)(both), "size": keras.ops.exp(layers.Dense(1)(both)) * 2.0}
    return keras.Model({"left": left, "right": right}, answers)


def prepared() -> Model:
    table = layers.Normalization()
    table.adapt(np.random.default_rng(0).normal(3, 2, (50, 4)))
    return keras.Sequential(
        [keras.Input((4,)), table, layers.Discretization(bin_boundaries=[-1.0, 0.0, 1.0]), layers.Embedding(4, 2)]
    )


def volume() -> Model:
    return keras.Sequential([keras.Input((6, 6, 6, 2)), layers.Conv3D(3, 3), layers.MaxPooling3D(2), layers.Flatten()])


ORDINARY: dict[str, Callable[[], Model]] = {
    "dense, softmax": dense,
    "convolutions, batch normalisation, pooling, free image size": convolutions,
    "embedding, LSTM, bidirectional GRU, free length": recurrent,
    "multi-head attention, layer normalisation, free length": attention,
    "several inputs and outputs, nested model, operations": several,
    "normalisation, discretisation": prepared,
    "three-dimensional convolution": volume,
}


def make(name: str) -> Model:
    """An ordinary model with weights of its own."""
    return ORDINARY[name]() if name == "normalisation, discretisation" else _seeded(ORDINARY[name]())


def mixed() -> Model:
    """Weights in single precision, computed with in half, as for training on a GPU."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return _seeded(keras.Sequential([keras.Input((8,)), layers.Dense(64, "tanh"), layers.Dense(3)]))
    finally:
        keras.config.set_dtype_policy("float32")


def fitted() -> Model:
    """What a sequential model without an input layer is after training: its only batch size is that of the first."""
    model = keras.Sequential([layers.Dense(4, "relu"), layers.Dense(2)])
    model.compile("sgd", lambda wanted, given: keras.ops.mean((wanted - given) ** 2))
    model.fit(np.ones((64, 5), np.float32), np.ones((64, 2), np.float32), batch_size=32, verbose=0)
    return model


def masked() -> Model:
    return _seeded(
        keras.Sequential(
            [keras.Input((None,), dtype="int32", name="words"), layers.Embedding(9, 4, mask_zero=True), layers.LSTM(3)]
        )
    )


def with_lambda(path: Path, mark: Path, deep: bool = False) -> Model:
    """Save a model whose Lambda layer writes a file when it is built again."""
    name = str(mark)
    code = layers.Lambda(lambda rows: (open(name, "w").close(), rows * 2.0)[1], output_shape=(4,))  # noqa: PTH123
    inner = keras.Sequential([keras.Input((3, 4)), layers.TimeDistributed(code)]) if deep else code
    model = keras.Sequential([keras.Input((3, 4) if deep else (4,)), inner])
    model.save(path)
    mark.unlink(missing_ok=True)
    return model


CUSTOM = """
import keras

@keras.saving.register_keras_serializable(package="mine")
class Doubled(keras.layers.Dense):
    def call(self, rows):
        return super().call(rows) * 2.0
"""


def with_custom_layer(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Save a model with a layer that only the code in CUSTOM defines. Returns what it answers."""
    found: dict[str, Any] = {}
    exec(CUSTOM, found)
    model = _seeded(keras.Sequential([keras.Input((4,)), found["Doubled"](3)]))
    model.save(path)
    keras.saving.get_custom_objects().clear()
    return lambda array: keras.ops.convert_to_numpy(model(array, training=False))


def change_config(path: Path, change: Callable[[Any], None]) -> None:
    """Rewrite the configuration inside a `.keras` or `.h5` file."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            change(config)
            file.attrs["model_config"] = json.dumps(config)
        return
    members = read_members(path)
    config = json.loads(members["config.json"])
    change(config)
    write_members(path, members | {"config.json": json.dumps(config).encode()})


def read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


# What tf_keras 2.21 wrote for such layers, shortened to what has no default.
_GLOROT = {
    "module": "keras.initializers",
    "class_name": "GlorotUniform",
    "config": {"seed": None},
    "registered_name": None,
}


def _layer(kind: str, name: str, calls: list[Any], **config: Any) -> dict[str, Any]:
    whole = {"name": name, "trainable": True, "dtype": "float32", **config}
    return {"class_name": kind, "config": whole, "name": name, "inbound_nodes": calls}


def keras2(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Save, in the layout of Keras 2, what Keras 3 reads wrongly or not at all. Returns what Keras 2 would answer."""
    rows = keras.Input((6, 4), name="rows")
    half = keras.layers.Activation(lambda x: keras.ops.clip(0.2 * x + 0.5, 0, 1))
    seen = layers.MultiHeadAttention(2, 3, name="attend")(rows, value=rows)
    first, *states = layers.LSTM(3, return_sequences=True, return_state=True, name="first")(seen)
    last = layers.LSTM(3, recurrent_activation=half, name="last")(first, initial_state=states)
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="inside")], name="inner")
    model = _seeded(keras.Model(rows, layers.Dense(2, name="out")(inner(last))))
    model.save(path)
    attention = {"query_shape": [None, 6, 4], "key_shape": [None, 6, 4], "value_shape": [None, 6, 4]}
    recurrent = {"units": 3, "time_major": False, "activation": "tanh", "kernel_initializer": _GLOROT}
    nested = {
        "name": "inner",
        "layers": [
            {
                "class_name": "InputLayer",
                "config": {"batch_input_shape": [None, 3], "dtype": "float32", "name": "deep"},
            },
            {"class_name": "Dense", "config": {"name": "inside", "batch_input_shape": [None, 3], "units": 4}},
        ],
    }
    config = {
        "name": "model",
        "trainable": True,
        "layers": [
            _layer("InputLayer", "rows", [], batch_input_shape=[None, 6, 4], sparse=False, ragged=False),
            _layer(
                "MultiHeadAttention",
                "attend",
                [[["rows", 0, 0, {"value": ["rows", 0, 0]}]]],
                num_heads=2,
                key_dim=3,
                **attention,
            ),
            _layer("LSTM", "first", [[["attend", 0, 0, {}]]], return_sequences=True, return_state=True, **recurrent),
            _layer(
                *("LSTM", "last", [[["first", 0, 0, {}], ["first", 0, 1, {}], ["first", 0, 2, {}]]]),
                recurrent_activation="hard_sigmoid",
                **recurrent,
            ),
            {"class_name": "Sequential", "config": nested, "name": "inner", "inbound_nodes": [[["last", 0, 0, {}]]]},
            _layer("Dense", "out", [[["inner", 1, 0, {}]]], units=2),
        ],
        "input_layers": [["rows", 0, 0]],
        "output_layers": [["out", 0, 0]],
    }
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        file.attrs["keras_version"] = "2.15.0"
    return lambda array: keras.ops.convert_to_numpy(model(array, training=False))


def teachable(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A depthwise network inside a sequential one, in the layout of Keras 2: arguments that are gone since."""
    image = keras.Input((12, 12, 3), name="image")
    seen = layers.DepthwiseConv2D(3, name="depth")(image)
    seen = layers.SeparableConv2D(4, 3, name="apart")(layers.BatchNormalization(name="norm")(seen))
    base = keras.Model(image, seen, name="base")
    model = _seeded(
        keras.Sequential([keras.Input((12, 12, 3)), base, layers.GlobalAveragePooling2D(), layers.Dense(2)])
    )
    model.save(path)

    def age(config: Any) -> None:
        inner = config["config"]["layers"][1]["config"]
        for layer in inner["layers"]:
            kind, own = layer["class_name"], layer["config"]
            own |= {"groups": 1} if "Conv" in kind else {"axis": [3]} if kind == "BatchNormalization" else {}
            own |= {"kernel_initializer": _GLOROT, "kernel_constraint": None} if kind == "SeparableConv2D" else {}
        inner["input_layers"], inner["output_layers"] = [["image", 0, 0]], [["apart", 0, 0]]

    change_config(path, age)
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = "2.4.0"
    return lambda array: keras.ops.convert_to_numpy(model(array, training=False))


def _external_link(file: Any, group: Any, outside: Path) -> None:
    group["elsewhere"] = h5py.ExternalLink(str(outside), "/")


def _soft_link(file: Any, group: Any, outside: Path) -> None:
    group["elsewhere"] = h5py.SoftLink("/model_weights")


def _external_storage(file: Any, group: Any, outside: Path) -> None:
    outside.write_bytes(b"secret text of the user".ljust(64))
    group.create_dataset("kernel", (16,), "f4", external=[(str(outside), 0, 64)])


def _virtual(file: Any, group: Any, outside: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(outside), "x", (4,))
    group.create_virtual_dataset("kernel", layout)


def _inflated(file: Any, group: Any, outside: Path) -> None:
    group.create_dataset("kernel", (1 << 40,), "f4", chunks=(1 << 16,), compression="gzip")


HOSTILE_HDF5: dict[str, Callable[[Any, Any, Path], None]] = {
    "a link to another file": _external_link,
    "a link inside": _soft_link,
    "an array in another file": _external_storage,
    "an array of another file": _virtual,
    "four terabytes of nothing": _inflated,
}
