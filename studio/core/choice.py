"""The automatic choice among a version's variants, and which of them are better at anything. No I/O.

A choice rests on figures from one machine. Where they were taken on another, or with another runtime, they are stale:
what they say of speed decides nothing until it was measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from studio.core.manifest import Interval, Machine, VariantManifest
from studio.core.names import REFERENCE_VARIANT

Prefer = Literal["speed", "size"]

FASTER = 1.05  # a smaller gain is none that a caller would see
ALIKE = 1.05  # variants nearer than this in speed, with intervals that meet, are told apart by size and fidelity
_TOLD = 3


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `auto` means for a version now, and the `sentence` that says why.

    `front` names the variants that no other passing one beats in speed, size and fidelity, the smallest last.
    """

    variant: str
    sentence: str
    front: tuple[str, ...] = ()


def stale_words(measured: Machine, here: Machine | None) -> str:
    """Why figures from `measured` do not hold on the machine `here`; empty where they do, or `here` is not known."""
    if here is None:
        return ""
    if measured.cpu != here.cpu:
        return f"measured on another processor ({measured.cpu})"
    if measured.cores != here.cores:
        return f"measured with {measured.cores} cores; this machine has {here.cores}"
    if measured.runtime != here.runtime:
        return f"measured with {measured.runtime}; this is {here.runtime}"
    return ""


def choose(variants: Sequence[VariantManifest], here: Machine | None = None, prefer: Prefer = "speed") -> Choice:
    """The fastest variant of a version that passed every gate on this machine, or the smallest.

    The reference is the incumbent: what can not be told from it in speed does not displace it when speed is asked for.
    Among variants of about the same speed the smaller one wins, then the one nearer to the reference.
    """
    stale = {one.variant: words for one in variants if (words := stale_words(one.machine, here))}
    fresh = [one for one in variants if one.variant not in stale]
    kept = [one for one in fresh if one.verdict.outcome == "keep" and one.graph is not None]
    reference = next((one for one in variants if one.is_reference), None)
    chosen = _smallest(kept, reference) if prefer == "size" else _fastest(kept)
    front = pareto([*([reference] if reference else []), *(one for one in fresh if not one.is_reference)])
    return Choice(
        variant=chosen.variant if chosen else REFERENCE_VARIANT,
        sentence=_sentence(chosen, fresh, stale, prefer),
        front=front or (REFERENCE_VARIANT,),
    )


def _speed(one: VariantManifest) -> Interval | None:
    return one.measurement.speedup if one.measurement and not one.is_reference else None


def _rate(one: VariantManifest) -> Interval | None:
    return one.measurement.rate_speedup if one.measurement else None


def _gains(speed: Interval | None) -> bool:
    return speed is not None and speed.low > 1 and speed.value >= FASTER


def _fastest(kept: Sequence[VariantManifest]) -> VariantManifest | None:
    """By single rows; where nothing is faster there, by batches, of those that lose nothing with single rows."""
    faster = [(one, speed) for one in kept if (speed := _speed(one)) and _gains(speed)]
    if not faster:
        steady = [one for one in kept if (speed := _speed(one)) is None or speed.high >= 1]
        faster = [(one, rate) for one in steady if (rate := _rate(one)) and _gains(rate)]
    if not faster:
        return None
    most = max((speed for _, speed in faster), key=lambda speed: speed.value)
    rivals = [one for one, speed in faster if speed.high >= most.low and speed.value * ALIKE >= most.value]
    return min(rivals, key=lambda one: (_size(one), _loss(one), one.variant))


def _smallest(kept: Sequence[VariantManifest], reference: VariantManifest | None) -> VariantManifest | None:
    smaller = [one for one in kept if reference is None or _size(one) < _size(reference)]
    return min(smaller, key=lambda one: (_size(one), -_value(_speed(one)), one.variant), default=None)


def _value(speed: Interval | None) -> float:
    """How many times faster, 1 where that may be chance."""
    return 1.0 if speed is None or speed.low <= 1 <= speed.high else speed.value


def _size(one: VariantManifest) -> int:
    return one.graph.size if one.graph else 0


def _loss(one: VariantManifest) -> float:
    """How far it strays: the worst of all outputs, by first choice, order of neighbours or cosine."""
    if one.is_reference or one.fidelity is None:
        return 0.0
    worst = 1.0
    for out in one.fidelity.outputs:
        known = (out.top1_agreement, out.rank_correlation, out.cosine)
        worst = min([worst, *(value for value in known if value is not None)])
    return round(1 - worst, 4)


def pareto(variants: Sequence[VariantManifest]) -> tuple[str, ...]:
    """Of those that pass, the variants that no other beats: as fast, as small and as near, and better in one of these.
    The largest first.
    """
    passing = [
        one
        for one in variants
        if one.graph is not None and one.verdict.outcome in ("reference", "keep", "not distinguishable")
    ]
    points = {one.variant: (1 / _value(_speed(one)), float(_size(one)), _loss(one)) for one in passing}

    def beaten(name: str) -> bool:
        own = points[name]
        return any(
            other != own and all(a <= b for a, b in zip(other, own, strict=True))
            for place, other in points.items()
            if place != name
        )

    left = [one for one in passing if not beaten(one.variant)]
    return tuple(one.variant for one in sorted(left, key=lambda one: (-_size(one), one.variant)))


def _sentence(
    chosen: VariantManifest | None, fresh: Sequence[VariantManifest], stale: dict[str, str], prefer: Prefer
) -> str:
    others = [one for one in fresh if not one.is_reference and one is not chosen]
    made = [one for one in others if one.verdict.outcome != "not applicable"]
    if chosen is not None:
        words = (chosen.verdict.reason, chosen.verdict.agreement)
        first = f"{chosen.variant}: {', '.join(word for word in words if word)}"
    elif not made and not stale:
        first = f"{REFERENCE_VARIANT}: " + ("no recipe applies" if others else "nothing else has been made yet")
    else:
        word = "smaller" if prefer == "size" else "faster"
        said = f"nothing that passes is {word} here"
        if any(name != REFERENCE_VARIANT for name in stale):
            # What those would be here, nobody knows.
            said = f"nothing that was measured as things are here is {word}, and passes"
            said = said if made else "nothing else has been measured as things are here"
        first = f"{REFERENCE_VARIANT}: {said}"
    order = {"reject": 0, "keep": 1, "not distinguishable": 2}
    made.sort(key=lambda one: (order.get(one.verdict.outcome, 3), -_value(_speed(one)), one.variant))
    parts = [first, *(_aside(one) for one in made[:_TOLD])]
    if len(made) > _TOLD:
        parts.append(f"and {len(made) - _TOLD} more")
    dated = [name for name in stale if name != REFERENCE_VARIANT]
    if dated:
        verb = "was" if len(dated) == 1 else "were"
        parts.append(f"{', '.join(dated)} {verb} {stale[dated[0]]}: that decides nothing here")
    return "; ".join(parts) + "."


def _aside(one: VariantManifest) -> str:
    words = {"reject": " rejected", "keep": " kept too"}.get(one.verdict.outcome, "")
    return f"{one.variant}{words}: {one.verdict.reason or one.verdict.outcome}"
