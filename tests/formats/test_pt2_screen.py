"""The screen of .pt2 archives: every way to run code is named, and a plain program passes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from studio.core.errors import InvalidInput, NeedsTrust, Refused, StudioError
from studio.formats.torch.pt2_screen import no_pickles, screen
from tests.formats import programs
from tests.formats.graphs import edit_json, repacked


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "net.pt2"
    return programs.save(programs.SmallNet(), torch.zeros(2, 1, 8, 8), path, free=True)


@pytest.mark.parametrize("free", [True, False])
def test_plain_programs_pass(tmp_path: Path, free: bool) -> None:
    lstm = torch.nn.LSTM(4, 8, batch_first=True)
    attention = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    for number, (module, example) in enumerate(
        [
            (programs.SmallNet(), torch.zeros(2, 1, 8, 8)),
            (lstm, torch.zeros(2, 3, 4)),
            (attention, torch.zeros(2, 3, 8)),
        ]
    ):
        screen(programs.save(module, example, tmp_path / f"{number}.pt2", free))


@pytest.mark.parametrize("attack", programs.attacks(Path("x")))
def test_an_attack_needs_trust_and_does_not_run(plain: Path, tmp_path: Path, attack: str) -> None:
    mark = tmp_path / "ran"
    evil = repacked(plain, tmp_path / "evil.pt2", programs.attacks(mark)[attack])
    with pytest.raises(NeedsTrust) as caught:
        screen(evil)
    assert "evil.pt2" in caught.value.what
    assert caught.value.fix
    assert not mark.exists()


@pytest.mark.parametrize("attack", ["sample inputs", "old weights", "pickled weight", "opaque constant", "size"])
def test_these_attacks_are_real(plain: Path, tmp_path: Path, attack: str) -> None:
    """PyTorch itself runs them: if it no longer does, the screen may ask less."""
    mark = tmp_path / "ran"
    evil = repacked(plain, tmp_path / "evil.pt2", programs.attacks(mark)[attack])
    try:
        torch.export.load(evil)
    except Exception:  # most payloads leave nothing that the loader can go on with
        assert mark.exists()
    assert mark.exists()


@pytest.mark.parametrize("attack", ["sample inputs", "old weights", "pickled weight", "opaque constant"])
def test_loading_without_pickles_refuses_what_a_screen_might_miss(plain: Path, tmp_path: Path, attack: str) -> None:
    mark = tmp_path / "ran"
    evil = repacked(plain, tmp_path / "evil.pt2", programs.attacks(mark)[attack])
    with no_pickles(evil), pytest.raises(NeedsTrust):
        torch.export.load(evil)
    assert not mark.exists()


def test_the_payload_is_named(plain: Path, tmp_path: Path) -> None:
    evil = repacked(plain, tmp_path / "evil.pt2", programs.attacks(tmp_path / "ran")["sample inputs"])
    with pytest.raises(NeedsTrust, match=r"open' in data/sample_inputs/model\.pt"):
        screen(evil)


def test_compiled_packages_are_refused_with_the_reason(plain: Path, tmp_path: Path) -> None:
    def compile_it(members: dict[str, bytes]) -> None:
        members["data/aotinductor/model/lib.so"] = b"\x7fELF"

    with pytest.raises(Refused, match="AOTInductor") as caught:
        screen(repacked(plain, tmp_path / "aot.pt2", compile_it))
    assert not isinstance(caught.value, NeedsTrust)
    assert "native code" in caught.value.why


def test_python_objects_as_inputs_are_refused(plain: Path, tmp_path: Path) -> None:
    def name_a_type(table: dict) -> None:
        entry = table["graph_module"]["module_call_graph"][0]["signature"]
        entry["in_spec"] = entry["in_spec"].replace("builtins.dict", "collections.defaultdict")

    with pytest.raises(Refused, match="Python objects"):
        screen(repacked(plain, tmp_path / "odd.pt2", edit_json(programs.PROGRAM, name_a_type)))


def test_a_damaged_archive_is_no_traceback(plain: Path, tmp_path: Path) -> None:
    data = plain.read_bytes()
    for number, broken in enumerate((data[: len(data) // 2], b"PK\x03\x04" + b"\0" * 100)):
        path = tmp_path / f"broken{number}.pt2"
        path.write_bytes(broken)
        with pytest.raises(StudioError):
            screen(path)


def test_an_entry_that_leads_out_of_the_archive_is_told(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "slip.pt2"
    path.write_bytes(plain.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../slip", b"x")
    with pytest.raises(InvalidInput, match=r"'slip.pt2' is no readable .pt2 archive") as caught:
        screen(path)
    assert caught.value.why.startswith("file in archive is not in a subdirectory")
