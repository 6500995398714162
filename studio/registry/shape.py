"""Rows of the index as the views that faces show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from studio.core.names import CANDIDATE, LATEST, PRODUCTION, REFERENCE_VARIANT
from studio.core.views import VariantRow, VersionRow
from studio.registry.rows import Row

_ORDER = {PRODUCTION: 0, CANDIDATE: 1, LATEST: 3}


def version_view(row: Row, variants: Sequence[Row], aliases: Sequence[tuple[str, str]]) -> VersionRow:
    """A listed version. `aliases` are (alias, variant). Until the reference is measured it stands without figures."""
    names = list(aliases)
    if row["latest"]:
        names.append((LATEST, REFERENCE_VARIANT))
    front = row["front"] or ()
    shown = sorted((_variant_view(variant, names, front) for variant in variants), key=_reference_first)
    if not any(variant.variant == REFERENCE_VARIANT for variant in shown):
        shown.insert(0, _unmeasured(row, names))
    return VersionRow(
        model=row["model"],
        version=row["version"],
        state="archived" if row["archived"] else "serving" if row["primary"] or aliases else "ready",
        created=row["created"],
        format=row["format"],
        size=row["size"],
        p50=row["p50"],
        accuracy=row["accuracy"],
        fidelity=row["fidelity"],
        aliases=_ordered(name for name, _ in names),
        variants=tuple(shown),
        latest=row["latest"],
        title=row["title"],
        tags=tuple(row["tags"]),
        auto=row["auto"],
        choice=row["choice"],
    )


def _variant_view(row: Row, names: Sequence[tuple[str, str]], front: Sequence[str]) -> VariantRow:
    return VariantRow(
        variant=row["variant"],
        outcome=row["outcome"],
        sentence=row["sentence"],
        size=row["size"],
        p50=row["p50"],
        throughput=row["throughput"],
        peak_memory=row["peak_memory"],
        fidelity=row["fidelity"],
        accuracy=row["accuracy"],
        speedup=row["speedup"],
        aliases=_ordered(name for name, variant in names if variant == row["variant"]),
        stale=row["stale"],
        front=row["variant"] in front,
        threads=row["threads"],
        inputs=row["inputs"],
    )


def _unmeasured(row: Row, names: Sequence[tuple[str, str]]) -> VariantRow:
    return VariantRow(
        variant=REFERENCE_VARIANT,
        outcome="reference",
        sentence="",
        size=row["size"],
        fidelity=row["fidelity"],
        accuracy=row["accuracy"],
        aliases=_ordered(name for name, variant in names if variant == REFERENCE_VARIANT),
    )


def _reference_first(row: VariantRow) -> tuple[bool, str]:
    return row.variant != REFERENCE_VARIANT, row.variant


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (_ORDER.get(name, 2), name)))
