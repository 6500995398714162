"""How requests for a model are spread, and what was seen of its shadow, in words."""

from __future__ import annotations

from textual.content import Content

from studio.core.metrics import ShadowFigures
from studio.core.views import RouteDetail
from studio.tui import text


def part_of(detail: RouteDetail | None, name: str) -> str:
    """What stands beside a reference in the list of routes: `10 %` of a split, `shadow 20 %`; '' for nothing."""
    if detail is None or not name:
        return ""
    arm = next((arm for arm in detail.arms if arm.name == name), None)
    parts = [text.share(arm.share)] if arm else []
    if detail.shadow and detail.shadow_name == name:
        parts.append(f"shadow {text.share(detail.share)}")
    return ", ".join(parts)


def route_content(model: str, detail: RouteDetail | None, command: str) -> Content:
    """The route of a model; `command` is what changes it."""
    if detail is None:
        return Content.assemble(
            f" Requests for {model} go to one version.\n",
            (f" {command} spreads them, or lets another version run along unseen.", "$muted"),
        )
    lines: list[Content] = []
    if detail.arms[0].name:
        for arm in detail.arms:
            lines.append(
                Content.assemble(
                    (f" {text.share(arm.share):>7} ", "bold"),
                    (text.bar(arm.share, 20), "$accent"),
                    f"  {arm.name}",
                    (f"  → {arm.target}", "$muted"),
                )
            )
    else:
        lines.append(Content.assemble((" All requests ", "bold"), ("→ ", "$muted"), detail.arms[0].target))
    if detail.shadow:
        lines.append(
            Content.assemble((" Shadow ", "bold"), f"{detail.shadow} gets copies of {text.share(detail.share)}")
        )
    lines += [_figures(seen) for seen in detail.figures]
    return Content("\n").join(lines)


def _figures(seen: ShadowFigures) -> Content:
    parts = [f"{seen.compared} compared, {seen.dropped} dropped, {seen.failed} failed"]
    if seen.cosines:
        parts.append(f"cosine {text.cosine(seen.cosine_sum / seen.cosines)}, worst {text.cosine(seen.cosine_min)}")
    if seen.agreement is not None:
        parts.append(f"same answer on {text.share(seen.agreement)}")
    if seen.compared:
        parts.append(f"largest difference {seen.max_abs:.3g}")
        parts.append(f"p50 {_ms(seen.target_us.quantile(0.5))} → {_ms(seen.shadow_us.quantile(0.5))} ms")
    return Content.assemble(
        (f" {seen.shadow} ", "bold"),
        (f"against {seen.target}: ", "$muted"),
        "  ·  ".join(parts),
        (f"\n {seen.error}", "$error") if seen.error else "",
    )


def _ms(microseconds: float | None) -> str:
    return text.NONE if microseconds is None else text.ms(microseconds / 1000)
