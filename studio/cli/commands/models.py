"""ls, show: what is registered."""

from __future__ import annotations

import click

from studio.cli.output import cosine, emit, fields, milliseconds, paint, percent, plural, say, since, size, table
from studio.cli.session import Session, command, complete_reference, pass_session
from studio.core.manifest import (
    INPUTS_WORDS,
    Confusion,
    CrossValidation,
    Fidelity,
    Graph,
    Layers,
    Scores,
    VariantManifest,
)
from studio.core.names import Reference
from studio.core.views import ModelDetail, VariantRow, VersionDetail, VersionPage, VersionRow

SORTS = ("model", "created", "size", "p50", "fidelity")
OFFERED = ("reference", "keep")
FEW_MISTAKES = 10
PAGE = 100
LARGEST_PAGE = 1000


@command("ls", short_help="List versions.")
@click.argument("filter", default="")
@click.option("--sort", type=click.Choice(SORTS), default="model", show_default=True, help="Order by this column.")
@click.option("--descending", is_flag=True, help="Turn the order round.")
@click.option("--archived", is_flag=True, help="Show archived versions too.")
@click.option("--all", "everything", is_flag=True, help=f"Every version, not only the first {PAGE}.")
@pass_session
def ls(session: Session, filter: str, sort: str, descending: bool, archived: bool, everything: bool) -> None:
    """List versions. FILTER matches model, title, tags, aliases and format."""
    client = session.client()
    limit = LARGEST_PAGE if everything else PAGE
    page = client.versions(filter, sort, descending, archived, 0, limit)
    rows = list(page.rows)
    while everything and len(rows) < page.total:
        more = client.versions(filter, sort, descending, archived, len(rows), limit).rows
        if not more:
            break
        rows += more
    page = VersionPage(rows=tuple(rows), total=page.total, offset=0)
    if not rows:
        hint = f"Nothing matches {filter!r}." if filter else "Nothing is registered yet."
        say(f"{hint} Add a model with: studio{session.option} add PATH")
    elif len(rows) < page.total:
        say(f"The first {len(rows)} of {page.total}; --all shows every one.")
    emit(session, page, lambda: versions_table(page.rows) if rows else "")


def versions_table(rows: tuple[VersionRow, ...]) -> str:
    """One line a version, with what its reference variant measured."""
    lines = [
        [
            f"{row.model}:{row.version}",
            state(row),
            row.format,
            size(row.size),
            milliseconds(row.p50),
            percent(row.accuracy),
            " ".join(variant.variant for variant in row.variants if variant.outcome in OFFERED),
            since(row.created),
            ", ".join([*row.aliases, *(["latest"] if row.latest and "latest" not in row.aliases else [])]),
        ]
        for row in rows
    ]
    head = ("VERSION", "STATE", "FORMAT", "SIZE", "P50", "ACCURACY", "VARIANTS", "ADDED", "ALIASES")
    return table(head, lines, right=(3, 4, 5))


def state(row: VersionRow) -> str:
    return paint(row.state, {"serving": "green", "archived": "faint"}.get(row.state, "faint"))


@command("show", short_help="Show a model, a version or a variant.")
@click.argument("reference", metavar="REF", shell_complete=complete_reference)
@pass_session
def show(session: Session, reference: str) -> None:
    """Show a model (digits), a version (digits:3), a variant (digits:3-int8) or an alias (digits:production)."""
    parsed = Reference.parse(reference)
    client = session.client()
    if parsed.version is None and parsed.alias is None:
        model = client.model(parsed.model)
        emit(session, model, lambda: model_text(model))
        return
    version, variant = parsed.version, parsed.variant or ""
    if version is not None and variant:
        detail = client.version(parsed.model, version)
        # A variant that could not be made leads nowhere, and yet has a verdict to show.
        if any(one.variant == variant for one in detail.variants):
            emit(session, detail, lambda: version_text(detail, variant))
            return
    if version is None or variant:
        resolution = client.resolve(reference)
        version, variant = resolution.version, resolution.variant
    detail = client.version(parsed.model, version)
    emit(session, detail, lambda: version_text(detail, variant))


def model_text(model: ModelDetail) -> str:
    """Aliases, versions, and how the aliases moved."""
    aliases = "\n".join(f"{name} → {target}" for name, target in sorted(model.aliases.items()))
    moves = [
        (move.at, [since(move.at), move.alias, move.before or "–", move.after or "removed", move.actor, move.why])
        for move in model.moves
    ]
    moves += [
        (one.at, [since(one.at), "(route)", one.before or "–", one.after or "removed", one.actor, one.why])
        for one in model.route_changes
    ]
    moves.sort(key=lambda row: row[0], reverse=True)
    head = fields(
        [
            ("model", model.model),
            ("answers", model.primary),
            ("route", model.route.text),
            ("aliases", aliases),
        ]
    )
    parts = [head, versions_table(model.versions)]
    if moves:
        parts.append(table(("MOVED", "ALIAS", "FROM", "TO", "BY", "WHY"), [row for _, row in moves]))
    return "\n\n".join(parts)


def version_text(detail: VersionDetail, chosen: str = "") -> str:
    """Everything about a version; the variant `chosen` is marked."""
    row, manifest = detail.row, detail.manifest
    graph = manifest.graph
    samples = f"{manifest.samples.count} {INPUTS_WORDS[manifest.samples.kind]}"
    if manifest.samples.kind == "synthetic":
        samples += " (synthetic): no accuracy can be claimed"
    head = fields(
        [
            ("version", f"{row.model}:{row.version}" + (f" – {row.title}" if row.title else "")),
            ("state", row.state + (f" as {', '.join(row.aliases)}" if row.aliases else "")),
            ("about", manifest.description),
            ("tags", ", ".join(manifest.tags)),
            ("source", f"{manifest.source.format}, {', '.join(file.name for file in manifest.source.files)}"),
            ("added", f"{manifest.created} ({since(manifest.created)})"),
            ("inputs", "\n".join(spec.describe() for spec in manifest.signature.inputs)),
            ("outputs", "\n".join(spec.describe() for spec in manifest.signature.outputs)),
            ("batches", "rows of a batch equal single runs" if manifest.signature.batchable else "one at a time"),
            ("graph", f"{graph_words(graph)}, {size(graph.size)}"),
            ("serve only", manifest.serve_only),
            ("samples", samples),
            ("conversion", fidelity_words(manifest.parity)),
            ("cross-validation", validation_words(manifest.cross_validation)),
            ("auto", row.choice),
            ("notes", "\n".join(manifest.notes)),
            ("measured on", f"{manifest.machine.cpu}, {manifest.machine.cores} cores, {manifest.machine.runtime}"),
        ]
    )
    parts = [head, variants_table(row.variants, chosen)]
    found = next((one for one in detail.variants if one.variant == chosen), None)
    if found is not None:
        parts.append(evidence(found))
    return "\n\n".join(parts)


def variants_table(variants: tuple[VariantRow, ...], chosen: str = "") -> str:
    lines = [
        [
            ("▸ " if row.variant == chosen else "◆ " if row.front else "  ") + row.variant,
            f"{row.outcome}, stale" if row.stale else row.outcome,
            size(row.size) if row.size else "–",
            milliseconds(row.p50),
            "–" if row.speedup is None else f"{row.speedup:.2f}x",
            cosine(row.fidelity),
            percent(row.accuracy),
            row.inputs or "–",
            row.sentence + (f"  [{', '.join(row.aliases)}]" if row.aliases else ""),
        ]
        for row in variants
    ]
    head = ("  VARIANT", "VERDICT", "SIZE", "P50", "SPEEDUP", "COSINE", "ACCURACY", "INPUTS", "WHY")
    return table(head, lines, right=(2, 3, 4, 5, 6))


def choice_lines(row: VersionRow) -> str:
    """What `auto` means and why, the front, and what is stale."""
    front = ", ".join(one.variant for one in row.variants if one.front)
    stale = next((one.stale for one in row.variants if one.stale), "")
    return fields(
        [
            ("auto", row.choice),
            ("◆ front", f"{front}: no other variant that passes beats them in speed, size and fidelity at once"),
            (
                "speedup",
                "measured in turns with fp32, and what decides; the P50s come from runs at different times"
                if any(one.speedup is not None for one in row.variants)
                else "",
            ),
            ("stale", f"{stale}. Measure again: studio lab {row.model}:{row.version} --stale" if stale else ""),
        ]
    )


def evidence(variant: VariantManifest) -> str:
    """The gates of a variant, and what they saw."""
    gates = [
        ["pass" if gate.passed else paint("fail", "red"), gate.rule, "–" if gate.value is None else f"{gate.value:.6g}"]
        for gate in variant.verdict.gates
    ]
    fidelity = variant.fidelity
    made = fields(
        [
            ("variant", f"{variant.model}:{variant.key}"),
            ("recipe", variant.plan.text),
            ("verdict", f"{variant.verdict.outcome}: {variant.verdict.sentence}"),
            ("task", fidelity.task if fidelity else ""),
            ("fidelity", fidelity_words(fidelity) if fidelity else ""),
            ("reference", score_words(fidelity.reference_accuracy, fidelity.reference_scores) if fidelity else ""),
        ]
    )
    parts = [made]
    if gates:
        parts.append(table(("GATE", "RULE", "SAW"), gates, right=(2,)))
    if fidelity is not None and fidelity.layers is not None:
        parts.append(layers_table(fidelity.layers))
    if fidelity is not None and fidelity.scores is not None and fidelity.scores.confusion is not None:
        parts.append(confusion_table(fidelity.scores.confusion))
    return "\n\n".join(parts)


def layers_table(layers: Layers) -> str:
    """The layers that lose most, worst first."""
    lines = [
        [
            str(error.order),
            error.operator,
            error.node,
            "exact" if error.before_db is None else f"{error.before_db:.1f}",
            "–" if error.sqnr_db is None else f"{error.sqnr_db:.1f}",
            str(error.non_finite or "–"),
        ]
        for error in layers.worst
    ]
    head = ("LAYER", "OPERATOR", "NAME", "IN dB", "OUT dB", "NAN, INF")
    rows = plural(layers.rows, "row")
    words = f"It {layers.sentence}. The worst of {layers.compared} compared layers, over {rows}:"
    return f"{words}\n{table(head, lines, right=(0, 3, 4, 5))}"


def confusion_table(confusion: Confusion) -> str:
    """How often one class was taken for another, the mistakes alone, most frequent first."""
    mistakes = [
        (count, true, guess)
        for true, row in zip(confusion.classes, confusion.counts, strict=True)
        for guess, count in zip(confusion.classes, row, strict=True)
        if count and true != guess
    ]
    mistakes.sort(key=lambda one: -one[0])
    if not mistakes:
        return "No row was taken for another class."
    left = sum(count for count, _, _ in mistakes[FEW_MISTAKES:])
    lines = [[true, guess, str(count)] for count, true, guess in mistakes[:FEW_MISTAKES]]
    more = f"\n… and {left} more; --json has the whole matrix." if left else ""
    return table(("IS", "TAKEN FOR", "TIMES"), lines, right=(2,)) + more


def graph_words(graph: Graph) -> str:
    """`1,234 parameters, opset 17`; an .ort file need not tell either."""
    if not graph.opset:
        return "parameters and opset not known"
    return f"{graph.parameters:,} parameters, opset {graph.opset}"


def fidelity_words(fidelity: Fidelity) -> str:
    """`cosine 0.999100, largest difference 0.04, on 40 labelled samples; accuracy 95.7 %`."""
    worst = fidelity.worst
    if worst is None:
        return "shapes and types alone: its answers differ from run to run"
    parts = []
    if worst.cosine is not None:
        parts.append(f"cosine {worst.cosine:.6f}")
    parts.append(f"largest difference {worst.max_abs:.3g}")
    if worst.top1_agreement is not None:
        parts.append(f"same answer on {percent(worst.top1_agreement)}")
    if worst.topk_agreement is not None:
        parts.append(f"top-5 {percent(worst.topk_agreement)}")
    if worst.rank_correlation is not None:
        parts.append(f"rank correlation {worst.rank_correlation:.4f}")
    words = ", ".join([*parts, f"on {fidelity.samples} {INPUTS_WORDS[fidelity.inputs]}"])
    scores = score_words(fidelity.accuracy, fidelity.scores)
    return f"{words}; {scores}" if scores else words


def validation_words(found: CrossValidation | None) -> str:
    """`accuracy 0.943 ± 0.012 in 5 folds of 800 labelled samples (the kind of model, not these weights)`."""
    if found is None:
        return ""
    figures = f"{found.metric} {found.mean:.4g} ± {found.std:.2g} in {found.folds} folds of {found.samples}"
    return f"{figures} labelled samples (fresh copies of {found.estimator}: the kind of model, not these weights)"


def score_words(accuracy: float | None, scores: Scores | None) -> str:
    """`accuracy 95.7 %, F1 0.9512, AUC 0.9981`; '' without labels."""
    parts = [] if accuracy is None else [f"accuracy {percent(accuracy)}"]
    if scores is not None:
        figures = (
            ("F1", scores.f1),
            ("AUC", scores.auc),
            ("RMSE", scores.rmse),
            ("MAE", scores.mae),
            ("R²", scores.r2),
        )
        parts += [f"{name} {value:.4g}" for name, value in figures if value is not None]
    return ", ".join(parts)


COMMANDS = (ls, show)
