"""Bulk indexing: the index tables emptied and filled again from manifests and journal."""

from __future__ import annotations

from collections.abc import Iterator

from studio.core.errors import Problem
from studio.core.manifest import VariantManifest, VersionManifest
from studio.registry.database import Database
from studio.registry.rows import Here, Row, alias_row, journal_row, variant_row, version_row
from studio.store.manifests import ManifestName, newest
from studio.store.store import Store

TABLES = ("facts", "unreadable", "versions", "variants", "aliases", "journal")
HEAD = "journal head"
HERE = "chosen for"


def rebuild(database: Database, store: Store, here: Here) -> dict[ManifestName, Problem]:
    """Fills the index from the store in one transaction; series and comparisons stay.

    Returns the manifests that could not be read; they are listed in the table `unreadable`. Raises Unavailable.
    """
    problems: dict[ManifestName, Problem] = {}
    variants: list[Row] = []
    history = store.journal.history
    scratch = store.workspace.run

    def versions() -> Iterator[Row]:
        # Sorted, a version comes right before its variants: their signature is still at hand.
        version: VersionManifest | None = None
        mine: list[VariantManifest] = []
        for _, manifest in store.manifests.read_all(newest(store.manifests.names()), problems):
            if isinstance(manifest, VariantManifest):
                ours = version if version and (version.model, version.version) == _key(manifest) else None
                mine += [manifest] if ours else []
                variants.append(variant_row(manifest, ours, here))
                continue
            if version is not None:
                yield version_row(version, _key(version) in history.archived, mine, here)
            version, mine = manifest, []
        if version is not None:
            yield version_row(version, _key(version) in history.archived, mine, here)

    with database.transaction():
        for table in TABLES:
            database.run(f"DELETE FROM {table}")  # noqa: S608
        database.load("versions", versions(), scratch)
        database.load("variants", variants, scratch)
        aliases = ((model, *alias) for model, names in history.aliases.items() for alias in names.items())
        database.load("aliases", (alias_row(*alias) for alias in aliases), scratch)
        database.load("journal", map(journal_row, store.journal.read()), scratch)
        database.insert("unreadable", [_unreadable(name, problem) for name, problem in problems.items()])
        database.run("INSERT INTO facts VALUES (?, ?), (?, ?)", [HEAD, store.journal.head, HERE, here.text])
    database.run("CHECKPOINT")
    return problems


def difference(database: Database, store: Store, here: Here) -> str:
    """Why the index does not fit the store, in words; empty if it does. Raises Unavailable."""
    head = database.rows("SELECT content FROM facts WHERE name = ?", [HEAD])
    if not head:
        return "it was empty"
    if head[0][0] != store.journal.head:
        return "the journal has other entries"
    if database.rows("SELECT content FROM facts WHERE name = ?", [HERE]) != [(here.text,)]:
        return "its choices among variants were made for another machine, runtime or preference"
    rows = database.rows(
        "SELECT model, version, '', 1 FROM versions UNION ALL SELECT model, version, variant, run FROM variants"
    )
    damaged = {ManifestName(*row) for row in database.rows("SELECT model, version, variant, run FROM unreadable")}
    known = set(newest(store.manifests.names()))
    if {ManifestName(*row) for row in rows} | damaged != known or len(rows) != len(set(rows)):
        return "the store has other manifests"
    problems: dict[ManifestName, Problem] = {}
    readable = sum(1 for _ in store.manifests.read_all(sorted(damaged), problems))
    return "a damaged manifest was repaired" if readable else ""


def _key(manifest: VersionManifest | VariantManifest) -> tuple[str, int]:
    return manifest.model, manifest.version


def _unreadable(name: ManifestName, problem: Problem) -> Row:
    return {
        "model": name.model,
        "version": name.version,
        "variant": name.variant,
        "run": name.run,
        "what": problem.sentence(),
    }
