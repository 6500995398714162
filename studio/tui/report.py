"""Reports as Markdown: what is shown on a screen, with how it was measured, for a pull request or a mail."""

from __future__ import annotations

from collections.abc import Sequence

from studio.core.comparison import Comparison
from studio.core.views import VariantRow, VersionDetail
from studio.tui import text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    clean = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in clean),
        "",
    ]


def _stale(row: VariantRow) -> str:
    return f" Stale: {row.stale}." if row.stale else ""


def version_report(detail: VersionDetail) -> str:
    """One version: where it came from, every variant with its figures and its verdict, the machine."""
    row, manifest = detail.row, detail.manifest
    machine, samples = manifest.machine, manifest.samples
    lines = [f"# {row.model}:{row.version}", ""]
    lines += [f"{manifest.title}", ""] if manifest.title else []
    lines += [
        f"Made {row.created} from `{', '.join(file.name for file in manifest.source.files)}` ({row.format}). "
        f"State: {row.state}. Aliases: {', '.join(row.aliases) or 'none'}.",
        "",
        "## Variants",
        "",
    ]
    lines += _table(
        ("variant", "outcome", "size", "p50 ms", "speed", "cosine", "accuracy"),
        [
            (
                one.variant,
                one.outcome,
                text.size(one.size),
                text.ms(one.p50),
                text.NONE if one.speedup is None else f"{one.speedup:.2f}x",
                text.cosine(one.fidelity),
                text.share(one.accuracy),
            )
            for one in row.variants
        ],
    )
    lines += [f"- **{one.variant}**: {one.sentence}{_stale(one)}" for one in row.variants]
    lines += ["", f"Chosen: {row.choice}"] if row.choice else []
    lines += ["", "## Signature", ""]
    lines += [f"- in: `{spec.describe()}`" for spec in manifest.signature.inputs]
    lines += [f"- out: `{spec.describe()}`" for spec in manifest.signature.outputs]
    lines += [
        "",
        "## How it was measured",
        "",
        f"Inputs: {samples.kind}, {samples.count} rows. Latency at batch 1. "
        f"{machine.cpu}, {text.plural(machine.cores, 'core')}, {machine.system}, {machine.runtime}.",
        "",
    ]
    return "\n".join(lines)


def comparison_report(comparison: Comparison) -> str:
    """One comparison: verdict, table in words, fidelity, how it was measured."""
    plan = comparison.plan
    lines = [f"# {' vs '.join(arm.target for arm in comparison.arms)}", ""]
    lines += [f"**{comparison.verdict or f'The comparison is {comparison.state}.'}**", ""]
    lines += _table(
        ("metric", *(arm.label for arm in comparison.arms), "unit", "verdict"),
        [
            (row.metric, *(text.NONE if value is None else f"{value:.4g}" for value in row.values), row.unit, row.words)
            for row in comparison.rows
        ],
    )
    for arm in comparison.arms:
        lines.append(f"- {arm.label} = `{arm.target}`: {text.plural(arm.requests, 'request')}, {arm.errors} failed")
    if comparison.gates:
        lines += ["", "## Gates", ""]
        lines += [f"- {'passed' if gate.passed else 'FAILED'}: {gate.rule}" for gate in comparison.gates]
    machine = comparison.machine
    where = f" {machine.cpu}, {text.plural(machine.cores, 'core')}, {machine.runtime}." if machine else ""
    lines += [
        "",
        "## How it was measured",
        "",
        f"{comparison.inputs} inputs, {comparison.samples} samples; {text.plural(plan.clients, 'client')}, "
        f"{comparison.elapsed:.0f} of {plan.seconds:.0f} s in slices of {plan.slice_seconds} s, interleaved; "
        f"{comparison.threads}.{where}",
        "",
    ]
    return "\n".join(lines)
