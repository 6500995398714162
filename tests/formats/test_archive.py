"""Archives: what comes out, and that nothing gets out."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio.core.errors import InvalidInput, Refused, StudioError
from studio.formats.archives.archive import Allowance, archive_kind, unpack
from tests.formats.archives import Members, header, protected, tarred, zipped, zipped_link

ZEROS = bytes(1024 * 1024)


def unpacked(archive: Path, tmp_path: Path, **limits: int) -> dict[str, bytes]:
    """Name and content of all that came out."""
    into = tmp_path / "into"
    into.mkdir()
    found = unpack(archive, into, Allowance(size=archive.stat().st_size, **limits))
    written = {path.relative_to(into).as_posix(): path.read_bytes() for path in found.files}
    assert written.keys() == {path.relative_to(into).as_posix() for path in into.rglob("*") if path.is_file()}
    return written


HONEST = {"net/model.onnx": b"m" * 3000, "net/deep/er/w.bin": b"", "net/ü n.txt": b"u"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.zip", "zip"), ("a.tar", "tar"), ("a.tgz", "tar.gz"), ("a.tar.bz2", "tar.bz2"), ("a.tar.xz", "tar.xz")],
)
def test_every_kind_gives_its_files_back(tmp_path: Path, name: str, kind: str) -> None:
    modes = {"tar": "w:", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
    path = tmp_path / name
    made = zipped(path, HONEST) if kind == "zip" else tarred(path, HONEST, modes[kind])
    renamed = made.rename(tmp_path / "no.extension")
    assert archive_kind(renamed) == kind
    assert unpacked(renamed, tmp_path) == HONEST


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_way_of_packing_a_zip_is_known(tmp_path: Path, method: int) -> None:
    assert unpacked(zipped(tmp_path / "a.zip", HONEST, method), tmp_path) == HONEST


@pytest.mark.parametrize("data", [b"", b"PK", b"text", gzip.compress(b"no tar", mtime=0), bytes(2048), b"ustar" * 200])
def test_other_files_are_no_archives(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(data)
    assert archive_kind(path) is None


def test_what_systems_put_in_beside_is_left_out(tmp_path: Path) -> None:
    members = {"__MACOSX/._m.onnx": b"x", ".DS_Store": b"x", "net/.git/config": b"x", "./net/m.onnx": b"m"}
    assert unpacked(zipped(tmp_path / "a.zip", members), tmp_path) == {"net/m.onnx": b"m"}


OUTSIDE = ["../x", "a/../../x", "/etc/x", "..", "a\\..\\x", "\\x", "C:/x", "c:x", "a/..", "..\\x"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_names_that_lead_out_refuse_the_archive(tmp_path: Path, pack: object, name: str) -> None:
    path = pack(tmp_path / "a.bin", {"m.onnx": b"m", name: b"x"})  # type: ignore[operator]
    with pytest.raises(Refused, match="not unpacked") as caught:
        unpacked(path, tmp_path)
    assert "out of its folder" in caught.value.what
    assert {file.name for file in tmp_path.rglob("*")} <= {"a.bin", "into", "m.onnx"}


@pytest.mark.parametrize("name", ["a\0.onnx", "a\nb", "x" * 201, "ü" * 101, "d/" * 24 + "x", "\udcff"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_names_that_are_none_refuse_the_archive(tmp_path: Path, pack: object, name: str) -> None:
    if (pack is zipped and name == "\udcff") or (pack is tarred and "\0" in name):
        name = "a\x07"  # the one format can not hold it
    with pytest.raises(Refused, match="not unpacked") as caught:
        unpacked(pack(tmp_path / "a.bin", {name: b"x"}), tmp_path)  # type: ignore[operator]
    assert "no name for a file" in caught.value.what
    assert str(caught.value).encode()


@pytest.mark.parametrize(
    "names",
    [
        ("m.onnx", "m.onnx"),
        ("m.onnx", "./m.onnx"),
        ("m.onnx", "M.ONNX"),
        ("a/m", "A//M"),
        ("é", "e\u0301"),
        ("a", "a/m"),
        ("a/m", "a"),
        ("a/m", "A"),
    ],
)
@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_meet_refuse_the_archive(tmp_path: Path, pack: object, names: tuple[str, str]) -> None:
    members: Members = [(name, b"x") for name in names]
    with pytest.raises(Refused) as caught:
        unpacked(pack(tmp_path / "a.bin", members), tmp_path)  # type: ignore[operator]
    assert "two of its files" in caught.value.what


def test_links_and_devices_in_a_tar_are_left_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    odd = [
        header("soft", tarfile.SYMTYPE, str(secret)),
        header("hard", tarfile.LNKTYPE, str(secret)),
        header("up", tarfile.SYMTYPE, ".."),
        header("pipe", tarfile.FIFOTYPE),
        header("device", tarfile.CHRTYPE),
        header("d", tarfile.DIRTYPE),
    ]
    path = tarred(tmp_path / "a.tar", {"m.onnx": b"m", "up/x": b"x"}, "w:", odd)
    into = tmp_path / "into"
    into.mkdir()
    found = unpack(path, into, Allowance(size=path.stat().st_size))
    assert sorted(file.relative_to(into).as_posix() for file in found.files) == ["m.onnx", "up/x"]
    assert found.left_out == 5
    assert not any(entry.is_symlink() for entry in into.rglob("*"))
    assert secret.read_text() == "s"


def test_links_in_a_zip_are_left_out(tmp_path: Path) -> None:
    path = zipped_link(tmp_path / "a.zip", "up", "..", {"m.onnx": b"m", "up/x": b"x"})
    assert unpacked(path, tmp_path) == {"m.onnx": b"m", "up/x": b"x"}
    assert not (tmp_path / "x").exists()


def test_a_password_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        unpacked(protected(tmp_path / "a.zip", {"m.onnx": b"m"}), tmp_path)
    assert "password" in caught.value.what


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_tar_that_grows_without_end_is_stopped(tmp_path: Path, mode: str) -> None:
    path = tarred(tmp_path / "a.tar", {f"{place}": ZEROS for place in range(40)}, mode)
    with pytest.raises(Refused, match="not unpacked") as caught:
        unpacked(path, tmp_path, floor=4 * 1024**2)
    assert "100 times its size" in caught.value.what
    assert sum(file.stat().st_size for file in (tmp_path / "into").iterdir()) <= 10 * 1024**2


def test_a_zip_that_grows_without_end_is_stopped(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {f"{place}": ZEROS for place in range(40)})
    with pytest.raises(Refused):
        unpacked(path, tmp_path, floor=4 * 1024**2)
    assert sum(file.stat().st_size for file in (tmp_path / "into").iterdir()) <= 10 * 1024**2


def test_what_shrinks_a_lot_but_is_small_is_no_bomb(tmp_path: Path) -> None:
    assert len(unpacked(zipped(tmp_path / "a.zip", {"zeros": ZEROS * 8}), tmp_path)) == 1


def test_a_header_that_asks_for_memory_is_stopped_before_it_is_read(tmp_path: Path) -> None:
    pax = header("x", tarfile.XHDTYPE)
    pax.size = 1024**3
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as out:
        out.write(pax.tobuf(tarfile.PAX_FORMAT))
        for _ in range(64):
            out.write(ZEROS)
    with pytest.raises(Refused):
        unpacked(path, tmp_path, floor=4 * 1024**2)


def test_a_negative_size_does_not_loop(tmp_path: Path) -> None:
    # CVE-2025-8194: an offset that leads back.
    block = bytearray(header("x", tarfile.REGTYPE).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + b"\xfc\x00"
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(block) + bytes(1024))
    assert archive_kind(path) == "tar"
    with pytest.raises(StudioError):
        unpacked(path, tmp_path)


def test_a_sparse_file_is_left_out(tmp_path: Path) -> None:
    block = bytearray(header("x", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"00000010000\0"
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(block) + bytes(1024))
    assert unpacked(path, tmp_path) == {}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_too_many_files_and_entries_are_refused(tmp_path: Path, pack: object) -> None:
    path = pack(tmp_path / "a.bin", {f"{place}": b"" for place in range(12)})  # type: ignore[operator]
    assert len(unpacked(path, tmp_path, files=12, members=12)) == 12
    for limits in ({"files": 11}, {"members": 11}):
        (tmp_path / "into").rename(tmp_path / f"into-{next(iter(limits))}")
        with pytest.raises(Refused) as caught:
            unpacked(path, tmp_path, **limits)
        assert "too many" in caught.value.what


def test_an_unknown_way_of_packing_is_named(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "a.zip", {"m": b"m" * 100}).read_bytes())
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.find(mark) + place] = 93  # Zstandard
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(Refused, match="can not be unpacked"):
        unpacked(tmp_path / "a.zip", tmp_path)


@pytest.mark.parametrize("kind", ["zip", "w:", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_that_is_cut_short_is_told_so(tmp_path: Path, kind: str) -> None:
    noise = random.Random(1).randbytes(100_000)
    path = tmp_path / f"a.tar.{kind[2:]}"
    data = (zipped(path, {"m": noise}) if kind == "zip" else tarred(path, {"m": noise}, kind)).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InvalidInput, match="damaged or cut short"):
        unpacked(path, tmp_path)


def spoilt() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    members = {"net/model.onnx": random.Random(0).randbytes(600), "net/x.txt": b"abc" * 200}
    for kind in ("zip", "w:", "w:gz", "w:bz2", "w:xz"):
        stream = io.BytesIO()
        if kind == "zip":
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in members.items():
                    archive.writestr(name, data)
        else:
            with tarfile.open(fileobj=stream, mode=kind) as archive:  # type: ignore[call-overload]
                for name, data in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        found[kind] = stream.getvalue()
    return found


SPOILT = spoilt()


@given(
    st.sampled_from(sorted(SPOILT)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.floats(0.2, 1),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_damage_ends_in_words_and_inside_the_folder(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[float, int]], length: float
) -> None:
    tmp_path = tmp_path_factory.mktemp("spoilt")
    data = bytearray(SPOILT[kind])
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    path = tmp_path / "a.bin"
    path.write_bytes(data[: int(len(data) * length)])
    into = tmp_path / "into"
    into.mkdir()
    try:
        unpack(path, into, Allowance(size=path.stat().st_size, floor=1024**2))
    except StudioError as error:
        assert str(error).encode()
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.bin", "into"}
