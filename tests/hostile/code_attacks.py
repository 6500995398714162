"""What else runs code when it is loaded: Keras layers, skops, samples and settings, and Python beside weights."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np

from tests.formats.graphs import linear
from tests.hostile.place import FAILED, REFUSED, WAITING, Attack, Place, drop, system_pickle, touch

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


def spoilt(number: int) -> Callable[[Place], bytes]:
    """One of the hostile HDF5 files of Keras' own tests."""

    def made(place: Place) -> bytes:
        from tests.formats.keras_files import HOSTILE_HDF5  # imports Keras

        return hdf5(place, list(HOSTILE_HDF5.values())[number])

    return made


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
    for number in range(5):
        yield Attack(f"keras-h5-{number}", drop(".h5", spoilt(number)), REFUSED, slow=True, aims="S5 S23")
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

ATTACKS: tuple[Attack, ...] = (*_keras(), *_BESIDE, *_FACTORIES)
