"""Manifests: written once, wholly or not at all; one that is damaged does not stop the others."""

from __future__ import annotations

import threading
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from studio.core.errors import Conflict, InvalidInput, NotFound, Problem, StudioError
from studio.core.manifest import FileRef, VariantManifest, VersionManifest
from studio.core.settings import GateSettings
from studio.store.manifests import ManifestName, files_of
from studio.store.store import Store
from studio.store.workspace import Workspace
from tests.manifests import variant, version


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Workspace.open(tmp_path))


def test_what_is_written_is_read_back(store: Store) -> None:
    manifest = version(store.blobs)
    other = variant(store.blobs, name="int8-static")
    store.manifests.write_version(manifest)
    store.manifests.write_variant(other)
    assert store.manifests.read_version("digits", 1) == manifest
    assert store.manifests.read_variant("digits", 1, "int8-static") == other
    assert store.manifests.versions() == [("digits", 1)]
    assert store.manifests.variants_of("digits", 1) == ("int8-static",)
    path = store.workspace.models / "digits" / "1-int8-static.json"
    assert path.stat().st_mode & 0o222 == 0


def places_of_files(kind: Any, path: str = "") -> set[str]:
    """Where in a kind of value a FileRef can stand, by its type hints."""
    if kind is FileRef:
        return {path}
    found: set[str] = set()
    for part in get_args(kind):
        found |= places_of_files(part, path)
    if is_dataclass(kind):
        for name, hint in get_type_hints(kind).items():
            found |= places_of_files(hint, f"{path}.{name}")
    return found


def test_every_file_that_a_manifest_can_name_is_kept(store: Store) -> None:
    files = {name: store.blobs.put_bytes(name.encode(), name) for name in "abcdef"}
    plain = version(store.blobs)
    full = replace(
        plain,
        source=replace(plain.source, files=(files["a"],)),
        graph=replace(plain.graph, file=files["b"], weights=(files["c"],)),
        samples=replace(plain.samples, file=files["d"]),
        example=files["e"],
        assets=(files["f"],),
    )
    assert {file.name for file in files_of(full)} == set("abcdef")
    # A new place for a file fails here until `files_of` knows it: else a purge would take a blob that is needed.
    assert places_of_files(VersionManifest) == {
        ".source.files", ".graph.file", ".graph.weights", ".samples.file", ".example", ".assets"
    }  # fmt: skip
    assert places_of_files(VariantManifest) == {".graph.file", ".graph.weights"}
    store.manifests.write_version(full)
    store.collect(min_age_seconds=-1)
    assert {file.sha256 for file in files.values()} == store.blobs.hashes()


def test_thresholds_of_a_version_stand_over_the_workspaces_and_unknown_ones_are_left_out(store: Store) -> None:
    manifest = replace(version(store.blobs), gates={"min_gain": 0.5, "of_a_later_studio": 1.0})
    store.manifests.write_version(manifest)
    workspace = GateSettings(min_cosine=0.5)
    assert store.manifests.read_version("digits", 1).gates_over(workspace) == replace(workspace, min_gain=0.5)


def test_nothing_is_overwritten(store: Store) -> None:
    store.manifests.write_version(version(store.blobs))
    with pytest.raises(Conflict):
        store.manifests.write_version(version(store.blobs, title="another"))
    store.manifests.write_variant(variant(store.blobs))
    with pytest.raises(Conflict):
        store.manifests.write_variant(variant(store.blobs, p50=9.0))
    assert store.manifests.read_version("digits", 1).title == ""


def test_of_two_writers_one_wins(store: Store) -> None:
    manifests = [version(store.blobs, title=str(i)) for i in range(8)]
    start, outcomes = threading.Barrier(8), []

    def write(index: int) -> None:
        start.wait()
        try:
            store.manifests.write_version(manifests[index])
        except Conflict:
            return
        outcomes.append(str(index))

    threads = [threading.Thread(target=write, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [store.manifests.read_version("digits", 1).title]


def test_a_version_needs_its_blobs_and_a_variant_its_version(store: Store) -> None:
    with pytest.raises(NotFound, match="not in the store"):
        store.manifests.write_version(version(None))
    with pytest.raises(NotFound, match="no version digits:1"):
        store.manifests.write_variant(variant(store.blobs))
    assert store.manifests.names() == []


@pytest.mark.parametrize("model", ["../evil", "Upper", "", ".hidden", "a/b"])
def test_names_do_not_lead_out_of_the_folder(store: Store, model: str) -> None:
    with pytest.raises(InvalidInput):
        store.manifests.write_version(version(store.blobs, model))
    with pytest.raises(InvalidInput):
        store.manifests.read_version(model, 1)


def test_damaged_manifests_are_reported_and_left_alone(store: Store) -> None:
    for number in (1, 2, 3, 4):
        store.manifests.write_version(version(store.blobs, number=number))
    folder = store.workspace.models / "digits"
    for path in folder.iterdir():
        path.chmod(0o644)
    (folder / "1.json").write_bytes(b"\x00" * 40)
    (folder / "2.json").write_bytes((folder / "3.json").read_bytes())
    (folder / "4.json").write_text((folder / "4.json").read_text().replace('"schema": 1', '"schema": 99'))
    (folder / "notes.txt").write_text("mine")
    problems: dict[ManifestName, Problem] = {}
    read = [name.version for name, _ in store.manifests.read_all(sorted(store.manifests.names()), problems)]
    assert read == [3]
    assert {name.version: problem.what.split(" is ")[0] for name, problem in problems.items()} == {
        1: "The manifest digits/1.json",
        2: "The manifest digits/2.json",
        4: "The manifest digits/4.json was written by a newer Studio.",
    }
    assert (folder / "1.json").read_bytes() == b"\x00" * 40
    with pytest.raises(InvalidInput, match="damaged"):
        store.manifests.read_version("digits", 1)


def test_a_purge_frees_what_only_that_version_needs_and_its_number_is_not_used_again(store: Store) -> None:
    store.manifests.write_version(version(store.blobs, number=1, content="shared"))
    store.manifests.write_version(version(store.blobs, number=2, content="shared"))
    store.manifests.write_variant(variant(store.blobs, number=2))
    own = store.manifests.read_variant("digits", 2, "int8").graph
    assert own is not None
    store.journal.append("version.purged", "digits:2", actor="cli")
    assert store.purge("digits", 2) == own.size
    assert store.manifests.versions() == [("digits", 1)]
    assert store.blobs.exists(store.manifests.read_version("digits", 1).graph.file.sha256)
    assert not store.blobs.exists(own.file.sha256)
    assert store.next_version("digits") == 3
    assert Store.open(store.workspace).next_version("digits") == 3
    assert store.next_version("other") == 1


def test_a_damaged_manifest_keeps_every_blob(store: Store) -> None:
    store.manifests.write_version(version(store.blobs, number=1))
    store.manifests.write_version(version(store.blobs, number=2))
    path = store.workspace.models / "digits" / "1.json"
    path.chmod(0o644)
    path.write_text("{")
    before = store.blobs.hashes()
    assert store.collect(min_age_seconds=-1) == 0
    assert store.purge("digits", 2) == 0
    assert store.blobs.hashes() == before
    assert store.problems


def test_open_finishes_an_interrupted_purge_and_records_what_the_journal_misses(store: Store) -> None:
    for number in (1, 2):
        store.manifests.write_version(version(store.blobs, number=number))
    store.manifests.write_variant(variant(store.blobs, number=1))
    store.journal.append("version.purged", "digits:2", actor="cli")
    (store.workspace.models / "digits" / ".tmp-1-ff").write_text("half")
    again = Store.open(store.workspace)
    assert again.manifests.versions() == [("digits", 1)]
    assert again.journal.history.added == {("digits", 1)}
    assert again.journal.history.variants == {("digits", "1-int8"): 1}
    assert len(again.notices) == 2
    assert not list(again.workspace.models.glob("*/.tmp-*"))
    once_more = Store.open(store.workspace)
    assert (once_more.notices, once_more.journal.head) == ([], again.journal.head)


def test_a_variant_judged_again_has_a_further_document_and_the_newest_holds(store: Store) -> None:
    store.manifests.write_version(version(store.blobs))
    first = variant(store.blobs)
    store.manifests.write_variant(first)
    again = replace(first, run=2, verdict=replace(first.verdict, outcome="reject"))
    store.manifests.write_variant(again)
    store.manifests.write_variant(variant(store.blobs, name="fp16"))
    folder = store.workspace.models / "digits"
    assert sorted(path.name for path in folder.iterdir()) == ["1-fp16.json", "1-int8.json", "1-int8@2.json", "1.json"]
    assert store.manifests.read_variant("digits", 1, "int8") == again
    assert [one.run for one in store.manifests.read_variants("digits", 1)] == [1, 2]
    assert store.manifests.variants_of("digits", 1) == ("fp16", "int8")
    assert store.manifests.last_run("digits", 1, "int8") == 2
    with pytest.raises(Conflict):
        store.manifests.write_variant(again)
    # What the journal misses is recorded, each run by itself.
    reopened = Store.open(store.workspace)
    actions = [(entry.action, entry.subject) for entry in reopened.journal.read() if entry.subject.endswith("int8")]
    assert actions == [("variant.judged" if n else "variant.added", "digits:1-int8") for n in range(len(actions))]
    store.manifests.delete("digits", 1)
    assert not folder.exists()


def test_a_missing_manifest_is_a_problem(store: Store) -> None:
    store.manifests.write_version(version(store.blobs))
    store.journal.append("version.added", "digits:1", actor="engine")
    (store.workspace.models / "digits" / "1.json").unlink()
    assert [problem.what for problem in Store.open(store.workspace).problems] == [
        "The manifest of digits:1 is missing."
    ]


def test_a_version_of_the_wrong_kind_is_refused_on_reading(store: Store) -> None:
    store.manifests.write_version(version(store.blobs))
    path = store.workspace.models / "digits" / "1.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"version": 1', '"version": "one"'))
    with pytest.raises(StudioError, match=r"version"):
        store.manifests.read_version("digits", 1)
