"""Files that run code when they are loaded: pickles in every coat, PyTorch, Keras, skops, and Python beside weights."""

from __future__ import annotations

import builtins
import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np

from tests.formats.keras_files import HOSTILE_HDF5
from tests.hostile.place import FAILED, REFUSED, WAITING, Attack, Call, Place, drop, system_pickle, touch

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


# -- Keras


def keras_zip(layer: dict[str, object], more: dict[str, bytes] | None = None) -> bytes:
    """A .keras file of one input and one layer."""
    config = {
        "module": "keras",
        "class_name": "Sequential",
        "registered_name": None,
        "config": {
            "name": "m",
            "layers": [
                {
                    "module": "keras.layers",
                    "class_name": "InputLayer",
                    "config": {"batch_shape": [None, 4], "dtype": "float32", "name": "x"},
                },
                layer,
            ],
        },
    }
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file.create_group("layers")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1", "date_saved": "2026"}))
        archive.writestr("model.weights.h5", weights.getvalue())
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def lambda_layer(_: Place) -> dict[str, object]:
    function = {"class_name": "__lambda__", "config": {"code": "4wEAAAAA", "defaults": None, "closure": None}}
    return {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "l", "function": function}}


def saved_model_layer(place: Place) -> dict[str, object]:
    config = {"name": "t", "filepath": str(place.outside), "call_endpoint": "serve"}
    return {"module": "keras.layers", "class_name": "TFSMLayer", "config": config}


def any_function(place: Place) -> dict[str, object]:
    """A class that is no layer at all, but a function of Python's library."""
    return {"module": "os", "class_name": "system", "config": {"command": touch(place)}, "registered_name": "system"}


def hidden_function(place: Place) -> dict[str, object]:
    """An activation that names a function of another module."""
    evil = {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "function"}
    config = {"name": "d", "units": 2, "activation": evil}
    return {"module": "keras.layers", "class_name": "Dense", "config": config, "build_config": {"c": touch(place)}}


def hdf5(place: Place, spoil: Callable[[h5py.File, h5py.Group, Path], None] | None = None) -> bytes:
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 4], "dtype": "float32", "name": "x"}},
        lambda_layer(place) if spoil is None else {"class_name": "Dense", "config": {"name": "d", "units": 2}},
    ]
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.15.0"
        group = file.create_group("model_weights").create_group("d")
        if spoil is not None:
            spoil(file, group, place.outside / f"{place.stem}.h5")
    (place.outside / f"{place.stem}.h5").unlink(missing_ok=True)
    return buffer.getvalue()


def _keras() -> Iterable[Attack]:
    for name, made, slow in (
        ("lambda", lambda_layer, False),
        ("savedmodel", saved_model_layer, True),
        ("system", any_function, True),
        ("hidden", hidden_function, True),
    ):
        yield Attack(
            f"keras-{name}",
            drop(".keras", lambda place, made=made: keras_zip(made(place))),
            REFUSED,
            slow=slow,
            aims="S6",
        )
    slip = {"../../escaped": b"x", "model.weights.h5/../../x": b"x"}
    yield Attack(
        "keras-slip", drop(".keras", lambda p: keras_zip(lambda_layer(p), slip)), REFUSED, slow=True, aims="S9"
    )
    yield Attack("keras-h5-lambda", drop(".h5", hdf5), REFUSED, aims="S5")
    for number, (_, spoil) in enumerate(HOSTILE_HDF5.items()):
        plant = drop(".h5", lambda place, spoil=spoil: hdf5(place, spoil))
        yield Attack(f"keras-h5-{number}", plant, REFUSED, slow=True, aims="S5 S23")
    weights = h5_cut()
    yield Attack("keras-h5-cut", drop(".h5", weights), REFUSED, slow=True, aims="S5")


def h5_cut() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["model_config"] = '{"class_name": "Sequential", "config": {"layers": []}}'
    return buffer.getvalue()[:-64]


# -- skops, samples, settings


def skops(place: Place) -> bytes:
    schema = {
        "__class__": "system",
        "__module__": "os",
        "__loader__": "ReduceNode",
        "reduce_args": {"__class__": "tuple", "__module__": "builtins", "content": [touch(place)]},
        "_skops_version": "0.16.0",
        "protocol": 2,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    return buffer.getvalue()


def npz(arrays: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in arrays.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(header: str, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + content


def object_samples(place: Place) -> bytes:
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    return npz({"x.npy": npy(header, system_pickle(place))})


def giant_samples(_: Place) -> bytes:
    return npz({"x.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }\n")})


def calling_samples(place: Place) -> bytes:
    return npz({"x.npy": npy(f"__import__('os').system({touch(place)!r})\n")})


def beside(name: str, made: Callable[[Place], bytes]) -> Callable[[Place], None]:
    """A good model, and a file beside it that is not."""
    from tests.formats.graphs import linear

    def plant(place: Place) -> None:
        place.folder({"model.onnx": linear().SerializeToString(), f"model{name}": made(place)})

    return plant


_BESIDE = (
    Attack("skops", drop(".skops", skops), REFUSED, aims="S8"),
    Attack("samples-pickled", beside(".npz", object_samples), words="no .npz file|Python objects", aims="S8"),
    Attack("samples-giant", beside(".npz", giant_samples), slow=True, aims="S17 S23"),
    Attack("samples-call", beside(".npz", calling_samples), slow=True, aims="S8"),
    Attack("settings-deep", beside(".toml", lambda _: b"a = " + b"[" * 50_000), words="TOML|nested", aims="S19"),
    Attack("settings-dotted", beside(".toml", lambda _: b".".join([b"a"] * 100_000) + b" = 1\n"), slow=True),
    Attack("settings-huge", beside(".toml", lambda _: b"# " + b"x" * (2 << 20)), words="larger", slow=True),
)


# -- the user's own Python, after a yes

ESCAPES = """
import os, signal, socket, subprocess, sys
from pathlib import Path

OUTSIDE, CANARY = Path({outside!r}), Path({canary!r})
INBOX = Path({inbox!r})

def attempt(act):
    try:
        print("escape:", act.__name__, "gave", act(), flush=True)
    except BaseException as error:
        print("escape:", act.__name__, "ended with", type(error).__name__, flush=True)

def writes(): CANARY.write_text("x")
def writes_inbox(): (INBOX / "evil.onnx").write_text("x")
def deletes(): (OUTSIDE / "secret.bin").unlink()
def renames(): (OUTSIDE / "secret.bin").rename(OUTSIDE / "moved")
def truncates(): os.truncate(OUTSIDE / "secret.bin", 0)
def links(): os.link(OUTSIDE / "secret.bin", OUTSIDE / "linked")
def shells(): return subprocess.run(["/bin/sh", "-c", "touch " + str(CANARY)]).returncode
def home(): assert not Path.home().is_relative_to({home!r}), "HOME is the user's"
def environment(): assert "STUDIO_TEST_SECRET" not in os.environ, "the environment is the user's"
def connects(): socket.create_connection(("127.0.0.1", {port}), 1).close(); raise SystemError("a connection got out")
def listens(): socket.create_server(("127.0.0.1", 0)).close()
def kills(): os.kill({pid}, signal.SIGKILL)  # the test's own engine, and never anything else
def stops(): os.kill({pid}, signal.SIGSTOP)
def traces(): return Path("/proc/{pid}/environ").read_bytes()[:4]
def hides():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            import time
            for _ in range(100):
                time.sleep(0.1)
                try: CANARY.write_text("x")
                except OSError: pass
        os._exit(0)

for act in ({acts}):
    attempt(act)
raise SystemExit("done")
"""

QUIET = (
    "writes, writes_inbox, deletes, renames, truncates, links, shells, home, environment, connects, listens, traces, "
    "hides, kills, stops"
)


def header_of_weights() -> bytes:
    """A whole safetensors file of one tensor."""
    text = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(text)) + text + np.zeros(2, np.float32).tobytes()


def factory(source: str) -> Callable[[Place], None]:
    def plant(place: Place) -> None:
        whole = f"{source}\ndef model():\n    return None\n"
        place.folder({"model.safetensors": header_of_weights(), "model.py": whole.encode()})

    return plant


def escaping(acts: str) -> Callable[[Place], None]:
    def plant(place: Place) -> None:
        engine = json.loads((place.outside / "engine.json").read_text())
        source = ESCAPES.format(
            outside=str(place.outside), canary=str(place.canary), inbox=str(place.inbox), acts=acts, **engine
        )
        factory(source)(place)

    return plant


ASKS = "raise SystemExit('ran')"
# A number of them, and no more: should the wall be broken, the machine that runs this must stand.
FORKS = "import os, time\nfor _ in range(700):\n    if os.fork() == 0:\n        time.sleep(15)\n        os._exit(0)"
MEMORY = "held = []\nwhile True:\n    held.append(bytearray(1 << 28))"
EXITS = "import os\nos._exit(0)"
WRITES_TO_PIPES = """
import os
for handle in range(3, 64):
    try:
        os.write(handle, {line!r})
    except OSError:
        pass
"""
NOISE = WRITES_TO_PIPES.format(line=b"{}\n" * 9)
FORGED = WRITES_TO_PIPES.format(
    line=b'{"type":"result","kind":"intake","value":{"graph_path":"/etc/passwd","samples_path":"/etc/passwd"}}\n'
)
NESTED = f"x = {'(' * 5000}{')' * 5000}"

_FACTORIES = (
    Attack("factory-asks", factory(ASKS), WAITING, "run code", aims="S8"),
    Attack("factory-escapes", escaping(QUIET), FAILED, trust=True, aims="S24"),
    Attack("factory-forks", factory(FORKS), trust=True, slow=True, aims="S24"),
    Attack("factory-memory", factory(MEMORY), words="memory", trust=True, slow=True, aims="S24"),
    Attack("factory-noise", factory(NOISE), trust=True, slow=True, aims="S24"),
    Attack("factory-forged", factory(FORGED), trust=True, slow=True, aims="S24"),
    Attack("factory-exits", factory(EXITS), trust=True, slow=True, aims="S24"),
    Attack("factory-nested", factory(NESTED), REFUSED, slow=True),
    Attack("factory-nul", factory("x = 1\0"), REFUSED, slow=True),
)

ATTACKS: tuple[Attack, ...] = (*_pickles(), *_TORCH, *_keras(), *_BESIDE, *_FACTORIES)
