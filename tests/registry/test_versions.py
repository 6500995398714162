"""Listing and looking up: states, aliases, figures, filters and pages."""

from __future__ import annotations

import pytest

from studio.core.errors import InvalidInput, NotFound
from studio.core.views import VersionRow
from studio.registry.changes import add_variant, add_version, archive, move_alias, remove_alias, restore
from studio.registry.registry import Registry
from studio.registry.versions import (
    alias_moves,
    counts,
    find_digest,
    journal,
    list_versions,
    model_detail,
    version_detail,
    version_row_of,
)
from tests.manifests import variant, version


def states(registry: Registry, model: str = "digits") -> dict[int, tuple[str, tuple[str, ...], bool]]:
    return {row.version: (row.state, row.aliases, row.latest) for row in model_detail(registry, model).versions}


def test_a_version_is_listed_with_its_figures(registry: Registry) -> None:
    blobs = registry.store.blobs
    manifest = version(blobs, cosines=(0.9, None, 0.7), title="Digits", tags=("vision",))
    row = add_version(registry, manifest)
    assert (row.p50, row.fidelity, row.accuracy, row.size) == (None, 0.7, 0.9, manifest.graph.size)
    assert [(v.variant, v.outcome, v.fidelity) for v in row.variants] == [("fp32", "reference", 0.7)]
    add_variant(registry, variant(blobs, name="int8", p50=2.0))
    add_variant(registry, variant(blobs, name="int4", outcome="not applicable", graph=False))
    row = add_variant(registry, variant(blobs, name="fp32", outcome="reference", p50=4.0))
    assert (row.p50, row.accuracy, row.title, row.tags) == (4.0, 0.88, "Digits", ("vision",))
    assert [v.variant for v in row.variants] == ["fp32", "int4", "int8"]
    int8 = row.variants[2]
    assert (int8.outcome, int8.p50, int8.throughput, int8.peak_memory) == ("keep", 2.0, 500.0, 1 << 20)
    assert (int8.fidelity, int8.accuracy, int8.speedup) == (0.998, 0.88, 1.5)
    assert int8.sentence == "int8: keep at 2.0 ms"
    assert row.variants[1].size == 0


def test_the_newest_serves_the_bare_name_until_production_is_set(registry: Registry) -> None:
    for number in (1, 2, 3):
        add_version(registry, version(registry.store.blobs, number=number))
        add_variant(registry, variant(registry.store.blobs, number=number))
    assert states(registry) == {
        1: ("ready", (), False),
        2: ("ready", (), False),
        3: ("serving", ("latest",), True),
    }
    assert model_detail(registry, "digits").primary == "3-fp32"
    move_alias(registry, "digits", "production", "1-int8")
    move_alias(registry, "digits", "mine", "1")
    move_alias(registry, "digits", "candidate", "1")
    assert states(registry) == {
        1: ("serving", ("production", "candidate", "mine"), False),
        2: ("ready", (), False),
        3: ("ready", ("latest",), True),
    }
    detail = model_detail(registry, "digits")
    assert detail.primary == "1-int8"
    assert detail.aliases == {"production": "1-int8", "mine": "1-fp32", "candidate": "1-fp32", "latest": "3-fp32"}
    by_variant = {v.variant: v.aliases for v in version_row_of(registry, "digits", 1).variants}
    assert by_variant == {"fp32": ("candidate", "mine"), "int8": ("production",)}
    remove_alias(registry, "digits", "production")
    archive(registry, "digits", 3)
    assert states(registry) == {
        1: ("serving", ("candidate", "mine"), False),
        2: ("serving", ("latest",), True),
        3: ("archived", (), False),
    }
    assert model_detail(registry, "digits").primary == "2-fp32"
    restore(registry, "digits", 3)
    assert states(registry)[3] == ("serving", ("latest",), True)


def test_a_model_with_nothing_but_archived_versions_has_no_names(registry: Registry) -> None:
    add_version(registry, version(registry.store.blobs))
    archive(registry, "digits", 1)
    detail = model_detail(registry, "digits")
    assert (detail.primary, detail.aliases) == ("", {})
    assert list_versions(registry).total == 0
    assert list_versions(registry, archived=True).rows[0].state == "archived"


@pytest.fixture
def many(registry: Registry) -> Registry:
    blobs = registry.store.blobs
    for number, (model, title, tags, format_) in enumerate(
        [
            ("alpha", "Cats 100%", ("vision",), "onnx"),
            ("beta", "Dogs", ("vision", "big"), "pt2"),
            ("gamma", "Words", (), "gguf"),
            ("delta", "", ("big",), "safetensors"),
        ]
    ):
        content = "x" * (number + 1)
        created = f"2026-01-0{4 - number}T00:00:00Z"
        manifest = version(
            blobs, model, 1, title=title, tags=tags, format=format_, content=content, created=created,
            cosines=(None,) if model == "gamma" else (1.0 - number / 10,),
        )  # fmt: skip
        add_version(registry, manifest)
        if model != "beta":
            add_variant(registry, variant(blobs, model, 1, "fp32", outcome="reference", p50=10.0 - number))
    return registry


@pytest.mark.parametrize(
    ("words", "models"),
    [
        ("", ["alpha", "beta", "gamma", "delta"]),
        ("VISION", ["alpha", "beta"]),
        ("vision big", ["beta"]),
        ("gguf", ["gamma"]),
        ("100%", ["alpha"]),
        ("cats", ["alpha"]),
        ("delta:1", ["delta"]),
        ("champion", ["beta"]),
        ("latest", ["alpha", "beta", "gamma", "delta"]),
        ("' OR 1=1 --", []),
        ("nothing", []),
    ],
)
def test_filter_matches_every_word(many: Registry, words: str, models: list[str]) -> None:
    move_alias(many, "beta", "champion", "1")
    page = list_versions(many, filter=words)
    assert [row.model for row in page.rows] == models
    assert page.total == len(models)


@pytest.mark.parametrize(
    ("sort", "up", "down"),
    [
        ("model", "alpha beta delta gamma", "gamma delta beta alpha"),
        ("created", "delta gamma beta alpha", "alpha beta gamma delta"),
        ("size", "alpha beta gamma delta", "delta gamma beta alpha"),
        ("p50", "delta gamma alpha beta", "alpha gamma delta beta"),
        ("fidelity", "delta beta alpha gamma", "alpha beta delta gamma"),
    ],
)
def test_sorting_puts_what_has_no_figure_last(many: Registry, sort: str, up: str, down: str) -> None:
    def order(descending: bool) -> str:
        return " ".join(row.model for row in list_versions(many, sort=sort, descending=descending).rows)

    assert (order(False), order(True)) == (up, down)


def test_pages_add_up(many: Registry) -> None:
    rows: list[VersionRow] = []
    for offset in (0, 3, 6):
        page = list_versions(many, sort="model", descending=False, offset=offset, limit=3)
        assert (page.total, page.offset) == (4, offset)
        rows += page.rows
    assert [row.model for row in rows] == ["alpha", "beta", "delta", "gamma"]
    with pytest.raises(InvalidInput):
        list_versions(many, offset=-1)
    with pytest.raises(InvalidInput, match="model, created"):
        list_versions(many, sort="model; DROP TABLE versions")


def test_details_carry_manifests_and_history(registry: Registry) -> None:
    blobs = registry.store.blobs
    manifests = {number: version(blobs, number=number) for number in (1, 12)}
    for manifest in manifests.values():
        add_version(registry, manifest)
    int8 = variant(blobs)
    add_variant(registry, int8)
    move_alias(registry, "digits", "production", "1-int8")
    move_alias(registry, "digits", "production", "12", "newer", "tui")
    move_alias(registry, "digits", "candidate", "12")
    detail = version_detail(registry, "digits", 1)
    assert (detail.manifest, detail.variants) == (manifests[1], (int8,))
    assert [(entry.action, entry.subject) for entry in detail.history] == [
        ("alias.moved", "digits:production"),
        ("alias.moved", "digits:production"),
        ("variant.added", "digits:1-int8"),
        ("version.added", "digits:1"),
    ]
    moves = model_detail(registry, "digits").moves
    assert [(move.alias, move.before, move.after, move.actor) for move in moves] == [
        ("candidate", "", "12-fp32", "engine"),
        ("production", "1-int8", "12-fp32", "tui"),
        ("production", "", "1-int8", "engine"),
    ]
    assert alias_moves(registry, "digits", "production", limit=1)[0].why == "newer"
    entries = journal(registry, limit=2)
    assert entries == registry.store.journal.read()[:-3:-1]


def test_what_is_not_there_is_not_found(registry: Registry) -> None:
    add_version(registry, version(registry.store.blobs))
    for look in (
        lambda: version_detail(registry, "digits", 2),
        lambda: version_row_of(registry, "other", 1),
        lambda: model_detail(registry, "other"),
    ):
        with pytest.raises(NotFound):
            look()


def test_counts_and_digests(registry: Registry) -> None:
    blobs = registry.store.blobs
    for model, number in (("a", 1), ("a", 2), ("b", 1)):
        add_version(registry, version(blobs, model, number, content="same"))
    add_variant(registry, variant(blobs, "a", 2))
    archive(registry, "b", 1)
    found = counts(registry)
    assert (found.models, found.versions, found.archived, found.variants) == (1, 2, 1, 1)
    digest = version(None, content="same").source.digest
    assert (find_digest(registry, "a", digest), find_digest(registry, "c", digest)) == (2, None)
