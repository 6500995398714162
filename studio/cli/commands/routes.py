"""route: how requests for a model's bare name are spread over versions, and which one runs along as a shadow."""

from __future__ import annotations

import time

import click

from studio.cli.output import cosine, emit, fields, percent, say, table
from studio.cli.session import Session, command, complete_reference, pass_session
from studio.core.journal import RouteChange
from studio.core.metrics import ShadowFigures
from studio.core.route import weights
from studio.core.views import RouteDetail

RECENT_SECONDS = 600


@command("route", short_help="Spread requests over versions, or let one run along as a shadow.")
@click.argument("model", shell_complete=complete_reference)
@click.argument("part", nargs=-1, metavar="[NAME=WEIGHT]...")
@click.option("--split", is_flag=True, help="Spread the requests by these weights.")
@click.option("--no-split", is_flag=True, help="Let production answer alone again.")
@click.option("--shadow", metavar="NAME", help="Run copies of requests on this, after they were answered.")
@click.option("--share", type=float, help="The part of the requests that is copied, 0.01 to 1.")
@click.option("--no-shadow", is_flag=True, help="End the shadow.")
@click.option("--clear", is_flag=True, help="End both.")
@click.option("--rollback", is_flag=True, help="Bring back the route before the newest change.")
@click.option("--why", default="", help="The reason, for the journal.")
@pass_session
def route(
    session: Session,
    model: str,
    part: tuple[str, ...],
    split: bool,
    no_split: bool,
    shadow: str | None,
    share: float | None,
    no_shadow: bool,
    clear: bool,
    rollback: bool,
    why: str,
) -> None:
    """Show or change how requests for MODEL are spread.

    \b
      studio route digits                                      show it
      studio route digits --split production=90 candidate=10   by weight
      studio route digits --shadow 4-int8 --share 0.2          copies of every fifth request
      studio route digits --clear                              back to production alone

    NAME is a version, a variant or an alias. Only requests for the bare name are spread; those that name a version or
    an alias get it. The header X-Studio-Key keeps whoever sends it with one version. What a shadow answers is compared
    and thrown away.
    """
    changes = (split or bool(part), no_split, shadow is not None, share is not None, no_shadow)
    if sum((any(changes), clear, rollback)) > 1 or (split and no_split) or (shadow is not None and no_shadow):
        raise click.UsageError("These options contradict each other.")
    if (split or part) and not (split and part):
        raise click.UsageError("Give the weights with --split, for example: --split production=90 candidate=10")
    client = session.client()
    if rollback:
        _tell(session, client.rollback_route(model, why))
    elif clear:
        _tell(session, client.change_route(model, split={}, shadow="", why=why))
    elif any(changes):
        wanted = weights(part) if split else {} if no_split else None
        ended = "" if no_shadow else shadow
        _tell(session, client.change_route(model, split=wanted, shadow=ended, share=share, why=why))
    else:
        detail = client.route(model)
        since = time.time() - RECENT_SECONDS
        counts = {
            arm.target: round(sum(point.requests for point in client.metrics(arm.target, since))) for arm in detail.arms
        }
        emit(session, detail, lambda: route_text(detail, counts))


def _tell(session: Session, change: RouteChange) -> None:
    emit(session, change, lambda: change_text(change))
    if not change.after:
        say(f"What {change.model}:production means, or else the newest version, answers alone from now on.")


def change_text(change: RouteChange) -> str:
    """`digits  route none → production=90 candidate=10  (why)`."""
    why = f"  ({change.why})" if change.why else ""
    return f"{change.model}  route {change.before or 'none'} → {change.after or 'none'}{why}"


def arms_text(detail: RouteDetail) -> str:
    """Who answers, and which part of the requests."""
    if not detail.arms[0].name:
        return detail.arms[0].target
    return "\n".join(f"{percent(arm.share)} {arm.name} → {arm.target}" for arm in detail.arms)


def shadow_text(detail: RouteDetail) -> str:
    """The shadow and its share; '' where there is none."""
    if not detail.shadow:
        return ""
    name = f"{detail.shadow_name} → " if detail.shadow_name else ""
    return f"{name}{detail.shadow}, copies of {percent(detail.share)}"


def route_text(detail: RouteDetail, counts: dict[str, int]) -> str:
    """Who answers, how often each did of late, and what was seen of shadows."""
    lines = [
        [arm.name or "primary", arm.target, percent(arm.share), str(counts.get(arm.target, 0))] for arm in detail.arms
    ]
    parts = [table(("NAME", "ANSWERS", "SHARE", "LAST 10 MIN"), lines, right=(2, 3))]
    shadow = shadow_text(detail)
    if shadow:
        parts.append(fields([("shadow", shadow)]))
    parts += [figures_text(seen) for seen in detail.figures]
    if shadow and not any(seen.shadow == detail.shadow for seen in detail.figures):
        parts.append("No copy was run so far.")
    return "\n\n".join(parts)


def figures_text(seen: ShadowFigures) -> str:
    """What a shadow gave, against what was answered."""
    mean = seen.cosine_sum / seen.cosines if seen.cosines else None
    worst = seen.cosine_min if seen.cosines else None
    outputs = [] if mean is None else [f"cosine {cosine(mean)} on average, {cosine(worst)} at worst"]
    outputs += [f"largest difference {seen.max_abs:.3g}"] if seen.compared else []
    outputs += [] if seen.agreement is None else [f"same answer on {percent(seen.agreement)}"]
    return fields(
        [
            ("compared", f"{seen.shadow} with {seen.target}"),
            ("copies", f"{seen.compared} compared, {seen.dropped} dropped, {seen.failed} failed"),
            ("outputs", ", ".join(outputs)),
            ("run", _times(seen)),
            ("last failure", seen.error),
        ]
    )


def _times(seen: ShadowFigures) -> str:
    rows = []
    for name, histogram in (("answered", seen.target_us), ("shadow", seen.shadow_us)):
        p50, p99 = histogram.quantile(0.5), histogram.quantile(0.99)
        if p50 is not None and p99 is not None:
            rows.append(f"{name} p50 {p50 / 1000:.3f} ms, p99 {p99 / 1000:.3f} ms")
    return "\n".join(rows)


COMMANDS = (route,)
