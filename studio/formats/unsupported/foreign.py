"""Models of other frameworks and runtimes, known by their content so as to say what to do instead.

Sources: the file formats' own documentation and schemas (Core ML Model.proto, caffe.proto, TensorFlow.js converter,
GGUF specification, PMML 4.4, H2O MOJO, Orbax checkpoints …) and the signatures that Netron lists.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studio.formats.sniff import Broken, fields

Verdict = Literal["yet", "never", "no model"]

ONNX_FIX = "Convert it to ONNX and drop the .onnx file."
_SOURCE_FIX = "Export the model to ONNX from the framework that it was trained in, and drop the .onnx file."
_SAVE_FIX = "Save the model itself in its library's own format, and drop that file."
_LANGUAGE_FIX = "Serve it with a runtime for language models such as llama.cpp, or export the original model to ONNX."


@dataclass(frozen=True)
class Known:
    """`title` completes "'x' is …"; `fix` says what to do instead.

    `verdict`: not supported yet; can never become ONNX (compiled, or without a graph); or no model at all.
    """

    title: str
    fix: str
    verdict: Verdict = "yet"


def foreign(path: Path, start: bytes) -> Known | None:
    """What model of another framework a file is. `start`: its first 4096 bytes, fewer where it is shorter."""
    for matches, known in _SIGNATURES:
        if matches(start):
            return known
    if start[:1] in (b"\x08", b"\x0a"):
        return _protobuf(path)
    return None


def foreign_archive(names: set[str]) -> Known | None:
    """What model of another framework a zip archive is, by the names in it."""
    if "model.ini" in names and any(name.startswith(("trees/", "experimental/", "domains/")) for name in names):
        return Known("an H2O MOJO", "H2O has no exporter to ONNX: train it again with XGBoost or scikit-learn.")
    if {"dlc.metadata", "model"} <= names or "model.params" in names:
        return Known("a Qualcomm DLC, compiled for a chip", _SOURCE_FIX, "never")
    if {"configuration.json", "coefficients.bin"} <= names:
        return Known("a Deeplearning4j model", _SOURCE_FIX)
    if any(name.endswith("TransformerChain/Model.key") or name == "TrainingInfo/Version.txt" for name in names):
        return Known("an ML.NET model", "In C#: mlContext.Model.ConvertToOnnx(model, data, stream).")
    if "Manifest.json" in names and any(name.endswith(".mlmodel") for name in names):
        return _CORE_ML
    return None


_CORE_ML = Known(
    "a Core ML model",
    "There is no converter from Core ML to ONNX that is kept up. " + _SOURCE_FIX,
)
_MXNET_FIX = "MXNet is retired, and its ONNX exporter needs MXNet itself: mx.onnx.export_model(symbol, params, …)."


def _json_with(*keys: bytes) -> Callable[[bytes], bool]:
    """Whether a text begins as a JSON table and has all of these keys near its beginning."""

    def matches(start: bytes) -> bool:
        return start.lstrip()[:1] == b"{" and all(b'"' + key + b'"' in start for key in keys)

    return matches


def _starts(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda start: start.startswith(magic)


def _at_four(*magic: bytes) -> Callable[[bytes], bool]:
    """FlatBuffers have their identifier after the first offset."""
    return lambda start: start[4:8] in magic


def _text(pattern: bytes) -> Callable[[bytes], bool]:
    found = re.compile(pattern, re.MULTILINE)
    return lambda start: b"\0" not in start and found.search(start) is not None


def _xml(tag: bytes) -> Callable[[bytes], bool]:
    found = re.compile(rb"<" + tag + rb"[\s>]")
    return lambda start: start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" and found.search(start) is not None


def _r_data(start: bytes) -> bool:
    """R's serialization, alone (.rds) or with names (.RData), plain or compressed with gzip."""
    plain = start
    if start[:2] == b"\x1f\x8b":
        try:
            plain = zlib.decompressobj(31).decompress(start, 64)
        except zlib.error:
            return False
    return plain.startswith((b"X\n\0\0\0", b"A\n2\n", b"A\n3\n", b"RDX2\n", b"RDX3\n", b"RDA2\n", b"RDA3\n"))


def _darknet_weights(start: bytes) -> bool:
    """Version 0.1 or 0.2, a revision below 100, images seen, then floats that are weights."""
    if len(start) < 40 or len(start) % 4:
        return False
    major, minor, revision = (int.from_bytes(start[at : at + 4], "little") for at in (0, 4, 8))
    return major == 0 and minor in (1, 2) and 0 < revision < 100 and start[20:40].count(0) < 12


def _flax(start: bytes) -> bool:
    """MessagePack of a table whose first key is one of Flax's."""
    if not start or not (0x81 <= start[0] <= 0x8F or start[:1] in (b"\xde", b"\xdf")):
        return False
    return re.match(rb"..?.?.?.?(params|step|opt_state|batch_stats|target|state)", start[:24], re.DOTALL) is not None


_SIGNATURES: tuple[tuple[Callable[[bytes], bool], Known], ...] = (
    # Language models
    (_starts(b"GGUF"), Known("a GGUF language model", _LANGUAGE_FIX)),
    (_starts(b"lmgg", b"fmgg", b"tjgg", b"algg"), Known("a GGML language model", _LANGUAGE_FIX)),
    (_starts(b"LITERTLM"), Known("a LiteRT-LM language model", _LANGUAGE_FIX)),
    # Compiled for one runtime or chip: no graph is left to convert
    (_starts(b"ptrt", b"ftrt"), Known("a TensorRT engine, compiled for one kind of GPU", _SOURCE_FIX, "never")),
    (_starts(b"RKNN", b"VPMN"), Known("an RKNN model, compiled for a Rockchip chip", _SOURCE_FIX, "never")),
    (lambda b: b[4:8] == b"RKNN", Known("an RKNN model, compiled for a Rockchip chip", _SOURCE_FIX, "never")),
    (_starts(b"LDMK"), Known("a K210/K230 model (kmodel), compiled for a chip", _SOURCE_FIX, "never")),
    (_starts(b"\x01HEF"), Known("a Hailo model, compiled for a chip", _SOURCE_FIX, "never")),
    (_at_four(b"ET12"), Known("an ExecuTorch program", "Export the PyTorch module with torch.export.save instead.")),
    (_at_four(b"MSL0", b"MSL1", b"MSL2"), Known("a MindSpore Lite model", _SOURCE_FIX, "never")),
    (_at_four(b"CIR0"), Known("a Circle model of ONE", "Drop the .tflite file that it was made of.")),
    (_starts(b"ML\xefR"), Known("MLIR bytecode (JAX or StableHLO)", _SOURCE_FIX)),
    # MXNet, Core ML, OpenVINO, Caffe, NCNN, Darknet
    (_json_with(b"nodes", b"op", b"inputs"), Known("an MXNet symbol file", _MXNET_FIX)),
    (_starts(b"\x12\x01\0\0\0\0\0\0"), Known("a file of MXNet weights", _MXNET_FIX)),
    (_json_with(b"itemInfoEntries", b"rootModelIdentifier"), _CORE_ML),
    (_text(rb"\Aprogram\(\d+\.\d+\)"), Known("a compiled Core ML model (.mlmodelc)", _SOURCE_FIX)),
    (
        _xml(rb"net\s[^>]*version=\"\d+\""),
        Known("an OpenVINO model (IR)", "OpenVINO has no exporter to ONNX: drop the model that the IR was made of."),
    ),
    (
        _text(rb"^\s*layers?\s*\{[^}]*\b(type|bottom|top)\s*:"),
        Known("a Caffe network (.prototxt)", "No converter for it is kept up. " + _SOURCE_FIX),
    ),
    (_text(rb"\A7767517\s*\n"), Known("an NCNN network", _SOURCE_FIX)),
    (_starts(b"\xdd\x85\x76\0"), Known("an NCNN network", _SOURCE_FIX)),
    (_text(rb"\A(\s*#.*\n|\s*\n)*\s*\[(net|network)\]"), Known("a Darknet configuration", _SOURCE_FIX)),
    (
        _darknet_weights,
        Known("a file of Darknet weights", "Export the network to ONNX, for example from its PyTorch port."),
    ),
    # Statistics and classical machine learning
    (
        _xml(rb"PMML"),
        Known("a PMML model", "Train it again in scikit-learn or a booster and drop that, or convert it to ONNX."),
    ),
    (_xml(rb"(pfa|PFA)"), Known("a PFA model", ONNX_FIX)),
    (
        _r_data,
        Known("data of R (.rds or .RData)", "Save a booster with its own xgb.save or lgb.save and drop that file."),
    ),
    (
        _starts(b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"),
        Known("a MATLAB file", "In MATLAB: exportONNXNetwork(net, 'model.onnx'); then drop model.onnx."),
    ),
    (
        lambda b: b[:4] == b"\xac\xed\0\x05" and b"weka." in b,
        Known("a Weka model (serialized Java)", "Train it again in scikit-learn or a booster, and drop that."),
    ),
    (_text(rb"^import (static )?hex\.genmodel"), Known("an H2O POJO (Java source)", "Train it again with XGBoost.")),
    (
        _json_with(b"class", b"sparkVersion"),
        Known("a Spark ML model", "In Python: onnxmltools.convert_sparkml(model, …); then drop the .onnx file."),
    ),
    (
        _json_with(b"tree_info", b"num_tree_per_iteration"),
        Known("a JSON dump of LightGBM", "In Python: booster.save_model('model.txt'); then drop model.txt."),
    ),
    (
        # Its keys are sorted, and the values of the first one may be long.
        _text(rb"\A\s*\{\s*\"(ctr_data|features_info)\"\s*:\s*\{"),
        Known("a CatBoost model as JSON", "In Python: model.save_model('model.cbm'); then drop model.cbm."),
    ),
    (_text(rb"\Abooster\[0\]:\n"), Known("a text dump of XGBoost, made for reading", _SAVE_FIX)),
    (_text(rb"\A\s*\[\s*\{\s*\"nodeid\":"), Known("a JSON dump of XGBoost, made for reading", _SAVE_FIX)),
    (
        _starts(b"binf"),
        Known("an XGBoost model in the old binary format", "In an older XGBoost: save_model('model.json'); drop that."),
    ),
    (_starts(b"\xba\x16\x4f\x2f"), Known("a fastText model", ONNX_FIX)),
    # Deep learning
    (
        _json_with(b"modelTopology"),
        Known("a TensorFlow.js model", "Drop the SavedModel or .keras file that it was made of."),
    ),
    (
        _json_with(b"tree_metadata"),
        Known("an Orbax checkpoint (JAX): weights without a graph", "In Python: jax2onnx, or jax2tf and a SavedModel."),
    ),
    (_json_with(b"item_handlers"), Known("an Orbax checkpoint (JAX): weights without a graph", ONNX_FIX)),
    (
        _flax,
        Known("weights of Flax (MessagePack), without a graph", "In Python: jax2onnx, or jax2tf and a SavedModel."),
    ),
    (
        _text(rb"\A<\s*ir_version:"),
        Known("an ONNX model as text", "In Python: onnx.save(onnx.parser.parse_model(text), 'model.onnx'); drop that."),
    ),
)


def _protobuf(path: Path) -> Known | None:
    """Core ML and Caffe by the numbers of their outer fields, of which a few are enough."""
    seen: set[int] = set()
    try:
        with path.open("rb") as file:
            for field in fields(file, 0, file.seek(0, 2), most=512):
                seen.add(field.number)
                if field.number >= 200 and field.wire == 2 and seen <= {1, 2, 10, 11, field.number}:
                    return _CORE_ML  # Model.proto: 1 version, 2 description, 10 updatable, 200 and above the kind
                if field.number == 100 and field.wire == 2:
                    return Known("a Caffe model (.caffemodel)", "No converter for it is kept up. " + _SOURCE_FIX)
    except (Broken, OSError):
        return None
    return None
