"""The smallest files that are what they say: models of other frameworks, and files that are no models."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name in names:
            zipped.writestr(name, "pt2" if name.endswith("archive_format") else "{}")
    return buffer.getvalue()


def field(number: int, payload: bytes) -> bytes:
    """A protobuf field of bytes."""
    tag = number << 3 | 2
    return varint(tag) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


_MXNET = {"nodes": [{"op": "null", "name": "data", "inputs": []}], "arg_nodes": [0], "heads": [[0, 0, 0]]}
_TFJS = {"format": "layers-model", "generatedBy": "keras v2", "modelTopology": {}, "weightsManifest": []}
_SPARK = {"class": "org.apache.spark.ml.PipelineModel", "timestamp": 1, "sparkVersion": "3.5.0", "uid": "p"}
_PACKAGE = {"fileFormatVersion": "1.0.0", "itemInfoEntries": {}, "rootModelIdentifier": "A"}
_LAYERS = b'name: "net"\nlayer {\n  name: "fc"\n  type: "InnerProduct"\n  bottom: "data"\n  top: "fc"\n}\n'
_ONNX_TEXT = b'<\n   ir_version: 8,\n   opset_import: ["" : 17]\n>\nagraph (float[N] x) => (float[N] y) {\n}\n'

# name: (file name, content, words of the sentence, its verdict)
MODELS: dict[str, tuple[str, bytes, str, str]] = {
    "GGUF": ("m.gguf", b"GGUF\x03\0\0\0" + b"\0" * 16, "GGUF language model", "not supported yet"),
    "GGML": ("m.bin", b"lmgg" + b"\0" * 32, "GGML language model", "not supported yet"),
    "LiteRT-LM": ("m.litertlm", b"LITERTLM" + b"\0" * 32, "LiteRT-LM", "not supported yet"),
    "TensorRT": ("m.plan", b"ftrt\0\0\0\0" + b"\0" * 32, "TensorRT engine", "can not be turned into ONNX"),
    "old TensorRT": ("m.engine", b"ptrt\0\0\0\0" + b"\0" * 32, "TensorRT engine", "can not be turned into ONNX"),
    "RKNN": ("m.rknn", b"RKNN\0\0\0\0" + b"\0" * 32, "Rockchip", "can not be turned into ONNX"),
    "kmodel": ("m.kmodel", b"LDMK" + b"\0" * 32, "kmodel", "can not be turned into ONNX"),
    "Hailo": ("m.hef", b"\x01HEF" + b"\0" * 32, "Hailo", "can not be turned into ONNX"),
    "ExecuTorch": ("m.pte", b"\x1c\0\0\0ET12" + b"\0" * 32, "ExecuTorch", "not supported yet"),
    "MindSpore Lite": ("m.ms", b"\x1c\0\0\0MSL2" + b"\0" * 32, "MindSpore", "can not be turned into ONNX"),
    "Circle": ("m.circle", b"\x1c\0\0\0CIR0" + b"\0" * 32, "Circle", "not supported yet"),
    "MLIR": ("m.mlirbc", b"ML\xefR" + b"\0" * 32, "MLIR bytecode", "not supported yet"),
    "MXNet symbol": ("m-symbol.json", json.dumps(_MXNET).encode(), "MXNet symbol", "not supported yet"),
    "MXNet params": ("m-0000.params", struct.pack("<QQ", 0x112, 0), "MXNet weights", "not supported yet"),
    "Core ML": ("m.mlmodel", b"\x08\x04" + field(2, b"\x0a\0") + field(500, b"\x0a\0"), "Core ML", "not supported yet"),
    "Core ML program": ("m.mlmodel", b"\x08\x07" + field(2, b"") + field(502, b"\x08\x01"), "Core ML", "not supported"),
    "Core ML package": ("Manifest.json", json.dumps(_PACKAGE).encode(), "Core ML", "not supported yet"),
    "Core ML compiled": ("model.mil", b"program(1.0)\n[buildInfo = dict<string>()]", "Core ML", "not supported yet"),
    "OpenVINO": (
        "m.xml",
        b'<?xml version="1.0"?>\n<net name="m" version="11">\n<layers/>',
        "OpenVINO",
        "supported yet",
    ),
    "Caffe": ("m.caffemodel", field(1, b"net") + field(100, b"\x0a\x02fc"), "Caffe model", "not supported yet"),
    "Caffe text": ("deploy.prototxt", _LAYERS, "Caffe network", "not supported yet"),
    "NCNN": ("m.param", b"7767517\n2 2\nInput data 0 1 data\n", "NCNN", "not supported yet"),
    "NCNN binary": ("m.param.bin", struct.pack("<iii", 7767517, 2, 2), "NCNN", "not supported yet"),
    "Darknet": (
        "m.cfg",
        b"# yolo\n[net]\nbatch=1\nwidth=416\n\n[convolutional]\nfilters=8\n",
        "Darknet",
        "supported yet",
    ),
    "Darknet weights": (
        "m.weights",
        struct.pack("<iiiQ", 0, 2, 5, 32013312) + struct.pack("<64f", *(0.1 + n / 7 for n in range(64))),
        "Darknet weights",
        "not supported yet",
    ),
    "PMML": ("m.pmml", b'<?xml version="1.0"?>\n<PMML version="4.4"><Header/></PMML>', "PMML", "not supported yet"),
    "R": ("m.rds", gzip.compress(b"X\n\0\0\0\x03\0\x04\x02\0\0\x03\x05\0", mtime=0), "data of R", "not supported yet"),
    "R workspace": ("m.RData", b"RDX3\nX\n\0\0\0\x03\0\x04", "data of R", "not supported yet"),
    "MATLAB": ("m.mat", b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + b" " * 90, "MATLAB", "not supported yet"),
    "Weka": ("m.model", b"\xac\xed\0\x05sr\0\x1fweka.classifiers.trees.J48", "Weka", "not supported yet"),
    "H2O POJO": ("M.java", b"/* h2o */\nimport hex.genmodel.GenModel;\npublic class M", "H2O POJO", "supported yet"),
    "H2O MOJO": ("m.zip", archive("model.ini", "domains/d000.txt", "trees/t00_000.bin"), "H2O MOJO", "supported yet"),
    "Qualcomm": ("m.dlc", archive("model", "model.params", "dlc.metadata"), "Qualcomm", "can not be turned into ONNX"),
    "Deeplearning4j": ("m.zip", archive("configuration.json", "coefficients.bin"), "Deeplearning4j", "supported yet"),
    "ML.NET": ("m.zip", archive("TrainingInfo/Version.txt", "TransformerChain/Model.key"), "ML.NET", "supported yet"),
    "Core ML zipped": ("m.zip", archive("m/Manifest.json", "m/Data/x.mlmodel"), "Core ML", "not supported yet"),
    "Spark ML": ("part-00000", json.dumps(_SPARK).encode(), "Spark ML", "not supported yet"),
    "LightGBM dump": (
        "m.json",
        b'{"name":"tree","version":"v4","num_tree_per_iteration":1,"tree_info":[]}',
        "LightGBM",
        "",
    ),
    "CatBoost JSON of many features": (
        "m.json",
        b'{\n  "features_info":\n    {"float_features":[{"borders":[' + b"0.5," * 2000 + b'1]}]},"model_info":{}}',
        "CatBoost model as",
        "",
    ),
    "CatBoost JSON with categories": ("m.json", b'{"ctr_data":{"a":{}},"features_info":{}}', "CatBoost model as", ""),
    "CatBoost JSON": ("m.json", b'{"features_info":{},"model_info":{},"oblivious_trees":[]}', "CatBoost model as", ""),
    "XGBoost text": (
        "m.txt",
        b"booster[0]:\n0:[f0<0.5] yes=1,no=2,missing=1\n",
        "text dump of XGBoost",
        "supported yet",
    ),
    "XGBoost dump": (
        "m.json",
        b'[\n  { "nodeid": 0, "depth": 0, "split": "f0"',
        "JSON dump of XGBoost",
        "supported yet",
    ),
    "XGBoost binary": ("m.model", b"binf\0\0\0\x3f" + b"\0" * 32, "old binary format", "not supported yet"),
    "fastText": ("m.bin", struct.pack("<ii", 793712314, 12) + b"\0" * 32, "fastText", "not supported yet"),
    "TensorFlow.js": ("model.json", json.dumps(_TFJS).encode(), "TensorFlow.js", "not supported yet"),
    "Orbax": ("_METADATA", b'{"tree_metadata": {}, "use_ocdbt": true}', "Orbax", "not supported yet"),
    "Flax": ("m.msgpack", b"\x81\xa6params\x81\xa5dense\x81\xa6kernel\xc7\x10\x01", "Flax", "not supported yet"),
    "ONNX text": ("m.onnxtxt", _ONNX_TEXT, "ONNX model as text", "not supported yet"),
}

_NOISE = bytes(range(250, 130, -1)) * 4
FOLDERS: dict[str, tuple[dict[str, bytes], str]] = {
    "Core ML package": (
        {
            "Manifest.json": MODELS["Core ML package"][1],
            "Data/com.apple.CoreML/model.mlmodel": MODELS["Core ML program"][1],
            "Data/com.apple.CoreML/weights/weight.bin": _NOISE,
        },
        "Core ML",
    ),
    "Spark ML": (
        {
            "metadata/_SUCCESS": b"",
            "metadata/part-00000": MODELS["Spark ML"][1],
            "stages/0_tree/data/part-00000.snappy.parquet": b"PAR1" + _NOISE,
        },
        "Spark ML",
    ),
    "Orbax": (
        {
            "_CHECKPOINT_METADATA": b'{"item_handlers": null, "metrics": {}}',
            "default/_METADATA": MODELS["Orbax"][1],
            "default/d/0123456789abcdef": _NOISE,
        },
        "Orbax",
    ),
    "TensorFlow.js": (
        {"model.json": MODELS["TensorFlow.js"][1], "group1-shard1of1.bin": _NOISE},
        "TensorFlow.js",
    ),
    "OpenVINO": ({"m.bin": _NOISE, "m.xml": MODELS["OpenVINO"][1]}, "OpenVINO"),
    "MXNet": ({"m-0000.params": MODELS["MXNet params"][1], "m-symbol.json": MODELS["MXNet symbol"][1]}, "MXNet"),
    "NCNN": ({"m.bin": _NOISE, "m.param": MODELS["NCNN"][1]}, "NCNN"),
    "Darknet": ({"coco.names": b"cat\ndog\n", "m.cfg": MODELS["Darknet"][1], "m.weights": _NOISE}, "Darknet"),
}

_ICON = b"\0\0\0\x18ftypmp42\0\0\0\0"
OTHERS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("m.onnx", b"", "empty"),
    "Git LFS": ("m.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
    "web page": ("m.onnx", b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>", "web page"),
    "NumPy": ("m.npy", b"\x93NUMPY\x01\0v\0{'descr': '<f4'}", "NumPy array"),
    "CSV": ("m.csv", b"age,town,y\n20,Ulm,1\n30,Bonn,0\n", "table of text"),
    "numbers": ("m.dat", b"1.5 2.5 3\n4 5 6\n7 8 9\n", "table of text"),
    "Parquet": ("m.parquet", b"PAR1\x15\x04\x15\x20" + b"\0" * 32 + b"PAR1", "table of data"),
    "SQLite": ("m.db", b"SQLite format 3\0" + b"\0" * 84, "SQLite"),
    "PDF": ("m.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
    "PNG": ("m.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "picture"),
    "JPEG": ("m.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0", "picture"),
    "BMP": ("m.bmp", b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0", "picture"),
    "WAV": ("m.wav", b"RIFF\x24\0\0\0WAVEfmt ", "sound"),
    "MP4": ("m.mp4", _ICON, "film"),
    "ELF": ("m.so", b"\x7fELF\x02\x01\x01\0" + b"\0" * 64, "program"),
    "EXE": ("m.exe", b"MZ\x90\0" + b"\0" * 80, "program"),
    "Word": ("m.docx", archive("[Content_Types].xml", "word/document.xml"), "Office document"),
    "old Word": ("m.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 64, "Office document"),
    "JAR": ("m.jar", archive("META-INF/MANIFEST.MF", "A.class"), "Java"),
    "Java object": ("m.ser", b"\xac\xed\0\x05sr\0\x11java.util.HashMap", "Java object"),
    "notebook": ("m.ipynb", b'{"cells": [{"cell_type": "code", "source": []}], "nbformat": 4}', "notebook"),
    "JSON": ("config.json", b'{"hidden_size": 768}', "JSON"),
    "XML": ("m.xml", b'<?xml version="1.0"?>\n<note/>', "XML"),
    "Python": ("train.py", b"import numpy as np\n\ndef f(x):\n    return x\n", "Python source code"),
    "script": ("run.sh", b"#!/bin/sh\necho hello\n", "script"),
    "text": ("readme.md", "# Model\n\nIt tells cats from dogs – mostly.\n".encode(), "text file"),
    "plain zip": ("m.zip", archive("notes.txt"), "zip archive"),
}


def sparse(path: Path, start: bytes, size: int, end: bytes = b"") -> None:
    """A file of `size` bytes that begins and ends so, and takes no room."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
        file.seek(size - len(end))
        file.write(end)


_GIANT = 1 << 30


# First bytes, and last ones, of files of 1 GB: each begins as something that somebody looks into.
LARGE: dict[str, tuple[bytes, bytes]] = {
    "zeros": (b"", b""),
    "noise": (bytes(range(255, 0, -1)) * 20, b""),
    "ONNX": (b"\x08\x08\x42\x04\x0a\0\x10\x11\x3a" + varint(_GIANT - 14), b""),
    "ONNX fields without end": ((b"\x08\x08\x12\0" + b"\x72\0" * 40_000), b""),
    "protobuf": (b"\x0a\x03net" + b"\x12" + varint(_GIANT - 11), b""),
    "zip": (b"PK\x03\x04" + b"\0" * 26, b"PK\x05\x06" + b"\0" * 18),
    "zip with a huge directory": (
        b"PK\x03\x04" + b"\0" * 26,
        b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 900_000_000, 0, 0),
    ),
    "pickle": (b"\x80\x04\x95\xff\xff\xff\x3f\0\0\0\0", b"."),
    "pickle of opcodes": (b"\x80\x02" + b"(" * 5000, b"."),
    "gzip": (gzip.compress(b"\0" * 100_000, mtime=0), b""),
    "zlib": (b"\x78\x9c" + b"\0" * 100, b""),
    "tar": (b"name" + b"\0" * 508, b""),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 200, b""),
    "safetensors": (struct.pack("<Q", _GIANT - 8) + b'{"a":', b"}"),
    "JSON": (b'{"learner":{"attributes":{', b"}}}"),
    "JSON of other keys": (b'{"nodes":[', b"]}"),
    "UBJSON": (b"{L\0\0\0\0\0\0\0\x07learner{", b"}}"),
    "LightGBM": (b"tree\nversion=v4\nnum_class=1\n", b""),
    "CatBoost": (b"CBM1\xf8\xff\xff\x3f", b""),
    "text": (b"text\n" * 2000, b""),
    "flatbuffer": (b"\x1c\0\0\0TFL3" + b"\xff" * 200, b""),
    "ORT": (b"\x1c\0\0\0ORTM" + b"\xff" * 200, b""),
    "XML": (b'<?xml version="1.0"?>' + b" " * 5000, b""),
}
