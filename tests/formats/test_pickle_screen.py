"""Looking through pickles without loading them: exact, bounded, and not to be fooled."""

from __future__ import annotations

import collections
import datetime
import decimal
import hashlib
import io
import pickle
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio.core.errors import InvalidInput
from studio.formats.pickles._stack import Limits
from studio.formats.pickles._values import Made
from studio.formats.pickles.screen import (
    code_file,
    described,
    first_look,
    pickle_imports,
    screen_pickle,
    shown,
)
from tests.formats import pickles
from tests.formats.pickles import (
    InC,
    InPython,
    called,
    dumped,
    global_,
    looked_up,
    names,
    of_today,
    screened,
    stream,
    text,
)

QUICK = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


# -- exact


class Thing:
    """An object with a state, and one with an equal one is equal."""

    def __init__(self, state: Any) -> None:
        self.state = state


SIMPLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**70, max_value=2**90)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.complex_numbers()
    | st.decimals()
    | st.dates()
    | st.sampled_from([len, dict, collections.OrderedDict, decimal.Decimal, datetime.timedelta(3), Ellipsis])
    | st.builds(bytearray, st.binary(max_size=9))
    | st.builds(lambda size: np.arange(size, dtype="f4"), st.integers(0, 9))
    | st.builds(lambda items: np.array([*items, None], dtype=object), st.lists(st.text(max_size=3), max_size=3))
    | st.sampled_from([np.float64(3), np.dtype("U5"), np.zeros(2, [("a", "f8"), ("b", "i1", (2,))]), np.array("x")])
)


def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.builds(collections.OrderedDict, st.dictionaries(st.integers(), inner, max_size=3))
        | st.builds(Thing, inner)
        | st.builds(lambda one: [one, {"again": one}, one], inner)  # recalled from the memo
        | st.sets(st.integers() | st.text(max_size=3), max_size=4)
        | st.frozensets(st.text(max_size=3), max_size=4)
        | st.builds(collections.deque, st.lists(inner, max_size=3))
    )


@QUICK
@given(value=st.recursive(SIMPLE, larger, max_leaves=12), protocol=st.integers(0, 5), rest=st.binary(max_size=9))
def test_the_names_are_those_that_unpickling_looks_up(value: Any, protocol: int, rest: bytes) -> None:
    data = pickle.dumps(value, protocol)
    reading = InPython(io.BytesIO(data))
    reading.load()
    file = io.BytesIO(data + rest)
    seen = screen_pickle(file, "the file")
    assert names(seen) == {of_today(name) if protocol < 3 else name for name in reading.looked_up}
    assert not seen.oddities
    assert file.read() == rest


INSTRUCTIONS = st.sampled_from(
    [
        *(bytes([code]) for code in b"(012oRbN)]}tldaesuQ." * 2),
        *(bytes([code]) for code in (0x81, 0x85, 0x86, 0x87, 0x88, 0x8F, 0x90, 0x91, 0x92, 0x93, 0x94, 0x93)),
        *(text("os"), text("system"), b"U\x02os", b"S'os'\n", b"Vsystem\n", b"\x8c\x04exec", b"\x8c\x02os"),
        *(global_("os", "system"), global_("__builtin__", "set"), b"ios\npopen\n", looked_up("builtins", "eval")),
        *(b"K\x01", b"M\1\1", b"J\1\0\0\0", b"I7\n", b"I01\n", b"L7L\n", b"F1.5\n", b"\x8a\x01\x05", b"G" + b"\0" * 8),
        *(b"B\2\0\0\0ab", b"C\x01a", b"Pabc\n", b"\x80\x02", b"\x80\x04", b"\x80\x00"),
        *(b"p0\n", b"p1\n", b"q\x00", b"q\x01", b"r\2\0\0\0", b"g0\n", b"g1\n", b"h\x00", b"h\x01", b"j\2\0\0\0"),
    ]
)


@settings(QUICK, max_examples=1500)
@given(parts=st.lists(INSTRUCTIONS, max_size=24), frame=st.none() | st.tuples(st.integers(0, 60), st.integers(0, 20)))
def test_whatever_python_loads_nothing_that_it_looks_up_is_missed(
    parts: list[bytes], frame: tuple[int, int] | None
) -> None:
    data = b"".join(parts) + b"."
    if frame is not None:
        data = data[: frame[0]] + b"\x95" + frame[1].to_bytes(8, "little") + data[frame[0] :]
    try:
        found = {of_today(name) for name in names(screened(data))}
    except InvalidInput:
        return  # nothing is loaded then
    for kind in (InC, InPython):
        reading = kind(io.BytesIO(data))
        try:
            reading.load()
        except Exception:
            continue
        assert {of_today(name) for name in reading.looked_up} <= found


@QUICK
@given(data=st.binary(max_size=200))
def test_any_bytes_are_looked_through_or_refused_in_words(data: bytes) -> None:
    for look in (data, b"\x80\x04" + data):
        try:
            screened(look, arrays=True)
        except InvalidInput as error:
            assert error.why.endswith(".") and error.fix
        first_look(look)


def test_several_pickles_are_looked_through_one_by_one() -> None:
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps(decimal.Decimal(2)) + b"rest")
    assert pickle_imports(file, "the file") == ()
    assert pickle_imports(file, "the file") == ("decimal.Decimal",)
    assert file.read() == b"rest"


# -- not to be fooled


@pytest.mark.parametrize("way", pickles.HIDDEN)
def test_a_hidden_name_is_found(way: str) -> None:
    data = pickles.HIDDEN[way]
    reading = InC(io.BytesIO(data))
    reading.load()
    assert ("os", "system") in reading.looked_up  # the way is a real one
    assert ("os", "system") in names(screened(data))


def test_names_of_python_2_are_shown_as_what_they_are_today() -> None:
    def found(data: bytes) -> tuple[str, ...]:
        return pickle_imports(io.BytesIO(data), "the file")

    assert found(stream(global_("__builtin__", "execfile"), proto=2)) == ("builtins.execfile",)
    assert found(stream(global_("commands", "getoutput"), proto=2)) == ("subprocess.getoutput",)
    assert found(stream(looked_up("__builtin__", "eval"))) == ("__builtin__.eval",)


def test_a_name_with_dots_is_no_other_name() -> None:
    seen = screened(stream(looked_up("os", "path.join"), looked_up("os.path", "join"), b"\x86"))
    assert names(seen) == {("os", "path.join"), ("os.path", "join")}


def test_extension_codes_are_told() -> None:
    for code in (b"\x82\x05", b"\x83\x05\0", b"\x84\x05\0\0\0"):
        assert screened(stream(code)).imports == ("copyreg.extension 5",)


ODD = {
    "calls what getattr gives": (
        called(called(looked_up("builtins", "getattr"), looked_up("os", "path"), text("join")), text("x")),
        "calls what builtins.getattr gives",
    ),
    "makes an object of what a call gives": (
        called(looked_up("builtins", "type"), b"N") + b")\x81",
        "calls what builtins.type gives",
    ),
    "changes a class": (looked_up("collections", "OrderedDict") + b"}" + text("x") + b"Nsb", "changes collections"),
    "replaces a method of an object": (
        called(looked_up("collections", "OrderedDict")) + b"}" + text("__setstate__") + b"Nsb",
        "replaces __setstate__",
    ),
    "replaces one by slots": (
        called(looked_up("collections", "OrderedDict")) + b"N}" + text("append") + b"Ns\x86b",
        "replaces append",
    ),
    "replaces one by a text that is an object": (
        called(looked_up("collections", "OrderedDict"))
        + b"}"
        + called(looked_up("numpy", "str_"), text("add"))
        + b"Nsb",
        "names are objects",
    ),
    "appends to an object": (called(looked_up("a", "Bunch")) + b"Na", "appends to what a.Bunch gives"),
    "fills an object from another": (called(looked_up("a", "B")) + called(looked_up("a", "C")) + b"b", "from what a.C"),
    "gives an object special entries": (
        called(looked_up("a", "Bunch")) + text("__array_interface__") + b"}s",
        "entries with the names of methods",
    ),
    "encodes by another codec": (
        called(looked_up("_codecs", "encode"), text("x"), text("zlib")),
        "another encoding than latin1",
    ),
    "hands an object to what calls it": (
        called(looked_up("numpy.random._pickle", "__randomstate_ctor"), b"N", called(looked_up("a", "B"))),
        "hands an object to numpy.random._pickle.__randomstate_ctor",
    ),
    "keeps a call for later": (called(looked_up("functools", "partial"), looked_up("os", "system")), "for later"),
}


@pytest.mark.parametrize("trick", ODD)
def test_what_no_pickler_writes_is_told(trick: str) -> None:
    data, words = ODD[trick]
    assert words in " ".join(screened(stream(data)).oddities)


LYING = {
    "objects that say they are none": ("V8", (3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 0)),
    "an element that says it holds none": ("S8", (3, "|", (np.dtype("O"), (1,)), None, None, 8, 1, 0)),
    "objects over numbers": (
        "V8",
        (3, "|", None, ("f", "i"), {"f": (np.dtype("O"), 0), "i": (np.dtype("i8"), 0)}, 8, 1, 27),
    ),
    "a part outside": ("V8", (3, "|", None, ("f",), {"f": (np.dtype("f8"), 4)}, 8, 1, 0)),
    "objects pickled as bytes": ("O8", (3, "|", None, None, None, -1, -1, 1)),
    "a number with parts": ("f8", (3, "<", None, ("f",), {"f": (np.dtype("f8"), 0)}, 8, 8, 0)),
}


class Lying:
    def __init__(self, code: str, state: Any) -> None:
        self.code, self.state = code, state

    def __reduce__(self) -> Any:
        return np.dtype, (self.code, False, True), self.state


@pytest.mark.parametrize("lie", LYING)
def test_a_data_type_that_lies_is_told(lie: str) -> None:
    assert "describes a numpy data type as numpy does not" in screened(pickle.dumps(Lying(*LYING[lie]))).oddities


def test_numpy_believes_a_data_type_that_lies() -> None:
    """Why the test above matters: bytes of a file would become pointers."""
    loaded = pickle.loads(pickle.dumps(Lying(*LYING["objects that say they are none"])))
    assert loaded["f"] == np.dtype("O") and not loaded.hasobject


# -- bounded


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("trick", pickles.HOSTILE)
def test_a_hostile_stream_is_refused_for_little(trick: str) -> None:
    data = pickles.HOSTILE[trick]
    with little_memory(32 * 1024**2), pytest.raises(InvalidInput, match="damaged pickle") as caught:
        screened(data)
    assert caught.value.why and caught.value.fix


def test_instructions_are_counted() -> None:
    data = stream(b"N0" * 10_000, b"N")
    screened(data)
    with pytest.raises(InvalidInput, match="damaged") as caught:
        screen_pickle(io.BytesIO(data), "the file", limits=Limits(opcodes=8_000))
    assert "more than 8000 instructions" in caught.value.why
    for heap in (b"N" * 20_000, b"(N" * 20_000):
        with pytest.raises(InvalidInput, match="damaged") as caught:
            screen_pickle(io.BytesIO(b"\x80\x04" + heap), "the file", limits=Limits(values=9_000))
        assert "heaps up values" in caught.value.why


def test_what_takes_python_for_ever_takes_nothing_here() -> None:
    bomb = pickles.nested_tuples(5000)  # 2^5000 tuples, were each looked at
    with little_memory(16 * 1024**2):
        screened(stream(b"}", bomb, b"Ns"))  # as a key, it would be hashed
        screened(stream(b"I" + b"7" * 1_000_000 + b"\n"))
        screened(stream(b"\x8b" + (900_000).to_bytes(4, "little") + b"\x77" * 900_000))


# -- first looks and words


def test_a_first_look_tells_what_it_is_going_to_be() -> None:
    data = pickle.dumps(Thing({"a": [1, 2, 3], "b": decimal.Decimal(1)}))
    seen = [first_look(data[:size]) for size in range(2, len(data))]
    told = [one for one in seen if one is not None and isinstance(one.value, Made)]
    assert len(told) > len(seen) // 2
    assert {str(one.kind) for one in told} == {f"{__name__}.Thing"}
    assert first_look(b"hello, I am a model") is None


def test_what_a_pickle_gives_is_said_in_words() -> None:
    words = {
        "a dictionary": {},
        "a list": [1],
        "a tuple": (1, 2),
        "a text": "x",
        "a number": 3,
        "a numpy array": np.ones(2),
        "an object of decimal.Decimal": decimal.Decimal(1),
        "the name of decimal.Decimal": decimal.Decimal,
        "what builtins.complex gives when it is called": 1j,
    }
    for said, value in words.items():
        assert described(screened(pickle.dumps(value)).value) == said
    assert described(screened(dumped(np.ones(2)), arrays=True).value) == "a numpy array"


def test_a_name_can_not_write_on_the_terminal() -> None:
    seen = screened(stream(looked_up("os\x1b[31m", "sys\ntem")))
    assert seen.imports == ("os\\x1b[31m.sys\\x0atem",)
    assert len(shown("x" * 999)) < 250


def test_code_is_named_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(b"content")
    file = code_file(path, ("os.system",))
    assert (file.name, file.sha256, file.imports) == ("m.pkl", hashlib.sha256(b"content").hexdigest(), ("os.system",))
