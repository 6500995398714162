"""Protobuf's text format without a schema: what is read, and that nothing else than words comes of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from studio.formats.onnx.text_proto import LARGEST, NotText, read_text

CONFIG = """
# a comment
name: "dens" 'e'  # two strings are one
max_batch_size : 8
input [
  { name: "x" data_type: TYPE_FP32 dims: [ -1, 0x10, 010 ] },
  { name: "m\\303\\266 \\x41\\u00e9\\n" reshape: { shape: [ ] } }
]
output < name: "y"; dims: 3, dims: 4 >
instance_group { count: 1 rate: -1.5e3f kind: KIND_CPU }
[a.b/c.D]: { on: true, far: -inf }
"""


def test_everything_the_format_has_is_read() -> None:
    found = read_text(CONFIG)
    assert found["name"] == ["dense"]
    assert found["max_batch_size"] == [8]
    assert found["input"] == [
        {"name": ["x"], "data_type": ["TYPE_FP32"], "dims": [-1, 16, 8]},
        {"name": ["mö Aé\n"], "reshape": [{"shape": []}]},
    ]
    assert found["output"] == [{"name": ["y"], "dims": [3, 4]}]
    assert found["instance_group"] == [{"count": [1], "rate": [-1500.0], "kind": ["KIND_CPU"]}]
    assert found["a.b/c.D"] == [{"on": ["true"], "far": ["-inf"]}]
    assert read_text("") == read_text("# nothing\n") == {}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb {", 2, "a field is expected, not 'the end'"),
        ("a: 1\n\nb 2", 3, "':' is expected after 'b'"),
        ('a: "open\n', 1, "unexpected"),
        ("a: [1, 2", 1, "',' or ']'"),
        ("a: [1 2]", 1, "',' or ']'"),
        ("a: }", 1, "a value is expected"),
        ("1: 2", 1, "a field is expected"),
        ("a { b: 1 >", 1, "a field is expected"),
        ("a: 09", 1, "no number"),
        ("a: " + "1" * 5000, 1, "no number"),
        ("a: 1x", 1, "unexpected"),
        ("a {" * 40 + "}" * 40, 1, "nested deeper"),
        ("\n" * LARGEST + "a: 1", 1, "longer"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(NotText, match=words) as caught:
        read_text(text)
    assert caught.value.line == line


PIECES = st.sampled_from(
    [*"{}<>[]:,;#\"'\\-.\n x", "a", "name:", "{ a: 1 }", "[1, 2]", '"s"', "0x1f", "1.5e9f", "\u00e9"]
)


@given(st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=80))
def test_any_text_is_a_message_or_refused(text: str) -> None:
    try:
        found = read_text(text)
    except NotText as error:
        assert 1 <= error.line <= text.count("\n") + 1
        assert error.why
        return
    assert all(isinstance(values, list) for values in found.values())


@given(st.recursive(st.text(max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=8))
def test_what_protobuf_writes_is_read_as_it_was(tree: Any) -> None:
    """Strings of any characters, at any depth: google's own printer writes them, this reader reads them."""
    model = ModelProto()
    words: list[str] = []

    def fill(graph: Any, part: Any) -> None:
        if isinstance(part, str):
            words.append(part)
            graph.name = part
            return
        for one in part:
            fill(graph.node.add().attribute.add().g, one)

    fill(model.graph, tree)
    found = read_text(text_format.MessageToString(model, as_utf8=False))

    def names(graph: Any) -> list[str]:
        own = list(graph.get("name", []))
        for node in graph.get("node", []):
            for attribute in node["attribute"]:
                for inner in attribute.get("g", []):
                    own += names(inner)
        return own

    assert names(found.get("graph", [{}])[0]) == words


@pytest.mark.parametrize("piece", ["[", "a: [", "-", "a{", '"', "\\", "a:'x' 'y' ", "#\n", "[a"])
def test_hostile_text_of_the_largest_size_ends_in_words(piece: str) -> None:
    with pytest.raises(NotText):
        read_text(piece * (LARGEST // len(piece) - 1) + "}")
