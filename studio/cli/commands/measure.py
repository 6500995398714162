"""compare, bench: figures from this machine, through the real endpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from studio.cli.commands.models import fidelity_words
from studio.cli.output import ago, emit, fields, is_terminal, milliseconds, paint, plural, quantity, say, table, write
from studio.cli.progress import Live, bar
from studio.cli.session import Session, command, complete_reference, pass_session
from studio.client import Client
from studio.client.client import raise_failure
from studio.core.comparison import Arm, Comparison, Plan, Row
from studio.core.errors import InvalidInput, StudioError
from studio.core.manifest import INPUTS_WORDS

MOST_ARMS = 4


@command("compare", short_help="Measure 2 to 4 variants side by side.")
@click.argument("references", nargs=-1, metavar="A B...", shell_complete=complete_reference)
@click.option("--seconds", type=click.FloatRange(1, 3600), default=20.0, show_default=True, help="How long to measure.")
@click.option("--clients", type=click.IntRange(1, 256), default=1, show_default=True, help="Callers at the same time.")
@click.option("--list", "listed", is_flag=True, help="List past comparisons instead.")
@click.option("--show", "shown", metavar="ID", help="Print a past comparison instead.")
@click.option("--charts/--no-charts", default=None, help="Draw charts (default: on a terminal).")
@pass_session
def compare(
    session: Session,
    references: tuple[str, ...],
    seconds: float,
    clients: int,
    listed: bool,
    shown: str | None,
    charts: bool | None,
) -> None:
    """Measure 2 to 4 variants side by side on the same inputs; A is the baseline.

    Load alternates A B A B in short slices, so that a busy machine slows all of them alike. Ctrl+c cancels.
    """
    if listed + bool(shown) + bool(references) != 1:
        raise click.UsageError("Give 2 to 4 references, or --list, or --show ID.")
    client = session.client()
    if listed:
        found = client.comparisons()
        emit(session, found, lambda: comparisons_table(found) if found else "")
        return
    if shown:
        _print(session, client.comparison(shown), charts)
        return
    if not 2 <= len(references) <= MOST_ARMS:
        raise InvalidInput(f"A comparison takes 2 to {MOST_ARMS} references.", fix="For one alone: studio bench REF")
    plan = Plan(references=references, seconds=seconds, clients=clients, slice_seconds=min(0.5, seconds))
    _print(session, follow(client, client.compare(plan)), charts)


@command("bench", short_help="Load-test a variant through its endpoint.")
@click.argument("reference", metavar="REF", shell_complete=complete_reference)
@click.option("--seconds", type=click.FloatRange(1, 3600), default=10.0, show_default=True, help="How long to measure.")
@click.option("--clients", type=click.IntRange(1, 256), default=4, show_default=True, help="Callers at the same time.")
@click.option("--charts/--no-charts", default=None, help="Draw charts (default: on a terminal).")
@pass_session
def bench(session: Session, reference: str, seconds: float, clients: int, charts: bool | None) -> None:
    """Load-test REF through its endpoint. Ctrl+c cancels."""
    client = session.client()
    _print(session, follow(client, client.load(reference, seconds, clients)), charts)


def follow(client: Client, comparison: Comparison) -> Comparison:
    """Narrate a measurement until it has ended. Ctrl+c cancels it. Raises what it failed with."""
    with Live() as live:

        def update(now: Comparison) -> None:
            names = " against ".join(arm.target for arm in now.arms)
            if now.state == "queued":
                live.show(f"Waiting for another measurement: {names}")
            elif now.state == "running":
                share = now.elapsed / now.plan.seconds if now.plan.seconds else 0.0
                live.show(f"Measuring {names}", f"{bar(share)} {now.elapsed:.0f}/{now.plan.seconds:.0f} s  {_now(now)}")

        try:
            final = client.wait_comparison(comparison.id, update)
        except KeyboardInterrupt:
            try:
                client.cancel_comparison(comparison.id)
                live.keep("The measurement is cancelled.")
            except StudioError as error:
                live.keep(f"The measurement could not be cancelled: {error}")
            raise
    raise_failure(final)
    return final


def _now(comparison: Comparison) -> str:
    return "  ".join(f"{arm.label} p50 {milliseconds(arm.p50)}" for arm in comparison.arms if arm.p50 is not None)


def _print(session: Session, comparison: Comparison, charts: bool | None) -> None:
    emit(session, comparison, lambda: comparison_text(comparison))
    if not session.json and (is_terminal(sys.stdout) if charts is None else charts):
        from studio.cli.charts import comparison_charts

        drawn = comparison_charts(comparison)
        write("\n" + drawn if drawn else "")
        if not drawn and charts:
            say("There are too few points for a chart.")


def comparison_text(comparison: Comparison) -> str:
    """The verdict first, then the figures, then how they were taken."""
    parts = []
    if comparison.verdict:
        parts.append(paint(comparison.verdict, "bold"))
    elif comparison.problem:
        parts.append(f"{comparison.state}: {comparison.problem.sentence()}")
    else:
        parts.append(f"{comparison.state}.")
    parts.append(arms_table(comparison.arms))
    if comparison.rows and len(comparison.arms) > 1:
        parts.append(verdict_table(comparison.arms, comparison.rows))
    agreement = fidelity_lines(comparison)
    if agreement:
        parts.append(agreement)
    if comparison.gates:
        parts.append(
            table(
                ("GATE", "RULE", "SAW", ""),
                [
                    [
                        gate.name,
                        gate.rule,
                        "–" if gate.value is None else f"{gate.value:.6g}",
                        "pass" if gate.passed else paint("fail", "red"),
                    ]
                    for gate in comparison.gates
                ],
                right=(2,),
            )
        )
    parts.append(how(comparison))
    return "\n\n".join(parts)


def arms_table(arms: Sequence[Arm]) -> str:
    rows = [
        [
            arm.label,
            arm.target,
            milliseconds(arm.p50),
            milliseconds(arm.p95),
            milliseconds(arm.p99),
            quantity(arm.throughput, "/s"),
            f"{arm.requests:,}",
            paint(str(arm.errors), "red") if arm.errors else "0",
        ]
        for arm in arms
    ]
    head = ("", "VARIANT", "P50", "P95", "P99", "THROUGHPUT", "REQUESTS", "ERRORS")
    return table(head, rows, right=(2, 3, 4, 5, 6, 7))


def verdict_table(arms: Sequence[Arm], rows: Sequence[Row]) -> str:
    lines = [[row.metric, *[quantity(value, row.unit) for value in row.values], row.words] for row in rows]
    head = ("METRIC", *[arm.label for arm in arms], "VERDICT")
    return table(head, lines, right=range(1, len(arms) + 1))


def fidelity_lines(comparison: Comparison) -> str:
    """How near each arm comes to the model that it was made from."""
    known = [(arm, one) for arm, one in zip(comparison.arms, comparison.fidelity, strict=False) if one is not None]
    lines = [[arm.label, fidelity_words(one)] for arm, one in known]
    return table(("", "AGREES WITH ITS SOURCE"), lines) if lines else ""


def how(comparison: Comparison) -> str:
    """How it was measured: without this, figures mean nothing."""
    plan, machine = comparison.plan, comparison.machine
    taken = f"{plan.seconds:g} s, {plural(plan.clients, 'client')}, {comparison.threads} a run"
    if len(comparison.arms) > 1:
        taken += f", slices of {plan.slice_seconds:g} s in turn"
    return fields(
        [
            ("measured", taken),
            ("inputs", f"{comparison.samples} {INPUTS_WORDS[comparison.inputs]}"),
            ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.runtime}" if machine else ""),
            ("id", comparison.id),
        ]
    )


def comparisons_table(comparisons: Sequence[Comparison]) -> str:

    rows = [
        [one.id, ago(one.created), one.state, " ".join(arm.target for arm in one.arms), one.verdict]
        for one in comparisons
    ]
    return table(("ID", "WHEN", "STATE", "VARIANTS", "VERDICT"), rows)


COMMANDS = (compare, bench)
