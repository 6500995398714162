"""Manifests and journal entries as rows of the index. Keys are column names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from studio.core import codec
from studio.core.choice import Prefer, choose, stale_words
from studio.core.journal import Entry
from studio.core.manifest import Fidelity, Graph, Machine, VariantManifest, VersionManifest
from studio.core.names import REFERENCE_VARIANT, Reference
from studio.core.routing import Target
from studio.store.history import is_about_code, subject_of, version_of

Row = dict[str, Any]

SERVABLE = frozenset({"reference", "keep", "not distinguishable", "reject"})
"""Outcomes whose graph can be asked for by full reference: a rejected variant may still be looked at."""

# Column types per table: how JSON is read back, and the order of multi-row inserts.
COLUMNS: dict[str, dict[str, str]] = {
    "versions": {
        "model": "VARCHAR",
        "version": "INTEGER",
        "created": "VARCHAR",
        "format": "VARCHAR",
        "digest": "VARCHAR",
        "size": "BIGINT",
        "fidelity": "DOUBLE",
        "accuracy": "DOUBLE",
        "title": "VARCHAR",
        "tags": "VARCHAR[]",
        "archived": "BOOLEAN",
        "target": "VARCHAR",
        "auto": "VARCHAR",
        "choice": "VARCHAR",
        "front": "VARCHAR[]",
    },
    "variants": {
        "model": "VARCHAR",
        "version": "INTEGER",
        "variant": "VARCHAR",
        "outcome": "VARCHAR",
        "sentence": "VARCHAR",
        "size": "BIGINT",
        "p50": "DOUBLE",
        "throughput": "DOUBLE",
        "peak_memory": "BIGINT",
        "fidelity": "DOUBLE",
        "accuracy": "DOUBLE",
        "speedup": "DOUBLE",
        "target": "VARCHAR",
        "run": "INTEGER",
        "content": "VARCHAR",
        "stale": "VARCHAR",
        "threads": "INTEGER",
        "inputs": "VARCHAR",
    },
    "aliases": {"model": "VARCHAR", "alias": "VARCHAR", "version": "INTEGER", "variant": "VARCHAR"},
    "unreadable": {
        "model": "VARCHAR",
        "version": "INTEGER",
        "variant": "VARCHAR",
        "run": "INTEGER",
        "what": "VARCHAR",
    },
    "journal": {
        "seq": "BIGINT",
        "moment": "VARCHAR",
        "actor": "VARCHAR",
        "action": "VARCHAR",
        "subject": "VARCHAR",
        "before": "VARCHAR",
        "after": "VARCHAR",
        "why": "VARCHAR",
        "prev": "VARCHAR",
        "hash": "VARCHAR",
        "model": "VARCHAR",
        "version": "INTEGER",
    },
}


def worst_cosine(fidelity: Fidelity | None) -> float | None:
    """The lowest cosine over all outputs; None where no output defines one."""
    if fidelity is None:
        return None
    return min((out.cosine for out in fidelity.outputs if out.cosine is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Here:
    """What the choice among variants depends on beside their manifests: this machine, and what is asked of them."""

    machine: Machine | None = None
    prefer: Prefer = "speed"

    @property
    def text(self) -> str:
        """To tell whether the index was made for another."""
        machine = self.machine
        return f"{self.prefer} {machine.cpu} {machine.cores} {machine.runtime}" if machine else self.prefer


def choice_row(variants: Sequence[VariantManifest], here: Here) -> Row:
    """What a version's row has of its variants."""
    choice = choose(variants, here.machine, here.prefer)
    return {"auto": choice.variant, "choice": choice.sentence, "front": list(choice.front)}


def version_row(
    manifest: VersionManifest, archived: bool, variants: Sequence[VariantManifest] = (), here: Here | None = None
) -> Row:
    """Row of `versions`. `target` is the reference graph's routing target as JSON, its path left empty."""
    reference = next((one for one in variants if one.is_reference), None)
    return {
        "model": manifest.model,
        "version": manifest.version,
        "created": manifest.created,
        "format": manifest.source.format,
        "digest": manifest.source.digest,
        "size": manifest.graph.size,
        "fidelity": worst_cosine(manifest.parity),
        "accuracy": manifest.parity.accuracy,
        "title": manifest.title,
        "tags": list(manifest.tags),
        "archived": archived,
        "target": _target(manifest, REFERENCE_VARIANT, manifest.graph, _threads(reference, here)),
    } | choice_row(variants, here or Here())


def variant_row(manifest: VariantManifest, version: VersionManifest | None, here: Here | None = None) -> Row:
    """Row of `variants`. `target` is None for what can not be served; the signature is that of its version."""
    measurement = manifest.measurement
    servable = manifest.graph is not None and manifest.verdict.outcome in SERVABLE and version is not None
    return {
        "model": manifest.model,
        "version": manifest.version,
        "variant": manifest.variant,
        "outcome": manifest.verdict.outcome,
        "sentence": manifest.verdict.sentence,
        "size": manifest.graph.size if manifest.graph else 0,
        "p50": measurement.p50 if measurement and measurement.latency else None,
        "throughput": measurement.throughput if measurement else None,
        "peak_memory": measurement.peak_memory if measurement else None,
        "fidelity": worst_cosine(manifest.fidelity),
        "accuracy": manifest.fidelity.accuracy if manifest.fidelity else None,
        "speedup": measurement.speedup.value if measurement and measurement.speedup else None,
        "target": _target(version, manifest.variant, manifest.graph, _threads(manifest, here))
        if servable and version is not None and manifest.graph is not None
        else None,
        "run": manifest.run,
        "content": manifest.content,
        "stale": stale_words(manifest.machine, here.machine if here else None),
        "threads": measurement.tuned.threads if measurement and measurement.tuned else None,
        "inputs": manifest.fidelity.inputs if manifest.fidelity else None,
    }


def alias_row(model: str, alias: str, key: str) -> Row:
    """Row of `aliases` for a variant key such as `3-int8`; a bare version means its reference variant."""
    reference = Reference.of(model, key)
    return {
        "model": model,
        "alias": alias,
        "version": reference.version,
        "variant": reference.variant or REFERENCE_VARIANT,
    }


def journal_row(entry: Entry) -> Row:
    """Row of `journal`; `version` is that of the subject, None for aliases. Words on trust belong to no model."""
    model, tail = ("", "") if is_about_code(entry) else subject_of(entry)
    row: Row = codec.builtins(entry)
    row["moment"] = row.pop("at")
    return row | {"model": model, "version": version_of(tail)}


_ACROSS_ROWS = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Operators that scale by the whole batch: a row's answer depends on the rows it runs with."""
_LOOPS = frozenset({"Loop", "Scan"})


def _threads(variant: VariantManifest | None, here: Here | None) -> int:
    """What the variant's runs were measured to be fastest with; 1 where that does not hold for this machine."""
    tuned = variant.measurement.tuned if variant and variant.measurement else None
    if variant is None or tuned is None or here is None or stale_words(variant.machine, here.machine):
        return 1
    return tuned.threads


def _target(version: VersionManifest, variant: str, graph: Graph, threads: int) -> str:
    operators = graph.operators.keys()
    signature = version.signature
    target = Target(
        model=version.model,
        version=version.version,
        variant=variant,
        path="",
        sha256=graph.file.sha256,
        signature=replace(signature, batchable=signature.batchable and not operators & _ACROSS_ROWS),
        class_labels=version.class_labels,
        varies=not operators or bool(operators & _LOOPS),
        preprocessing=version.preprocessing,
        assets={asset.name: asset.sha256 for asset in version.assets},
        threads=threads,
    )
    return codec.encode(target).decode()
