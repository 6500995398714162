"""Pickles that run code when they are loaded, in every coat: plain, compressed, in the files of PyTorch."""

from __future__ import annotations

import builtins
import gzip
import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable

from tests.hostile.place import FAILED, REFUSED, Attack, Call, Place, drop, system_pickle, touch

# -- pickles


def evaluated(place: Place) -> bytes:
    return pickle.dumps(Call(builtins.eval, f"__import__('os').system({touch(place)!r})"))


def executed(place: Place) -> bytes:
    return pickle.dumps(Call(builtins.exec, f"import os; os.system({touch(place)!r})"), 2)


def nested(place: Place) -> bytes:
    """A pickle that loads the pickle in it."""
    return pickle.dumps(Call(pickle.loads, system_pickle(place)))


def in_a_model(place: Place) -> bytes:
    """Looks like a scikit-learn estimator; one attribute is a call."""
    name = b"sklearn.linear_model._base"
    head = b"\x80\x02c" + name + b"\nLinearRegression\n)\x81}X\x05\0\0\0coef_"
    return head + system_pickle(place, 2)[2:-1] + b"sb."


def by_memo(place: Place) -> bytes:
    """The names are put together on the stack, from the memo, far from where they are used."""
    command = touch(place).encode()
    return (
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94(h\x00h\x01l00h\x00h\x01\x93\x94"
        + b"B"
        + struct.pack("<I", len(command))
        + command
        + b"\x85R."
    )


def extension(_: Place) -> bytes:
    return b"\x80\x02\x82\xf0)R."


def doubled_lists(_: Place) -> bytes:
    """Lists of lists of lists: two to the hundred, if anybody counts them."""
    level = b"]\x94(]\x94e"
    for at in range(100):
        level = b"(" + level + b"h" + bytes([min(at, 255)]) + b"t\x94"
    return b"\x80\x04" + level + b"."


def lying_frame(_: Place) -> bytes:
    return b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"\x8c\x02os."


def lying_bytes(_: Place) -> bytes:
    return b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc."


def lying_long(_: Place) -> bytes:
    return b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01."


def deep(_: Place) -> bytes:
    return b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b"."


def bomb(_: Place) -> bytes:
    """A pickle of 2 GB in 2 MB."""
    out = io.BytesIO()
    packer = zlib.compressobj(9)
    out.write(packer.compress(b"\x80\x04\x8e" + struct.pack("<Q", 2 << 30)))
    for _times in range(2048):
        out.write(packer.compress(b"\0" * (1 << 20)))
    out.write(packer.compress(b".") + packer.flush())
    return out.getvalue()


_FORMS: dict[str, Callable[[Place], bytes]] = {
    "system": system_pickle,
    "eval": evaluated,
    "exec": executed,
    "nested": nested,
    "in-a-model": in_a_model,
    "memo": by_memo,
    "extension": extension,
}
_BROKEN: dict[str, Callable[[Place], bytes]] = {
    "frame": lying_frame,
    "bytes": lying_bytes,
    "long": lying_long,
    "deep": deep,
    "lists": doubled_lists,
    "truncated": lambda place: system_pickle(place)[:-9],
    "bomb": bomb,
}


def _pickles() -> Iterable[Attack]:
    for name, made in _FORMS.items():
        slow = name not in ("system", "in-a-model", "memo")
        yield Attack(f"pickle-{name}", drop(".pkl", made), REFUSED, slow=slow, aims="S8")
    for name, made in _BROKEN.items():
        yield Attack(f"pickle-broken-{name}", drop(".pkl", made), REFUSED, slow=name != "bytes", aims="S8")
    yield Attack("joblib", drop(".joblib", lambda place: zlib.compress(system_pickle(place))), REFUSED, aims="S8")
    yield Attack("joblib-gz", drop(".joblib", lambda p: gzip.compress(system_pickle(p))), REFUSED, slow=True)
    yield Attack("pickle-named-onnx", drop(".onnx", system_pickle), REFUSED, slow=True, aims="S8")
    yield Attack(
        "pickle-trusted", drop(".pkl", lambda place: in_a_model(place) + b"\0"), REFUSED, trust=True, aims="S8 S24"
    )


# -- PyTorch, without PyTorch


def torch_zip(members: dict[str, bytes], root: str = "m") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{root}/{name}", content)
    return buffer.getvalue()


def storage(count: int, key: bytes = b"0") -> bytes:
    """What torch.save writes of one tensor of `count` floats in a table, as pickle opcodes."""
    return (
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n"
        b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + key + b"X\x03\0\0\0cpu"
        b"J" + struct.pack("<i", count) + b"tQK\0J" + struct.pack("<i", count) + b"\x85K\x01\x85\x89"
        b"ccollections\nOrderedDict\n)RtRs."
    )


def module_zip(place: Place) -> bytes:
    return torch_zip({"data.pkl": system_pickle(place, 2), "version": b"3\n", "byteorder": b"little"})


def weights_zip_with_call(place: Place) -> bytes:
    """A table of weights whose second entry is a call."""
    table = storage(4)[:-2] + b"X\x01\0\0\0v" + system_pickle(place, 2)[2:-1] + b"s"
    return torch_zip({"data.pkl": table + b".", "data/0": b"\0" * 16, "version": b"3\n"})


def short_storage(_: Place) -> bytes:
    return torch_zip({"data.pkl": storage(2**30), "data/0": b"\0" * 16, "version": b"3\n"})


def old_torch(place: Place) -> bytes:
    """The layout before PyTorch 1.6: pickles one behind the other."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    system = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
    return magic + pickle.dumps(1001, 2) + system + system_pickle(place, 2) + pickle.dumps([], 2)


def scripted(place: Place) -> bytes:
    """TorchScript whose data is a pickle that calls."""
    code = b"class M(Module):\n  def forward(self, x: Tensor) -> Tensor:\n    return x\n"
    evil = system_pickle(place, 2)
    members = {"data.pkl": evil, "constants.pkl": evil, "code/__torch__.py": code, "version": b"3\n"}
    return torch_zip(members)


def exported(place: Place) -> bytes:
    """A .pt2 whose sample inputs are a pickle that calls."""
    members = {
        "archive_format": b"pt2",
        "version": b"3\n",
        "byteorder": b"little",
        "archive_version": b"0",
        "models/model.json": b"{}",
        "data/sample_inputs/model.pt": module_zip(place),
        "data/weights/model_weights_config.json": b'{"config": {}}',
        "data/constants/model_constants_config.json": b'{"config": {}}',
    }
    return torch_zip(members)


def compiled(_: Place) -> bytes:
    members = {"archive_format": b"pt2", "version": b"0", "data/aotinductor/model/evil.so": b"\x7fELF" + b"\0" * 64}
    return torch_zip(members)


_TORCH = (
    Attack("torch-module", drop(".pt", module_zip), REFUSED, aims="S7"),
    Attack("torch-weights", drop(".pth", weights_zip_with_call), REFUSED, aims="S7"),
    Attack("torch-old", drop(".pt", old_torch), REFUSED, aims="S7"),
    Attack("torch-short", drop(".pth", short_storage), REFUSED, slow=True, aims="S23"),
    Attack("torch-script", drop(".pt", scripted), REFUSED, slow=True, aims="S7"),
    Attack("torch-pt2", drop(".pt2", exported), REFUSED, slow=True, aims="S7"),
    Attack("torch-aot", drop(".pt2", compiled), FAILED, "AOTInductor"),
)

ATTACKS: tuple[Attack, ...] = (*_pickles(), *_TORCH)
