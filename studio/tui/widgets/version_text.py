"""What there is to say about one version, as styled text: pure functions from engine values."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence

from textual.content import Content

from studio.core.jobs import Job
from studio.core.manifest import INPUTS_WORDS, Fidelity, Gate, VariantManifest, VersionManifest
from studio.core.metrics import Point
from studio.core.names import REFERENCE_VARIANT
from studio.core.views import VariantRow, VersionDetail, VersionRow
from studio.tui import text
from studio.tui.charts.spark import sparkline

_AGREEMENT = re.compile(r", (?=agrees on |cosine |equal on )")
TRAFFIC_SECONDS = 30
TRAFFIC_WIDTH = 10

Part = str | tuple[str, str]

STATE_WORDS: dict[str, tuple[str, str]] = {
    "serving": ("● serving", "success"),
    "ready": ("○ ready", "foreground"),
    "archived": ("▪ archived", "muted"),
}
OUTCOMES: dict[str, tuple[str, str]] = {
    "reference": ("reference", "foreground"),
    "keep": ("✓ keep", "success"),
    "reject": ("✗ reject", "error"),
    "not distinguishable": ("≈ no gain", "warning"),
    "not applicable": ("– not possible", "muted"),
}


def _line(label: str, *parts: Part, width: int = 12) -> list[Part]:
    return [(f"{label:<{width}}", "$muted"), *parts, "\n"]


def _heading(words: str) -> list[Part]:
    return [("\n" + words + "\n", "$primary bold")]


def overview(detail: VersionDetail, now: float) -> Content:
    """Title, state, the figures that matter, where it came from."""
    row, manifest = detail.row, detail.manifest
    word, style = STATE_WORDS[row.state]
    parts: list[Part] = [(f"{row.model}:{row.version}", "bold")]
    parts += [f"  {manifest.title}\n" if manifest.title else "\n"]
    if manifest.description:
        parts += [(f"{manifest.description}\n", "$muted")]
    parts.append("\n")
    parts += _line("state", (word, f"${style}"), "  latest" if row.latest else "")
    parts += _line("aliases", ", ".join(row.aliases) or text.NONE)
    parts += _line("created", text.ago(row.created, now), (f"  {row.created}", "$muted"))
    parts += _line("format", row.format)
    parameters = f"   {manifest.graph.parameters:,} parameters" if manifest.graph.opset else ""
    parts += _line("size", text.size(row.size), parameters)
    parts += _line("p50", f"{text.ms(row.p50)} ms", ("  batch 1, reference variant", "$muted"))
    if row.accuracy is not None:
        parts += _line("accuracy", text.share(row.accuracy), (f"  on {_accuracy_rows(detail)} labelled rows", "$muted"))
    if row.choice:
        parts += _line("auto", *_chosen(row)[:3])
    parts += _line("conversion", *_agreement(manifest.parity))
    parts += _line("inputs", _inputs(detail))
    if row.tags:
        parts += _line("tags", ", ".join(row.tags))
    if manifest.serve_only:
        parts += _line("variants", ("none. ", "$warning"), manifest.serve_only)
    for note in manifest.notes:
        parts += _line("note", (note, "$warning"))
    return Content.assemble(*parts)


def _accuracy_rows(detail: VersionDetail) -> int:
    """Rows that the accuracy is about: some may have been kept for learning, and not for judging."""
    found = [each.fidelity for each in detail.variants if each.variant == REFERENCE_VARIANT and each.fidelity]
    fidelity = next((each for each in found if each.accuracy is not None), detail.manifest.parity)
    return fidelity.judged


def _inputs(detail: VersionDetail) -> str:
    samples = detail.manifest.samples
    words = {
        "labelled": f"{samples.count} labelled rows that came with it",
        "samples": f"{samples.count} sample rows that came with it, no labels",
        "captured": f"{samples.count} recorded requests, no labels",
        "synthetic": "made up from the signature (synthetic): no accuracy can be claimed",
    }
    return words[samples.kind]


def _agreement(parity: Fidelity) -> list[Part]:
    worst = parity.worst
    if worst is None:
        return [("shapes and types alone: its answers differ from run to run", "$warning")]
    good = worst.non_finite == 0
    return [
        (
            f"agrees with the source to {worst.max_rel:.1e}" if good else "gave values that are not finite",
            "$success" if good else "$error",
        ),
        (f"\n{'':12}on {parity.samples} {INPUTS_WORDS[parity.inputs]}", "$muted"),
    ]


def signature(detail: VersionDetail) -> Content:
    sign = detail.manifest.signature
    parts: list[Part] = [("Inputs\n", "$primary bold")]
    for spec in sign.inputs:
        parts.append(f"  {spec.describe()}\n")
    parts += _heading("Outputs")
    for spec in sign.outputs:
        parts.append(f"  {spec.describe()}\n")
    parts += _heading("Batches")
    parts.append(
        "  Rows of a batch were seen to equal single runs: requests are batched.\n"
        if sign.batchable
        else "  Not batched: rows of a batch were not seen to equal single runs.\n"
    )
    labels = detail.manifest.class_labels
    if labels:
        parts += _heading(f"Classes ({len(labels)})")
        parts.append("  " + ", ".join(labels[:40]) + (" …" if len(labels) > 40 else "") + "\n")
    return Content.assemble(*parts)


def _kind(manifest: VersionManifest) -> str:
    kind = "ONNX Runtime format" if manifest.graph.file.name.endswith(".ort") else "ONNX"
    return f"{kind}, opset {manifest.graph.opset}" if manifest.graph.opset else kind


def lineage(detail: VersionDetail) -> Content:
    """Source → reference graph → variants, with hashes and the tools that made them."""
    manifest = detail.manifest
    source = manifest.source
    parts: list[Part] = [("Dropped", "$primary bold"), f"  {source.format}\n"]
    for file in source.files:
        parts += [f"  {file.name}  {text.size(file.size)}", (f"  sha256 {file.sha256[:12]}\n", "$muted")]
    parts += ["    ↓\n", ("Reference graph", "$primary bold"), f"  {_kind(manifest)}\n"]
    parts += [
        f"  {manifest.graph.file.name}  {text.size(manifest.graph.size)}",
        (f"  sha256 {manifest.graph.file.sha256[:12]}\n", "$muted"),
    ]
    made = [variant for variant in detail.variants if variant.graph is not None]
    if made:
        parts += ["    ↓\n", ("Variants\n", "$primary bold")]
    for variant in made:
        assert variant.graph is not None
        parts += [
            f"  {variant.variant}  {text.size(variant.graph.size)}  recipe {variant.plan.text}",
            (f"  sha256 {variant.graph.file.sha256[:12]}\n", "$muted"),
        ]
    parts += _heading("Made on")
    machine = manifest.machine
    parts.append(f"  {machine.cpu}, {text.plural(machine.cores, 'core')}, {text.size(machine.memory)}\n")
    parts.append(f"  {machine.system}, {machine.runtime}\n")
    parts += _heading("With")
    parts.append("  " + ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items())) + "\n")
    return Content.assemble(*parts)


def choice(row: VersionRow, work: Job | None, width: int = 80) -> Content:
    """What `auto` means and why; what the lab is at, where it is; what is stale. Long lines hang."""
    parts: list[Part] = []
    if row.choice:
        parts += [*_chosen(row, width), "\n"]
    stale = next((one.stale for one in row.variants if one.stale), "")
    if stale:
        parts += [("! stale: ", "$warning bold"), (f"{stale}. The lab measures it again.\n", "$warning")]
    step = work.current if work else None
    if work is not None and work.state == "queued":
        parts.append(("◌ waits for its turn in the lab\n", "$warning"))
    elif step is not None and step.progress is not None:
        share = f"{text.bar(step.progress, 12)} {100 * step.progress:.0f} %"
        parts += [("◐ ", "$warning bold"), (share, "$warning"), (f"  {step.detail}\n", "$muted")]
    elif work is not None:
        parts.append(("◐ the lab begins\n", "$warning"))
    return Content.assemble(*parts).rstrip("\n")


def _chosen(row: VersionRow, width: int = 80) -> list[Part]:
    """The choice and its gains as three parts, then how far it agrees, and below what it was chosen over."""
    first, *others = row.choice.rstrip(".").split("; ")
    name, _, why = first.partition(": ")
    gains, *agreement = _AGREEMENT.split(why, maxsplit=1)
    return [
        ("★ ", "$accent bold"),
        (name, "$success bold"),
        f"  {gains}",
        *(_hanging(words, width) for words in agreement),
        *((_hanging(other, width), "$muted") for other in others),
    ]


def _hanging(words: str, width: int) -> str:
    lines = textwrap.wrap(words, max(20, width), initial_indent="  ", subsequent_indent="    ")
    return "\n" + "\n".join(lines)


def variant_cells(row: VariantRow, auto: str = "") -> dict[str, str | tuple[str, str]]:
    """The cells of a variant in the variants table: ★ is what `auto` means, ◆ what nothing else beats."""
    speedup = text.NONE if row.speedup is None else f"{row.speedup:.2f}x"
    outcome = OUTCOMES.get(row.outcome, (row.outcome, "foreground"))
    return {
        "mark": ("★", "accent bold") if row.variant == auto else ("◆" if row.front else "", "muted"),
        "variant": (row.variant, "foreground bold"),
        "outcome": ("! stale", "warning") if row.stale else outcome,
        "size": text.size(row.size) if row.size else text.NONE,
        "p50": text.ms(row.p50),
        "speedup": speedup,
        "fidelity": text.cosine(row.fidelity),
        "accuracy": text.share(row.accuracy),
        "inputs": (row.inputs or text.NONE, "warning" if row.inputs == "synthetic" else "foreground"),
        "alias": (", ".join(row.aliases), "success"),
    }


def variant_words(row: VariantRow, manifest: VariantManifest | None) -> Content:
    """The verdict sentence of a variant, its gates and its figures."""
    word, style = OUTCOMES.get(row.outcome, (row.outcome, "foreground"))
    parts: list[Part] = [
        (f"{row.variant}  ", "bold"),
        (word, f"${'muted' if style == 'muted' else style} bold"),
        "\n",
    ]
    parts += [row.sentence, "\n"]
    if manifest is None:
        return Content.assemble(*parts)
    parts += gates(manifest.verdict.gates)
    measured = manifest.measurement
    if measured is not None:
        parts.append("\n")
        least = measured.latency[0].threads
        for one in measured.latency:
            parts += _line(
                f"batch {one.batch}" if measured.batched else "a run",
                f"p50 {text.ms(one.p50)}  p95 {text.ms(one.p95)}  p99 {text.ms(one.p99)} ms",
                (f"  {one.speedup.value:.2f}x" if one.speedup else "", "$muted"),
                (f"\n{'':12}with {text.plural(one.threads, 'thread')}" if one.threads > least else "", "$muted"),
            )
        parts += _line(
            "throughput",
            f"{text.rate(measured.throughput)} {'rows' if measured.batched else 'runs'}/s",
            (f"  batch {measured.throughput_batch}" if measured.batched else "", "$muted"),
        )
        parts += _line("memory", text.size(measured.peak_memory), f"   loads in {measured.load_ms:.0f} ms")
        if measured.tuned is not None:
            advice = f"{text.plural(measured.tuned.threads, 'thread')} for a run that is alone"
            parts += _line("serve with", advice + (f", batches of {measured.tuned.batch}" if measured.batched else ""))
        if measured.speedup is not None:
            span = measured.speedup
            parts += _line("speed", f"{span.value:.2f}x", (f"  95 % CI {span.low:.2f}-{span.high:.2f}", "$muted"))
    fidelity = manifest.fidelity
    if fidelity is not None and not manifest.is_reference:
        parts += _judged(fidelity)
    return Content.assemble(*parts)


def _judged(fidelity: Fidelity) -> list[Part]:
    """On what a variant was judged, its outputs against the reference's, the labels, and where it breaks."""
    style = "$warning" if fidelity.inputs == "synthetic" else "$foreground"
    parts = _line("judged on", (f"{fidelity.samples} {INPUTS_WORDS[fidelity.inputs]}", style))
    for out in fidelity.outputs:
        shares = (
            ("top-1 agrees on", _known(out.top1_agreement, text.share)),
            ("top-5 on", _known(out.topk_agreement, text.share)),
            ("rank correlation", _known(out.rank_correlation, text.cosine)),
        )
        words = "  ".join(f"{name} {value}" for name, value in shares if value is not None)
        figures = f"cosine {text.cosine(out.cosine)}  max |Δ| {out.max_abs:.2g}"
        parts += _line(text.fit(out.name, 11), figures, f"\n{'':12}{words}" if words else "")
    own, base = fidelity.scores, fidelity.reference_scores
    if own is not None and base is not None:
        figures_of = (("F1", own.f1, base.f1), ("AUC", own.auc, base.auc), ("RMSE", own.rmse, base.rmse))
        for name, mine, its in figures_of:
            if mine is not None and its is not None:
                parts += _line(name, f"{mine:.4g}", (f"  the reference's {its:.4g}", "$muted"))
    if fidelity.layers is not None:
        parts += _line("layers", (f"{fidelity.layers.sentence}\n", "$warning"))
        for error in fidelity.layers.worst:
            before = "exact" if error.before_db is None else f"{error.before_db:.0f}"
            after = "–" if error.sqnr_db is None else f"{error.sqnr_db:.0f}"
            parts += [
                (f"{'':12}{error.order:>4}  ", "$muted"),
                f"{before} → {after} dB  {error.operator} {error.node}\n",
            ]
    return parts


def _known(value: float | None, words: Callable[[float | None], str]) -> str | None:
    return None if value is None else words(value)


def gates(found: Iterable[Gate]) -> list[Part]:
    """One line a gate: passed or not, its rule, what it saw."""
    parts: list[Part] = []
    for gate in found:
        mark, style = ("✓", "$success") if gate.passed else ("✗", "$error")
        parts += [
            (f"  {mark} ", style),
            gate.rule,
            (f"  saw {gate.value:.4g}\n" if gate.value is not None else "\n", "$muted"),
        ]
    return parts


def graph(detail: VersionDetail, width: int, open_key: str) -> Content:
    """The operators of the reference graph as a histogram."""
    graph = detail.manifest.graph
    operators = sorted(graph.operators.items(), key=lambda item: (-item[1], item[0]))
    opening: list[Part] = [
        ("Press ", "$muted"),
        (open_key, "$accent bold"),
        (" to see it drawn in the browser.\n\n", "$muted"),
    ]
    if not operators:
        why = detail.manifest.serve_only or "The file does not tell them."
        return Content.assemble(*opening, f"No operators are known. {why}")
    parts: list[Part] = [
        (f"{sum(graph.operators.values())} nodes", "bold"),
        f"  {graph.parameters:,} parameters  opset {graph.opset}  IR {graph.ir_version}\n",
        *opening,
    ]
    name = min(24, max(len(key) for key, _ in operators))
    most = operators[0][1]
    room = max(4, width - name - 8)
    for key, count in operators:
        parts += [
            f"{text.fit(key, name):<{name}} ",
            ("█" * max(1, round(count / most * room)), "$primary"),
            f" {count}\n",
        ]
    for file in graph.weights:
        parts += [f"weights {file.name}  {text.size(file.size)}\n"]
    return Content.assemble(*parts)


def history(detail: VersionDetail) -> Content:
    """The journal of this version, newest first."""
    if not detail.history:
        return Content("Nothing happened to this version yet.")
    parts: list[Part] = []
    for entry in sorted(detail.history, key=lambda one: one.seq, reverse=True):
        change = f"{entry.before or 'nothing'} → {entry.after or 'nothing'}" if entry.before or entry.after else ""
        parts += [
            (entry.at[:19].replace("T", " "), "$muted"),
            (f"  {entry.action}", "bold"),
            f"  {entry.subject}  {change}\n",
        ]
        words = "  ".join(part for part in (f"by {entry.actor}", entry.why) if part)
        parts += [(f"{'':21}{words}\n", "$muted")]
    return Content.assemble(*parts)


def traffic(row: VersionRow, points: Mapping[str, Sequence[Point]], now: float) -> str:
    """Requests a second of all variants of a version over the last `TRAFFIC_SECONDS`, as a sparkline; empty if none."""
    names = [f"{row.model}:{row.version}-{one.variant}" for one in row.variants]
    rates = [0.0] * TRAFFIC_SECONDS
    for point in (point for name in names for point in points.get(name, ())[-TRAFFIC_SECONDS:]):
        age = int(now - point.at)
        if 0 <= age < TRAFFIC_SECONDS:
            rates[-1 - age] += point.requests
    return sparkline(rates, TRAFFIC_WIDTH) if any(rates) else ""


def version_cells(
    row: VersionRow, marks: dict[str, str], points: Mapping[str, Sequence[Point]], now: float
) -> dict[str, str | tuple[str, str]]:
    """The cells of a version in the models table. `marks`: letters by full reference; `points`: traffic by target."""
    letters = "".join(
        letter for reference, letter in marks.items() if reference.startswith(f"{row.model}:{row.version}-")
    )
    kept = [one.variant for one in row.variants if one.outcome in ("reference", "keep")]
    return {
        "mark": (letters, "accent bold"),
        "name": f"{row.model}:{row.version}",
        "state": STATE_WORDS[row.state],
        "variants": f"{len(kept)}/{len(row.variants)}",
        "size": text.size(row.size),
        "p50": text.ms(row.p50),
        "fidelity": text.cosine(row.fidelity),
        "accuracy": text.share(row.accuracy),
        "traffic": (traffic(row, points, now), "accent"),
        "alias": (", ".join(row.aliases) or ("latest" if row.latest else ""), "success" if row.aliases else "muted"),
    }
