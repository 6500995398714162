"""Operations that change things, and the routing table that follows from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.core.errors import Conflict, InvalidInput, NotFound, Refused
from studio.core.manifest import Tuned
from studio.core.names import Reference
from studio.registry.changes import (
    add_variant,
    add_version,
    archive,
    move_alias,
    purge,
    remove_alias,
    restore,
    rollback,
    undo,
)
from studio.registry.registry import Registry
from studio.registry.routes import key_of, routing_table
from studio.registry.versions import find_content, journal, list_versions, model_detail
from tests.manifests import MACHINE, SIGNATURE, variant, version


@pytest.fixture
def digits(registry: Registry) -> Registry:
    blobs = registry.store.blobs
    for number in (1, 2, 3):
        add_version(registry, version(blobs, number=number))
        add_variant(registry, variant(blobs, number=number, name="fp32", outcome="reference"))
        add_variant(registry, variant(blobs, number=number, name="int8"))
    return registry


def production(registry: Registry) -> str:
    return routing_table(registry, 0).models["digits"].primary


def test_aliases_move_to_what_can_be_served_only(digits: Registry) -> None:
    move = move_alias(digits, "digits", "production", "2-int8", "faster", "tui")
    assert (move.before, move.after, move.why, move.actor) == ("", "2-int8", "faster", "tui")
    assert move_alias(digits, "digits", "candidate", "production").after == "2-int8"
    assert move_alias(digits, "digits", "candidate", "latest").after == "3-fp32"
    with pytest.raises(Conflict, match="already"):
        move_alias(digits, "digits", "production", "2-int8")
    for target in ("9", "2-int4", "nobody"):
        with pytest.raises(NotFound):
            move_alias(digits, "digits", "production", target)
    with pytest.raises(NotFound):
        move_alias(digits, "other", "production", "1")
    with pytest.raises(InvalidInput):
        move_alias(digits, "digits", "latest", "1")
    with pytest.raises(NotFound):
        remove_alias(digits, "digits", "nobody")


def test_rollback_and_undo(digits: Registry) -> None:
    with pytest.raises(NotFound):
        rollback(digits, "digits", "production")
    with pytest.raises(NotFound):
        undo(digits)
    move_alias(digits, "digits", "production", "1")
    with pytest.raises(Conflict, match="no earlier place"):
        rollback(digits, "digits", "production")
    move_alias(digits, "digits", "production", "2-int8")
    assert rollback(digits, "digits", "production").after == "1-fp32"
    assert production(digits) == "1-fp32"
    assert undo(digits).after == "2-int8"
    move_alias(digits, "digits", "candidate", "3")
    assert undo(digits).after == ""
    assert "candidate" not in model_detail(digits, "digits").aliases
    assert undo(digits).after == "3-fp32"


def test_archiving_is_refused_while_an_alias_would_be_left_without_an_answer(digits: Registry) -> None:
    move_alias(digits, "digits", "production", "2-int8")
    with pytest.raises(Conflict, match="'production' means it"):
        archive(digits, "digits", 2)
    assert archive(digits, "digits", 3).state == "archived"
    with pytest.raises(Conflict):
        archive(digits, "digits", 3)
    with pytest.raises(NotFound):
        move_alias(digits, "digits", "candidate", "3")
    routes = routing_table(digits, 1).models["digits"]
    assert routes.aliases == {"production": "2-int8", "latest": "2-fp32"}
    assert set(routes.targets) == {"1-fp32", "1-int8", "2-fp32", "2-int8"}
    assert restore(digits, "digits", 3).state == "ready"
    with pytest.raises(Conflict):
        restore(digits, "digits", 3)


def test_purging_needs_archiving_first_and_removes_all(digits: Registry) -> None:
    with pytest.raises(Refused, match="not archived"):
        purge(digits, "digits", 1)
    archive(digits, "digits", 1)
    before = sum(path.stat().st_size for path in digits.store.blobs.folder.iterdir())
    freed = purge(digits, "digits", 1)
    assert freed > 0
    assert sum(path.stat().st_size for path in digits.store.blobs.folder.iterdir()) == before - freed
    assert [row.version for row in list_versions(digits, archived=True).rows] == [3, 2]
    with pytest.raises(NotFound):
        purge(digits, "digits", 1)
    assert digits.store.next_version("digits") == 4


def test_the_routing_table_holds_all_that_can_be_asked_for(registry: Registry) -> None:
    blobs = registry.store.blobs
    add_version(registry, version(blobs))
    add_variant(registry, variant(blobs, name="int8", outcome="reject"))
    add_variant(registry, variant(blobs, name="fp16", outcome="not distinguishable"))
    add_variant(registry, variant(blobs, name="int4", outcome="not applicable", graph=False))
    add_variant(registry, variant(blobs, name="int8-static", outcome="not applicable"))
    add_version(registry, version(blobs, "other"))
    add_version(registry, version(blobs, "gone"))
    archive(registry, "gone", 1)
    table = routing_table(registry, 7)
    assert table.generation == 7
    assert set(table.models) == {"digits", "other"}
    assert set(table.models["digits"].targets) == {"1-fp32", "1-int8", "1-fp16"}
    assert table.pinned == ()
    target = table.resolve(Reference.parse("digits:1-int8"))
    assert target is not None
    assert (target.name, target.signature, target.class_labels) == ("digits:1-int8", SIGNATURE, tuple("0123456789"))
    assert blobs.path(target.sha256).read_bytes() == b"digits 1 int8"
    assert target.path == str(blobs.path(target.sha256))
    move_alias(registry, "digits", "production", "1-fp16")
    assert routing_table(registry, 8).pinned == ("digits:1-fp16",)
    assert table.models["digits"].primary == "1-fp32"  # the earlier value did not change
    restore(registry, "gone", 1)
    assert "gone" in routing_table(registry, 9).models


@pytest.mark.parametrize(
    ("reference", "key"),
    [
        ("digits", "2-int8"),
        ("digits:production", "2-int8"),
        ("digits:latest", "3-fp32"),
        ("digits:1", "1-fp32"),
        ("digits:1-int8", "1-int8"),
    ],
)
def test_references_mean_one_variant(digits: Registry, reference: str, key: str) -> None:
    move_alias(digits, "digits", "production", "2-int8")
    assert key_of(digits, Reference.parse(reference)) == key


def test_routes_after_a_restart_are_the_same(digits: Registry) -> None:
    move_alias(digits, "digits", "production", "2-int8")
    archive(digits, "digits", 1)
    before = routing_table(digits, 1)
    digits.close()
    with Registry.open(digits.store.workspace) as again:
        assert routing_table(again, 1) == before


def test_auto_is_the_variant_that_was_chosen_and_follows_what_is_measured_again(digits: Registry) -> None:
    assert key_of(digits, Reference.parse("digits:2-auto")) == "2-int8"
    # An alias is given what `auto` means now, and stays there.
    assert move_alias(digits, "digits", "production", "2-auto").after == "2-int8"
    (first,) = [one for one in digits.store.manifests.read_variants("digits", 2) if one.variant == "int8"]
    worse = replace(first.verdict, outcome="reject", sentence="int8 rejected: 7.0x slower.", reason="7.0x slower")
    row = add_variant(digits, replace(first, run=2, verdict=worse))
    assert (row.auto, row.choice) == ("fp32", "fp32: nothing that passes is faster here; int8 rejected: 7.0x slower.")
    assert key_of(digits, Reference.parse("digits:2-auto")) == "2-fp32"
    assert production(digits) == "2-int8"
    (entry, *_) = [one for one in journal(digits) if one.subject == "digits:2-int8"]
    assert (entry.action, entry.why) == ("variant.judged", "reject")
    routes = routing_table(digits, 0).models["digits"]
    assert "2-auto" not in routes.targets and routes.resolve("2-auto") is routes.targets["2-fp32"]
    rebuilt = model_detail(digits, "digits")
    digits.close()
    (digits.store.workspace.registry).unlink()
    with Registry.open(digits.store.workspace) as again:
        assert model_detail(again, "digits") == rebuilt
        assert key_of(again, Reference.parse("digits:2-auto")) == "2-fp32"
        assert key_of(again, Reference.parse("digits:3-auto")) == "3-int8"


def test_on_another_machine_figures_are_stale_and_auto_is_the_reference(digits: Registry) -> None:
    workspace = digits.store.workspace
    (row, *_) = list_versions(digits).rows
    assert row.auto == "int8" and not any(one.stale for one in row.variants)
    assert {one.variant: one.front for one in row.variants} == {"fp32": True, "int8": True}
    digits.close()
    with Registry.open(workspace, machine=replace(MACHINE, cores=64)) as moved:
        (row, *_) = list_versions(moved).rows
        assert row.auto == "fp32" and "that decides nothing here" in row.choice
        assert {one.stale for one in row.variants} == {"measured with 2 cores; this machine has 64"}
        assert key_of(moved, Reference.parse("digits:3-auto")) == "3-fp32"
    with Registry.open(workspace, machine=MACHINE) as back:
        (row, *_) = list_versions(back).rows
        assert row.auto == "int8" and not any(one.stale for one in row.variants)


def test_targets_carry_the_threads_that_were_measured_here(registry: Registry) -> None:
    blobs, workspace = registry.store.blobs, registry.store.workspace
    add_version(registry, version(blobs))
    for name, threads in (("fp32", 4), ("int8", 2), ("fp16", 1)):
        one = variant(blobs, name=name, outcome="reference" if name == "fp32" else "keep")
        assert one.measurement is not None
        tuned = replace(one.measurement, tuned=Tuned(threads=threads, batch=8))
        add_variant(registry, replace(one, measurement=tuned))

    def found(opened: Registry) -> dict[str, int]:
        return {key: target.threads for key, target in routing_table(opened, 0).models["digits"].targets.items()}

    assert found(registry) == {"1-fp32": 4, "1-int8": 2, "1-fp16": 1}
    registry.close()
    with Registry.open(workspace, machine=replace(MACHINE, cores=64)) as moved:
        assert set(found(moved).values()) == {1}
    with Registry.open(workspace, machine=MACHINE) as back:
        assert found(back) == {"1-fp32": 4, "1-int8": 2, "1-fp16": 1}


def test_evidence_is_found_by_its_content(digits: Registry) -> None:
    one = replace(variant(digits.store.blobs, number=1, name="fp16"), content="abc")
    add_variant(digits, one)
    assert find_content(digits, "abc", "fp16") == one
    assert find_content(digits, "abc", "int8") is None and find_content(digits, "other", "fp16") is None
