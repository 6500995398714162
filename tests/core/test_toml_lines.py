"""Where keys stand: every table, key and item that tomllib finds has its own line, however it is written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.toml_lines import DEEPEST, Path, lines_of

WRITTEN = """\
# a comment = 1
title = "a # no comment"  # a comment
"quoted key" = 1
'lit.eral'.dotted . key = [1,
  2, # two, three
  [3,
   4]]
long = \"\"\"
x = 1 "" [not.a.table]
\\\"\"\" \"\"\"\"\"
raw = '''
y = 1 '' '''
"\\u00e9" = 1979-05-27 07:32:00
inline = { a = 1, b = { "c d" = [ {e = 1}, {f = "}"} ] } }
[inputs.x]
shape = ["batch", 3]
[inputs]
y.z = 1
[[list]]
a = 1
[list.sub]
b = 2
[[list]]
[[list.deep]]
c = 3
[[list.deep]]
[ spaced . 'out' ]
"""


def paths_of(value: Any, at: Path = ()) -> list[Path]:
    """Every path in a parsed document, items of arrays without tables left out."""
    found: list[Path] = [at] if at else []
    if isinstance(value, dict):
        found += [path for key, inner in value.items() for path in paths_of(inner, (*at, key))]
    if isinstance(value, list):
        found += [path for place, inner in enumerate(value) for path in paths_of(inner, (*at, place))]
    return found


def test_every_way_of_writing_a_key_is_found_at_its_line() -> None:
    lines = lines_of(WRITTEN)
    expected = {
        ("title",): 2,
        ("quoted key",): 3,
        ("lit.eral",): 4,
        ("lit.eral", "dotted", "key"): 4,
        ("lit.eral", "dotted", "key", 1): 5,
        ("lit.eral", "dotted", "key", 2, 1): 7,
        ("long",): 8,
        ("raw",): 11,
        ("é",): 13,
        ("inline",): 14,
        ("inline", "b", "c d", 1, "f"): 14,
        ("inputs", "x"): 15,
        ("inputs", "x", "shape"): 16,
        ("inputs", "x", "shape", 1): 16,
        ("inputs",): 17,
        ("inputs", "y", "z"): 18,
        ("list",): 19,
        ("list", 0, "a"): 20,
        ("list", 0, "sub", "b"): 22,
        ("list", 1): 23,
        ("list", 1, "deep", 0, "c"): 25,
        ("list", 1, "deep", 1): 26,
        ("spaced", "out"): 27,
    }
    assert {path: lines.of(*path) for path in expected} == expected
    assert all(lines.of(*path) for path in paths_of(tomllib.loads(WRITTEN)))


def test_what_is_not_there_has_the_line_of_what_is_around_it() -> None:
    lines = lines_of("\n[inputs.x]\nshape = [1]\n")
    assert lines.of("inputs", "x", "range") == 2
    assert lines.of("outputs") == 0


@pytest.mark.parametrize("text", ["a." * DEEPEST + "b = 1", "a = " + "[" * 40 + "]" * 40, "a = " + "{a = " * 40 + "1"])
def test_what_nests_too_deeply_is_told_before_anything_parses_it(text: str) -> None:
    assert lines_of("# one\n" + text).too_deep == 2


def test_the_deepest_that_is_allowed_is_allowed() -> None:
    assert not lines_of("a." * (DEEPEST - 1) + "b = 1").too_deep


KEYS = st.text(min_size=1, max_size=6).filter(lambda key: all(ord(letter) >= 32 and letter != "\x7f" for letter in key))
VALUES = st.one_of(st.integers(-9, 9), st.booleans(), st.sampled_from(["x", 'q"[', "#", "a\nb = 1"]))
DOCUMENTS = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3),
    lambda inner: st.dictionaries(KEYS, st.one_of(VALUES, inner, st.lists(inner, min_size=1, max_size=3)), max_size=3),
    max_leaves=8,
)


def quoted(text: str) -> str:
    return '"' + "".join(rf"\U{ord(letter):08x}" if not letter.isalnum() else letter for letter in text) + '"'


def write(document: dict[str, Any], at: Path, name: str, out: list[str], lines: dict[Path, int]) -> None:
    """The document as TOML lines; every key of it with the line that it was written on."""
    for key, value in document.items():
        path = (*at, key)
        if not isinstance(value, dict | list):
            lines[path] = len(out) + 1
            out.append(f"{quoted(key)} = {quoted(value) if isinstance(value, str) else str(value).lower()}  # x = 1")
    for key, value in document.items():
        path, full = (*at, key), f"{name}.{quoted(key)}" if name else quoted(key)
        if isinstance(value, dict):
            lines[path] = len(out) + 1
            out.append(f"[{full}]")
            write(value, path, full, out, lines)
        for place, one in enumerate(value if isinstance(value, list) else ()):
            lines.setdefault(path, len(out) + 1)
            lines[(*path, place)] = len(out) + 1
            out.append(f"[[{full}]]")
            write(one, (*path, place), full, out, lines)


@given(DOCUMENTS)
def test_keys_of_any_document_are_found_where_they_were_written(document: dict[str, Any]) -> None:
    out: list[str] = []
    expected: dict[Path, int] = {}
    write(document, (), "", out, expected)
    text = "\n".join(out)
    assert tomllib.loads(text) == document
    assert lines_of(text).found == expected


@given(st.one_of(st.text(), st.text(alphabet="[]{}=.,#'\"\\\n a1-")))
def test_any_text_is_walked_to_an_end(text: str) -> None:
    lines = lines_of(text)
    try:
        parsed = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    assert all(lines.of(*path) for path in paths_of(parsed))
