"""Versions, variants and aliases: keeping the index up to date, and asking it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from studio.core.errors import InvalidInput, NotFound
from studio.core.journal import AliasMove, Entry, RouteChange
from studio.core.manifest import VariantManifest, VersionManifest
from studio.core.names import LATEST, PRODUCTION, REFERENCE_VARIANT, Reference, variant_key
from studio.core.route import Route
from studio.core.views import ModelDetail, VersionDetail, VersionPage, VersionRow
from studio.registry.rebuild import HEAD
from studio.registry.registry import Registry
from studio.registry.rows import Row, alias_row, journal_row, variant_row, version_row
from studio.registry.shape import version_view
from studio.store.history import is_about_code, move_of, route_change_of, subject_of, version_of

Sort = Literal["model", "created", "size", "p50", "fidelity"]

_SORTS = {"model": "model", "created": "created", "size": "size", "p50": "p50", "fidelity": "fidelity"}

# A version with what its lists show: `names` are its aliases, `primary` whether the bare model name means it.
_LISTED = """
    WITH newest AS (SELECT model, max(version) AS version FROM versions WHERE NOT archived GROUP BY model),
    live AS (SELECT a.* FROM aliases a JOIN versions v USING (model, version) WHERE NOT v.archived),
    named AS (SELECT model, version, list(alias) AS names FROM live GROUP BY model, version),
    chosen AS (SELECT model FROM live WHERE alias = 'production'),
    reference AS (SELECT model, version, p50, accuracy FROM variants WHERE variant = 'fp32')
    SELECT v.model, v.version, v.created, v.format, v.size, v.fidelity, v.title, v.tags, v.archived, r.p50,
        v.auto, v.choice, v.front,
        coalesce(r.accuracy, v.accuracy) AS accuracy, n.version IS NOT NULL AS latest, coalesce(a.names, []) AS names,
        n.version IS NOT NULL AND c.model IS NULL OR list_contains(coalesce(a.names, []), 'production') AS "primary"
    FROM versions v
    LEFT JOIN newest n ON n.model = v.model AND n.version = v.version
    LEFT JOIN named a ON a.model = v.model AND a.version = v.version
    LEFT JOIN chosen c ON c.model = v.model
    LEFT JOIN reference r ON r.model = v.model AND r.version = v.version
"""
_HAYSTACK = """lower(concat_ws(' ', model || ':' || version, title, array_to_string(tags, ' '), format,
    array_to_string(names, ' '), CASE WHEN latest THEN 'latest' ELSE '' END))"""


@dataclass(frozen=True)
class Counts:
    """How much there is. `models` have at least one version that is not archived; so count `versions`."""

    models: int
    versions: int
    archived: int
    variants: int


def index(
    registry: Registry,
    entries: Sequence[Entry] = (),
    version: VersionManifest | None = None,
    variant: VariantManifest | None = None,
) -> None:
    """Takes journal entries, and the manifest that came with them, into the index in one transaction.

    Idempotent for manifests. Raises Unavailable; then the store is ahead, and the next open rebuilds the index.
    """
    with registry.database.transaction():
        if version is not None:
            _index_version(registry, version)
        if variant is not None:
            _index_variant(registry, variant)
        for entry in entries:
            _index_entry(registry, entry)
        if entries:
            registry.database.run("UPDATE facts SET content = ? WHERE name = ?", [entries[-1].hash, HEAD])
    touched = {subject_of(entry)[0] for entry in entries if not is_about_code(entry)}
    touched |= {manifest.model for manifest in (version, variant) if manifest is not None}
    if registry.stale is not None:
        registry.stale |= touched


def _index_version(registry: Registry, manifest: VersionManifest) -> None:
    key = (manifest.model, manifest.version)
    registry.database.run("DELETE FROM versions WHERE model = ? AND version = ?", key)
    archived = key in registry.store.journal.history.archived
    registry.database.insert("versions", [version_row(manifest, archived, here=registry.here)])


def _index_variant(registry: Registry, manifest: VariantManifest) -> None:
    key = (manifest.model, manifest.version, manifest.variant)
    version = registry.store.manifests.read_version(manifest.model, manifest.version)
    registry.database.run("DELETE FROM variants WHERE model = ? AND version = ? AND variant = ?", key)
    registry.database.insert("variants", [variant_row(manifest, version, registry.here)])
    if version is None:
        return
    # What its variants are like is in the version's row too: the choice among them, the threads of the reference.
    variants = registry.store.manifests.read_variants(manifest.model, manifest.version)
    row = version_row(version, False, variants, registry.here)
    registry.database.run(
        "UPDATE versions SET target = ?, auto = ?, choice = ?, front = ? WHERE model = ? AND version = ?",
        [row["target"], row["auto"], row["choice"], row["front"], manifest.model, manifest.version],
    )


def _index_entry(registry: Registry, entry: Entry) -> None:
    database = registry.database
    database.insert("journal", [journal_row(entry)])
    model, tail = subject_of(entry)
    if entry.action in ("alias.moved", "alias.removed"):
        database.run("DELETE FROM aliases WHERE model = ? AND alias = ?", [model, tail])
        if entry.after:
            database.insert("aliases", [alias_row(model, tail, entry.after)])
    elif entry.action in ("version.archived", "version.restored"):
        archived = entry.action == "version.archived"
        database.run(
            "UPDATE versions SET archived = ? WHERE model = ? AND version = ?", [archived, model, version_of(tail)]
        )
    elif entry.action == "version.purged":
        for table in ("versions", "variants"):
            database.run(f"DELETE FROM {table} WHERE model = ? AND version = ?", [model, version_of(tail)])  # noqa: S608


def list_versions(
    registry: Registry,
    filter: str = "",
    sort: str = "created",
    descending: bool = True,
    archived: bool = False,
    offset: int = 0,
    limit: int = 100,
) -> VersionPage:
    """A page of versions. Every word of `filter` must occur in reference, title, tags, format or aliases.

    `archived` also shows archived ones. What has no figure comes last, whichever way it is sorted.
    Raises InvalidInput for an unknown sort key or a negative page.
    """
    if sort not in _SORTS:
        raise InvalidInput(f"Versions can not be sorted by {sort[:40]!r}.", f"Sort keys: {', '.join(_SORTS)}.")
    if offset < 0 or limit < 0:
        raise InvalidInput("A page can not start or end before the list.", "offset and limit are 0 or more.")
    where = ["true"] if archived else ["NOT archived"]
    words = filter.lower().split()
    where += [f"contains({_HAYSTACK}, ?)"] * len(words)
    way = "DESC" if descending else "ASC"
    found = registry.database.records(
        f"SELECT *, count(*) OVER () AS total FROM ({_LISTED}) WHERE {' AND '.join(where)} "  # noqa: S608
        f"ORDER BY {_SORTS[sort]} {way} NULLS LAST, model, version DESC LIMIT ? OFFSET ?",
        [*words, limit, offset],
    )
    if found:
        total = found[0]["total"]
    else:
        total = registry.database.rows(
            f"SELECT count(*) FROM ({_LISTED}) WHERE {' AND '.join(where)}",  # noqa: S608
            words,
        )[0][0]
    return VersionPage(rows=_views(registry, found), total=total, offset=offset)


def version_row_of(registry: Registry, model: str, version: int) -> VersionRow:
    """One version as lists show it. Raises NotFound."""
    found = registry.database.records(f"{_LISTED} WHERE v.model = ? AND v.version = ?", [model, version])
    if not found:
        raise NotFound(
            f"There is no version {model}:{version}.",
            "It was never added, or it was purged.",
            f"See which there are: studio ls {model}",
        )
    return _views(registry, found)[0]


def version_detail(registry: Registry, model: str, version: int) -> VersionDetail:
    """Everything about a version; `history` newest first. Raises NotFound; InvalidInput for a damaged manifest."""
    row = version_row_of(registry, model, version)
    manifests = registry.store.manifests
    return VersionDetail(
        row=row,
        manifest=manifests.read_version(model, version),
        variants=tuple(manifests.read_variants(model, version)),
        history=tuple(
            _entries(
                registry,
                "WHERE model = ? AND (version = ? OR version IS NULL AND "
                "? IN (split_part(before, '-', 1), split_part(after, '-', 1)))",
                [model, version, str(version)],
            )
        ),
    )


def model_detail(registry: Registry, model: str, limit: int = 1000) -> ModelDetail:
    """One model with its `limit` newest versions, newest first, archived ones too. Raises NotFound."""
    found = registry.database.records(f"{_LISTED} WHERE v.model = ? ORDER BY v.version DESC LIMIT ?", [model, limit])
    if not found:
        raise NotFound(f"There is no model '{model}'.", "Nothing of that name was added.", "See: studio ls")
    aliases = {
        alias: variant_key(version, variant)
        for alias, version, variant in registry.database.rows(
            "SELECT alias, version, variant FROM aliases WHERE model = ? ORDER BY alias", [model]
        )
    }
    live = [
        version
        for (version,) in registry.database.rows(
            "SELECT version FROM versions WHERE model = ? AND NOT archived ORDER BY version DESC", [model]
        )
    ]
    newest = variant_key(live[0], REFERENCE_VARIANT) if live else ""
    chosen = PRODUCTION in aliases and Reference.of(model, aliases[PRODUCTION]).version in live
    return ModelDetail(
        model=model,
        primary=aliases[PRODUCTION] if chosen else newest,
        aliases=aliases | ({LATEST: newest} if newest else {}),
        versions=_views(registry, found),
        moves=tuple(alias_moves(registry, model)),
        route=Route.parse(registry.store.journal.history.routes.get(model, "")),
        route_changes=tuple(route_changes(registry, model)),
    )


def counts(registry: Registry) -> Counts:
    """Totals over everything."""
    (models, versions, archived), *_ = registry.database.rows(
        "SELECT count(DISTINCT model) FILTER (NOT archived), count(*) FILTER (NOT archived), "
        "count(*) FILTER (archived) FROM versions"
    )
    ((variants,),) = registry.database.rows("SELECT count(*) FROM variants")
    return Counts(models, versions, archived, variants)


def find_digest(registry: Registry, model: str, digest: str) -> int | None:
    """The newest version of a model that was made from exactly these files, archived or not; None if none was."""
    found = registry.database.rows("SELECT max(version) FROM versions WHERE model = ? AND digest = ?", [model, digest])
    version: int | None = found[0][0]
    return version


def find_content(registry: Registry, content: str, variant: str) -> VariantManifest | None:
    """A variant of that name, of whatever model, whose evidence rests on exactly this content; the newest such."""
    found = registry.database.rows(
        "SELECT model, version FROM variants WHERE content = ? AND variant = ? ORDER BY version DESC, model LIMIT 1",
        [content, variant],
    )
    if not found:
        return None
    model, version = found[0]
    return registry.store.manifests.read_variant(model, version, variant)


def journal(registry: Registry, limit: int = 100) -> list[Entry]:
    """The newest entries, newest first."""
    return _entries(registry, "", [], limit)


def alias_moves(
    registry: Registry, model: str | None = None, alias: str | None = None, limit: int = 100
) -> list[AliasMove]:
    """How aliases moved, newest first: of one alias, of a model, or of all."""
    where, values = "WHERE action IN ('alias.moved', 'alias.removed')", []
    if model is not None:
        where, values = f"{where} AND model = ?", [model]
        if alias is not None:
            where, values = f"{where} AND subject = ?", [model, f"{model}:{alias}"]
    return [move_of(entry) for entry in _entries(registry, where, values, limit)]


def route_changes(registry: Registry, model: str, limit: int = 100) -> list[RouteChange]:
    """How a model's route was changed, newest first."""
    where = "WHERE action = 'route.changed' AND model = ?"
    return [route_change_of(entry) for entry in _entries(registry, where, [model], limit)]


def newest_change(registry: Registry) -> AliasMove | RouteChange | None:
    """What was decided last about where requests go; None if nothing was so far."""
    where = "WHERE action IN ('alias.moved', 'alias.removed', 'route.changed')"
    found = _entries(registry, where, [], 1)
    if not found:
        return None
    return route_change_of(found[0]) if found[0].action == "route.changed" else move_of(found[0])


def _entries(registry: Registry, where: str, values: Sequence[object], limit: int = 1000) -> list[Entry]:
    rows = registry.database.records(
        f'SELECT seq, moment AS "at", actor, action, subject, before, after, why, prev, hash FROM journal {where} '  # noqa: S608
        "ORDER BY seq DESC LIMIT ?",
        [*values, limit],
    )
    return [Entry(**row) for row in rows]


def _views(registry: Registry, found: Sequence[Row]) -> tuple[VersionRow, ...]:
    page = "(SELECT unnest(?::VARCHAR[]) AS model, unnest(?::INTEGER[]) AS version)"
    keys = [[row["model"] for row in found], [row["version"] for row in found]]
    variants: dict[tuple[str, int], list[Row]] = {}
    names: dict[tuple[str, int], list[tuple[str, str]]] = {}
    if found:
        for row in registry.database.records(f"SELECT * FROM variants JOIN {page} USING (model, version)", keys):  # noqa: S608
            variants.setdefault((row["model"], row["version"]), []).append(row)
        for row in registry.database.records(f"SELECT * FROM aliases JOIN {page} USING (model, version)", keys):  # noqa: S608
            names.setdefault((row["model"], row["version"]), []).append((row["alias"], row["variant"]))
    return tuple(
        version_view(
            row, variants.get((row["model"], row["version"]), []), names.get((row["model"], row["version"]), [])
        )
        for row in found
    )
