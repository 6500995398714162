"""When an arrival has settled, on a clock of our own; and whether a file looks whole."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.inbox.complete import is_complete
from studio.inbox.groups import Group, Stamp
from studio.inbox.settle import Settler


def model(size: int, stem: str = "a") -> dict[str, Group]:
    return {stem: Group(stem, (Stamp(f"{stem}.onnx", size, size, 1),))}


def test_every_change_starts_the_wait_anew():
    settler = Settler(0.4, 20)
    assert [change.kind for change in settler.observe(model(1), 0.0)] == ["arrived"]
    assert settler.due(0.39) == []
    assert [change.kind for change in settler.observe(model(2), 0.39)] == ["changed"]
    assert settler.due(0.5) == []
    assert settler.next_wake() == pytest.approx(0.79)
    [(found, patience_over)] = settler.due(0.8)
    assert (found.size, patience_over) == (2, False)
    assert settler.due(0.9) == [], "handed out once"
    assert settler.settled(found)
    assert settler.next_wake() is None, "no timer when nothing moves"


def test_a_change_while_it_is_read_voids_what_was_read():
    settler = Settler(0.4, 20)
    settler.observe(model(1), 0.0)
    [(found, _)] = settler.due(0.4)
    settler.observe(model(2), 0.5)
    assert not settler.settled(found)
    settler.partial(found)
    assert settler.next_wake() == pytest.approx(1.5)  # it grows in steps of half a second


def test_a_file_cut_short_goes_on_when_patience_is_over():
    settler = Settler(0.4, 20)
    settler.observe(model(1), 0.0)
    [(found, _)] = settler.due(0.4)
    settler.partial(found)
    assert settler.due(19.9) == []
    [(_, patience_over)] = settler.due(20.0)
    assert patience_over


def test_growth_renews_patience():
    settler = Settler(0.4, 20)
    settler.observe(model(1), 0.0)
    settler.partial(settler.due(0.4)[0][0])
    settler.observe(model(2), 15.0)
    [(found, patience_over)] = settler.due(20.0)
    assert not patience_over
    settler.partial(found)
    assert settler.next_wake() == pytest.approx(35.0)


def test_leaving_is_told_with_whether_it_had_settled():
    settler = Settler(0.4, 20)
    settler.observe(model(1) | model(1, "b"), 0.0)
    for found, _ in settler.due(0.4):
        if found.stem == "a":
            settler.settled(found)
    assert {(c.group.stem, c.was_settled) for c in settler.observe({}, 1.0)} == {("a", True), ("b", False)}
    assert settler.next_wake() is None


def test_an_accepted_group_is_never_due_until_it_changes():
    settler = Settler(0.4, 20)
    settler.observe(model(1), 0.0)
    settler.accept("a")
    assert settler.due(100.0) == [] and settler.next_wake() is None
    assert [(c.kind, c.was_settled) for c in settler.observe(model(2), 101.0)] == [("changed", True)]


@given(st.lists(st.tuples(st.floats(0.01, 2.0), st.one_of(st.none(), st.integers(1, 4))), max_size=40))
def test_whatever_happens_due_means_unchanged_for_the_settle_time(story):
    settler, now, since, shown = Settler(0.5, 5.0), 0.0, 0.0, None
    for wait, size in story:
        now += wait
        if size != shown:
            since = now
        shown = size
        settler.observe({} if size is None else model(size), now)
        for found, patience_over in settler.due(now):
            assert shown is not None and found.size == shown
            assert now - since >= 0.5 - 1e-9
            assert patience_over == (now - since >= 5.0) or abs(now - since - 5.0) < 1e-9
            settler.partial(found)


def whole_files(folder) -> list:
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
    onnx_file = folder / "m.onnx"
    graph_model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx_file.write_bytes(graph_model.SerializeToString())
    with zipfile.ZipFile(folder / "m.pt2", "w") as archive:
        archive.writestr("data/weights", bytes(range(256)) * 40)
        archive.writestr("version", "1")
    np.savez(folder / "m.npz", x=np.ones((5, 3)))
    (folder / "m.toml").write_text('title = "A model"\n[a]\nb = [1,\n2]\n')
    return [onnx_file, folder / "m.pt2", folder / "m.npz", folder / "m.toml"]


def test_whole_files_are_complete_and_every_cut_of_a_binary_is_not(tmp_path):
    for path in whole_files(tmp_path):
        assert is_complete(path), path.name
        data = path.read_bytes()
        cut = path.with_name(f"cut{path.suffix}")
        if path.suffix == ".toml":
            cut.write_bytes(data[:-2])
            assert not is_complete(cut)
            continue
        for length in {0, 1, 2, 10, len(data) // 2, len(data) - 30, len(data) - 1}:
            cut.write_bytes(data[:length])
            assert not is_complete(cut), f"{path.suffix} cut to {length}"


def test_a_preallocated_file_is_not_complete(tmp_path):
    path = tmp_path / "m.pt2"
    path.write_bytes(b"PK\x03\x04" + bytes(5000))
    assert not is_complete(path)


def test_a_zip_is_told_by_its_magic_whatever_its_name(tmp_path):
    path = tmp_path / "m.pth"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    assert not is_complete(path)
    (tmp_path / "m.unknown").write_bytes(b"anything")
    assert is_complete(tmp_path / "m.unknown")


def test_a_huge_directory_is_left_to_the_worker(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for place in range(300):
            archive.writestr(str(place), b"")
    (tmp_path / "m.pt2").write_bytes(buffer.getvalue())
    opened = []
    monkeypatch.setattr("studio.inbox.complete._MAX_DIRECTORY", 1000)
    monkeypatch.setattr("studio.inbox.complete.zipfile.ZipFile", lambda file: opened.append(file))
    assert is_complete(tmp_path / "m.pt2")
    assert not opened


def test_links_are_not_followed(tmp_path):
    (tmp_path / "real.onnx").write_bytes(b"\x08\x0a")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real.onnx")
    with pytest.raises(OSError, match="symbolic link"):
        is_complete(tmp_path / "link.onnx")


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=100).map(lambda b: b"PK\x03\x04" + b + b"PK\x05\x06" + b[:18].ljust(18, b"\0")),
        st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=60)).map(
            lambda t: (
                b"PK\x06\x06"
                + t[1].ljust(60, b"\1")
                + b"PK\x06\x07"
                + struct.pack("<IQI", 0, t[0], 1)
                + b"PK\x05\x06"
                + b"\xff" * 16
                + b"\0\0"
            )
        ),
    )
)
def test_no_content_raises(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    for suffix in (".onnx", ".pt2", ".npz", ".toml", ".bin"):
        path = folder / f"m{suffix}"
        path.write_bytes(data)
        assert is_complete(path) in (True, False)
