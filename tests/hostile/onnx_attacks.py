"""ONNX files that reach outside, lie about sizes, never end, or are no graphs at all."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.formats import test_external_data as hiding
from tests.formats.foreign_files import field, varint
from tests.formats.graphs import finish, linear, outside
from tests.hostile.place import ANY, FAILED, VERSION, Attack, Place, drop
from tests.journeys.test_odd_files import endless


def data(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString()


def leading(
    where: Callable[[Place], str], then: Callable[[Path, Place], None] = lambda *_: None
) -> Callable[[Place], None]:
    """A folder whose model has its weights at a place that the attack chooses."""

    def plant(place: Place) -> None:
        place.folder({"model.onnx": data(outside(where(place)))}, lambda folder: then(folder, place))

    return plant


def hidden(put: Callable[[onnx.ModelProto], None]) -> Callable[[Place], None]:
    """A tensor with an absolute path to the secret, where validators do not look."""

    def plant(place: Place) -> None:
        model = linear()
        put(model)
        for tensor in hiding.external(model):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = str(place.secret)
        place.file(".onnx", data(model))

    return plant


def link_to_secret(folder: Path, place: Place) -> None:
    (folder / "w.bin").symlink_to(place.secret)


def link_to_folder(folder: Path, place: Place) -> None:
    (folder / "away").symlink_to(place.outside)


def pipe(folder: Path, _: Place) -> None:
    os.mkfifo(folder / "w.bin")


def short(folder: Path, _: Place) -> None:
    (folder / "w.bin").write_bytes(b"\0" * 40)


def giant() -> bytes:
    """A run asks for 160 GB."""
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["n"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["y"]),
        ],
        "giant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor("n", TensorProto.INT64, [1], [40_000_000_000])],
    )
    return data(finish(graph))


def doubling() -> bytes:
    """A loop that doubles a tensor 60 times."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Concat", ["v", "v"], ["v2"], axis=0)],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [None]),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.FLOAT, [None]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "go", "x"], ["y"], body=body)],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor("n", TensorProto.INT64, [], [60]),
            helper.make_tensor("go", TensorProto.BOOL, [], [True]),
        ],
    )
    return data(finish(graph))


def laughs(levels: int = 25) -> bytes:
    """Functions that call each other twice: 2^25 nodes in a file of 10 kB."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(levels):
        inner = f"F{level - 1}" if level else "Neg"
        domain = "own" if level else ""
        nodes = [
            helper.make_node(inner, ["a"], ["b"], domain=domain),
            helper.make_node(inner, ["b"], ["c"], domain=domain),
        ]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["c"], nodes, opsets))
    graph = helper.make_graph(
        [helper.make_node(f"F{levels - 1}", ["x"], ["y"], domain="own")],
        "laughs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    return data(finish(graph, functions, ("own",)))


def recursive() -> bytes:
    """A function that calls itself."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], opsets
    )
    return data(finish(one_node("F", "own"), [function], ("own",)))


def one_node(kind: str, domain: str = "", **attributes: object) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node(kind, ["x"], ["y"], domain=domain, **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )


def chain(length: int = 100_000) -> bytes:
    names = ["x", *(f"t{place}" for place in range(length - 1)), "y"]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    return data(finish(graph))


def nested_ifs(depth: int) -> bytes:
    """If in If in If, written as bytes: the library that writes protobuf refuses to nest this deep."""
    graph = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Identity")) + field(2, b"g")
    for _ in range(depth):
        branches = b""
        for name in (b"then_branch", b"else_branch"):
            branches += field(5, field(1, name) + field(6, graph) + varint(20 << 3) + b"\x05")
            if name == b"then_branch":
                graph = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Identity"))  # only one side is deep
        graph = field(1, field(1, b"c") + field(2, b"y") + field(4, b"If") + branches) + field(2, b"g")
    return b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11")


def lying_initialiser() -> bytes:
    """Weights of a trillion numbers, and four bytes of them."""
    model = linear()
    tensor = model.graph.initializer[0]
    tensor.dims[:] = [2**20, 2**20]
    tensor.raw_data = b"\0\0\0\0"
    return data(model)


def negative_initialiser() -> bytes:
    model = linear()
    model.graph.initializer[0].dims[:] = [-4, -3]
    return data(model)


def overflowing_shape() -> bytes:
    """A declared input of 2^62 × 16 floats: its bytes are 0 in 64 bits."""
    graph = one_node("Neg")
    del graph.input[0].type.tensor_type.shape.dim[:]
    for size in (1 << 62, 16):
        graph.input[0].type.tensor_type.shape.dim.add().dim_value = size
    return data(finish(graph))


def cycle() -> bytes:
    graph = one_node("Neg")
    del graph.node[:]
    graph.node.extend([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Neg", ["a"], ["b"])])
    graph.node.append(helper.make_node("Neg", ["b"], ["y"]))
    return data(finish(graph))


def flipped(seed: int) -> bytes:
    whole = bytearray(data(linear()))
    generator = random.Random(seed)
    for _ in range(3):
        whole[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
    return bytes(whole)


def odd_names() -> bytes:
    """Names that are codes for a terminal, HTML, and paths."""
    model = linear()
    for node in model.graph.node:
        node.input[0], node.output[0] = "\x1b[2J../../x", "<script>alert(1)</script>"
    model.graph.input[0].name = "\x1b[2J../../x"
    model.graph.output[0].name = "<script>alert(1)</script>"
    model.doc_string = "\x1b]0;title\x07" * 1000
    return data(model)


def newer() -> bytes:
    model = linear()
    model.opset_import[0].version = 999
    model.ir_version = 99
    return data(model)


def with_tail(tail: bytes) -> bytes:
    return data(linear()) + tail


def _zip_tail() -> bytes:
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"\x80\x02cposix\nsystem\n.")
    return buffer.getvalue()


def _places() -> Iterable[Attack]:
    fast = {"sparse initialiser", "sparse constant", "function", "training information"}
    for name, put in hiding.PLACES.items():
        stem = "onnx-hidden-" + name.replace(" ", "-").replace("'", "")
        yield Attack(stem, hidden(put), words="outside the model's folder", slow=name not in fast, aims="S2")


ATTACKS: tuple[Attack, ...] = (
    Attack("onnx-parent", leading(lambda _: "../../../../secret.bin"), words="outside the model's folder", aims="S1"),
    Attack("onnx-detour", leading(lambda _: "a/../../secret.bin"), words="outside", slow=True, aims="S1"),
    Attack("onnx-absolute", leading(lambda place: str(place.secret)), words="outside", aims="S1", slow=True),
    Attack("onnx-environ", leading(lambda _: "/proc/self/environ"), words="outside", slow=True, aims="S1"),
    Attack("onnx-link", leading(lambda _: "w.bin", link_to_secret), words="missing", aims="S1"),
    Attack(
        "onnx-folder-link", leading(lambda _: "away/secret.bin", link_to_folder), words="missing", aims="S1", slow=True
    ),
    Attack("onnx-pipe", leading(lambda _: "w.bin", pipe), words="missing", aims="S1"),
    Attack("onnx-short-weights", leading(lambda _: "w.bin", short), words="too short", aims="S23"),
    *_places(),
    Attack("onnx-giant", drop(".onnx", lambda _: giant()), words="memory", aims="S4"),
    Attack("onnx-doubling", drop(".onnx", doubling()), words="memory", slow=True, aims="S4"),
    Attack("onnx-laughs", drop(".onnx", laughs()), hangs=True, aims="S4"),
    Attack(
        "onnx-endless", lambda place: place.file(".onnx", data(endless())), words="took longer", slow=True, hangs=True
    ),
    Attack("onnx-chain", drop(".onnx", lambda _: chain()), ANY, slow=True, hangs=True, aims="S4"),
    Attack("onnx-deep", drop(".onnx", nested_ifs(400)), words="nested too deeply", aims="S4"),
    Attack("onnx-recursive", drop(".onnx", recursive()), slow=True, aims="S4"),
    Attack("onnx-lying", drop(".onnx", lying_initialiser()), aims="S4 S23"),
    Attack("onnx-negative", drop(".onnx", negative_initialiser()), slow=True, aims="S4"),
    Attack("onnx-overflow", drop(".onnx", overflowing_shape()), aims="S4 S17"),
    Attack("onnx-cycle", drop(".onnx", cycle()), slow=True, aims="S4"),
    Attack("onnx-unknown", drop(".onnx", data(finish(one_node("Evil", "evil.ops"), (), ("evil.ops",)))), words="Evil"),
    Attack("onnx-newer", drop(".onnx", newer()), slow=True),
    Attack("onnx-truncated", drop(".onnx", data(linear())[:-30]), words="ends in the middle", aims="S4", slow=True),
    Attack("onnx-fields", drop(".onnx", b"\x08\x08" + b"\x72\0" * 200_000), aims="S4", slow=True),
    *(
        Attack(f"onnx-flipped-{seed}", drop(".onnx", flipped(seed)), ANY, slow=seed > 0, aims="S4")
        for seed in range(12)
    ),
    Attack("onnx-names", drop(".onnx", odd_names()), VERSION, aims="S25"),
    Attack("onnx-and-zip", drop(".onnx", with_tail(_zip_tail())), FAILED),
    Attack("zip-named-onnx", drop(".onnx", _zip_tail()), FAILED, slow=True),
)
