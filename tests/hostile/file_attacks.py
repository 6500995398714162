"""Archives that try to get out, and files whose sizes lie."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.formats.archives import Members, header, protected, tarred, zipped, zipped_link
from tests.formats.graphs import linear
from tests.hostile.place import ANY, REFUSED, VERSION, Attack, Place, drop, system_pickle

MODEL = linear().SerializeToString()


def packed(ending: str, pack: Callable[[Path, Place], object]) -> Callable[[Place], None]:
    """Drop an archive that a builder writes to a path."""

    def plant(place: Place) -> None:
        draft = place.inbox / f".{place.stem}-draft"
        pack(draft, place)
        place.file(ending, draft.read_bytes())
        draft.unlink()

    return plant


def zip_of(members: Members) -> Callable[[Place], None]:
    return packed(".zip", lambda path, _: zipped(path, members))


def tar_of(members: Members, *extra: tarfile.TarInfo) -> Callable[[Place], None]:
    return packed(".tar.gz", lambda path, _: tarred(path, members, extra=extra))


def swollen(path: Path, _: Place) -> Path:
    return zipped(path, {"model.onnx": b"\0" * (200 << 20)})


def boxes(depth: int) -> bytes:
    """A model in an archive in an archive …"""
    inner, name = MODEL, "model.onnx"
    for level in range(depth):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(name, inner)
        inner, name = buffer.getvalue(), f"box{level}.zip"
    return inner


def locked(path: Path, _: Place) -> Path:
    return protected(path, {"model.onnx": MODEL})


def lying_zip() -> bytes:
    """A member that says that it is 4 bytes long, and unpacks to 300 MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.onnx", b"\0" * (300 << 20))
    data = bytearray(buffer.getvalue())
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(mark)
        data[place + at : place + at + 4] = struct.pack("<I", 4)
    return bytes(data)


def pickle_then_zip(place: Place) -> bytes:
    """A pickle for who reads from the front, an archive for who reads from the end."""
    return system_pickle(place) + boxes(1)


def zip_with_wrong_names(place: Place) -> bytes:
    """The directory calls a member otherwise than the member itself."""
    data = boxes(1)
    at = data.index(b"model.onnx")
    return data[:at] + b"../evil.so" + data[at + 10 :]


PASSWORDS = "/etc/passwd"
MANIFEST = b'{"model": {"modelName": "m", "serializedFile": "../../secret.bin", "handler": "../../h.py"}}'

_ARCHIVES = (
    Attack("zip-slip", zip_of({"model.onnx": MODEL, "../../escaped.onnx": MODEL}), words="leads out", aims="S9"),
    Attack("zip-absolute", zip_of({"/tmp/escaped.onnx": MODEL}), words="leads out", slow=True, aims="S9"),
    Attack("zip-backslash", zip_of({"..\\escaped.onnx": MODEL}), words="leads out", slow=True, aims="S9"),
    Attack("zip-twice", zip_of([("model.onnx", MODEL), ("MODEL.onnx", b"x")]), words="would have the name", slow=True),
    Attack(
        "zip-link",
        packed(".zip", lambda path, place: zipped_link(path, "model.onnx", str(place.secret))),
        words="no file",
        aims="S9",
    ),
    Attack("zip-bomb", packed(".zip", swollen), words="times its size", aims="S9"),
    Attack("zip-lying", drop(".zip", lambda _: lying_zip()), slow=True, aims="S9 S23"),
    Attack("zip-nested", drop(".zip", boxes(6)), words="two deep", aims="S9"),
    Attack("zip-many", zip_of([(f"f{n}", b"") for n in range(30_000)]), words="too many", slow=True, aims="S9"),
    Attack("zip-password", packed(".zip", locked), words="password", slow=True),
    Attack("zip-cut", drop(".zip", boxes(1)[:-40]), slow=True),
    Attack("zip-two-names", drop(".zip", zip_with_wrong_names), ANY, slow=True, aims="S9"),
    Attack(
        "zip-two-models", zip_of({"a.onnx": MODEL, "b.onnx": MODEL + b"\x12\x01x"}), words="2 ONNX models", slow=True
    ),
    Attack("pickle-and-zip", drop(".zip", pickle_then_zip), REFUSED, aims="S8 S9"),
    Attack("tar-slip", tar_of({"../escaped.onnx": MODEL}), words="leads out", aims="S9"),
    Attack(
        "tar-links",
        tar_of({}, header("model.onnx", tarfile.SYMTYPE, PASSWORDS), header("w.bin", tarfile.LNKTYPE, PASSWORDS)),
        words="no file",
        slow=True,
        aims="S9",
    ),
    Attack(
        "tar-link-through",
        tar_of({"away/model.onnx": MODEL}, header("away", tarfile.SYMTYPE, "/tmp")),
        VERSION,
        slow=True,
        aims="S9",
    ),
    Attack(
        "tar-devices",
        tar_of({}, header("model.onnx", tarfile.CHRTYPE), header("x", tarfile.BLKTYPE), header("y", tarfile.FIFOTYPE)),
        words="no file",
        slow=True,
        aims="S9",
    ),
    Attack("tar-bomb", drop(".tar.gz", lambda _: gzip.compress(b"\0" * (200 << 20), 9)), slow=True, aims="S9"),
    Attack("mar-traversal", zip_of({"MAR-INF/MANIFEST.json": MANIFEST, "a.bin": b"x"}), slow=True, aims="S9"),
)


def triton(config: bytes) -> Callable[[Place], None]:
    def plant(place: Place) -> None:
        place.folder({"config.pbtxt": config, "1/model.onnx": MODEL})

    return plant


_TRITON = (
    Attack("triton-outside", triton(b'default_model_filename: "../../../outside/secret.bin"\n'), ANY, aims="S10"),
    Attack("triton-deep", triton(b"parameters { key: " * 20_000), REFUSED, slow=True, aims="S19"),
    Attack("triton-huge", triton(b"name: " + b'"a"' * 500_000), REFUSED, slow=True),
)


# -- sizes that lie


def safetensors(table: object, content: bytes = b"\0" * 64) -> bytes:
    text = json.dumps(table).encode() if not isinstance(table, bytes) else table
    return struct.pack("<Q", len(text)) + text + content


def tensor(start: int, stop: int, *shape: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}


_SAFETENSORS: dict[str, bytes] = {
    "header": struct.pack("<Q", 1 << 62) + b'{"w":' + b" " * 64,
    "beyond": safetensors({"w": tensor(0, 1 << 40, 1 << 38)}),
    "overlap": safetensors({"a": tensor(0, 16, 4), "b": tensor(8, 24, 4)}),
    "negative": safetensors({"w": tensor(-8, 8, 4)}),
    "shape": safetensors({"w": tensor(0, 64, 1 << 31, 1 << 31)}),
    "json": safetensors(b'{"w":' * 3000),
    "deep": safetensors(b'{"__metadata__":' + b"[" * 100_000 + b"}"),
}

LIGHTGBM = b"""tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=1
objective=regression
feature_names=a b
feature_infos=[0:1] [0:1]
tree_sizes=%d

Tree=0
num_leaves=2
num_cat=0
split_feature=%s
split_gain=1
threshold=0.5
decision_type=2
left_child=%s
right_child=-2
leaf_value=1 2
leaf_weight=1 1
leaf_count=1 1
internal_value=1
internal_weight=1
internal_count=2
is_linear=0
shrinkage=1


end of trees

feature_importances:
a=1

parameters:
[boosting: gbdt]

end of parameters

pandas_categorical:null
"""


def lightgbm(feature: bytes = b"0", left: bytes = b"-1", size: int = 0) -> bytes:
    text = LIGHTGBM % (0, feature, left)
    start = text.index(b"Tree=0")
    return LIGHTGBM % (size or text.index(b"end of trees") - start, feature, left)


def xgboost(**changes: object) -> bytes:
    tree = {
        "base_weights": [0.0, 1.0, 2.0],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": [0, 0, 0],
        "id": 0,
        "left_children": [1, -1, -1],
        "loss_changes": [1.0, 0.0, 0.0],
        "parents": [2147483647, 0, 0],
        "right_children": [2, -1, -1],
        "split_conditions": [0.5, 1.0, 2.0],
        "split_indices": [0, 0, 0],
        "split_type": [0, 0, 0],
        "sum_hessian": [2.0, 1.0, 1.0],
        "tree_param": {"num_deleted": "0", "num_feature": "2", "num_nodes": "3", "size_leaf_vector": "1"},
        **changes,
    }
    model = {"gbtree_model_param": {"num_parallel_tree": "1", "num_trees": "1"}, "tree_info": [0], "trees": [tree]}
    learner = {
        "attributes": {},
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": {"model": {**model, "iteration_indptr": [0, 1]}, "name": "gbtree"},
        "learner_model_param": {"base_score": "0", "num_class": "0", "num_feature": "2", "num_target": "1"},
        "objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    return json.dumps({"learner": learner, "version": [3, 2, 0]}).encode()


UBJ = b"{L\0\0\0\0\0\0\0\x07learner{"
_BOOSTERS = (
    Attack("lightgbm-honest", drop(".txt", lightgbm()), VERSION),
    Attack("lightgbm-child", drop(".txt", lightgbm(left=b"-900")), words="does not exist", aims="S23"),
    Attack("lightgbm-circle", drop(".txt", lightgbm(left=b"0")), words="circle", aims="S4", slow=True),
    Attack("lightgbm-feature", drop(".txt", lightgbm(feature=b"9999999")), words="does not exist", slow=True),
    Attack("lightgbm-sizes", drop(".txt", lightgbm(size=10**9)), words="do not fit", slow=True, aims="S23"),
    Attack("lightgbm-head", drop(".txt", b"tree\nversion=v4\n"), words="LightGBM", slow=True),
    Attack("xgboost-honest", drop(".json", xgboost()), VERSION, slow=True),
    Attack("xgboost-child", drop(".json", xgboost(left_children=[10**9, -1, -1])), words="does not exist", aims="S23"),
    Attack("xgboost-circle", drop(".json", xgboost(left_children=[0, -1, -1])), words="circle", slow=True),
    Attack("xgboost-feature", drop(".json", xgboost(split_indices=[77, 0, 0])), words="does not exist", slow=True),
    Attack("xgboost-deep", drop(".json", b'{"learner":{"attributes":' * 50_000), words="too deeply", slow=True),
    Attack("xgboost-nan", drop(".json", xgboost(split_conditions=[float("nan"), 1, 2])), words="are none", slow=True),
    Attack("xgboost-ubj", drop(".ubj", UBJ + b"i\x01a[$L#L\x7f" + b"\xff" * 7), words="lies about", aims="S23"),
    Attack("xgboost-ubj-z", drop(".ubj", UBJ + b"i\x01a[$Z#L\0\0\0\x7f" + b"\xff" * 4), words="lies", slow=True),
    Attack("xgboost-ubj-deep", drop(".ubj", UBJ + b"i\x01a{" * 9999), words="too deeply", slow=True),
    Attack("catboost-cut", drop(".cbm", b"CBM1\xff\xff\xff\x7f" + b"\0" * 64), words="should have", aims="S23"),
    Attack("catboost-offset", drop(".cbm", b"CBM1\x40\0\0\0" + b"\xff" * 64), words="damaged CatBoost", slow=True),
    *(
        Attack(f"safetensors-{name}", drop(".safetensors", data), REFUSED, slow=name != "beyond", aims="S23")
        for name, data in _SAFETENSORS.items()
    ),
)


ATTACKS: tuple[Attack, ...] = (*_ARCHIVES, *_TRITON, *_BOOSTERS)
