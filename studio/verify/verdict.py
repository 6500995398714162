"""What the gates make of a variant: an outcome, and a sentence that carries its own figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from studio.core.errors import Problem
from studio.core.manifest import Fidelity, Gate, InputsKind, Interval, Measurement, Scores, Verdict
from studio.core.settings import GateSettings
from studio.verify.tasks import task_gates


def judge(
    variant: str,
    fidelity: Fidelity,
    measurement: Measurement | None,
    size: int,
    reference_size: int,
    gates: GateSettings,
) -> Verdict:
    """Keep, reject, or not distinguishable from the reference. Sizes in bytes, weights included.

    Fidelity comes first: whatever strays from the reference is rejected, however fast. Then a variant must be smaller,
    or faster with single rows or in batches, by `gates.min_gain`, and not slower by more than `gates.max_slowdown`.
    `measurement` None: judged by size.
    """
    checks = (*fidelity_gates(fidelity, gates), *_worth_gates(measurement, size, reference_size, gates))
    failed = [check for check in checks if check.name not in _WORTH and not check.passed]
    speed = measurement.speedup if measurement else None
    gains = f"{_speed_words(speed)}, {_size_words(size, reference_size)}{_rate_words(measurement)}"
    short = _short_gains(measurement, size, reference_size)
    if failed:
        why = "; ".join(_failure(check) for check in failed)
        return Verdict(
            outcome="reject",
            sentence=f"{variant} rejected: {why}, on {_seen(failed, fidelity)}{_where(fidelity)}. It is {gains}.",
            gates=checks,
            reason=_short_failure(failed[0], fidelity),
        )
    agreement = agreement_words(fidelity)
    worth = {check.name: check.passed for check in checks if check.name in _WORTH}
    if not worth["not much slower"]:
        sentence = f"{variant} rejected: {gains}; {agreement}."
        return Verdict(outcome="reject", sentence=sentence, gates=checks, reason=_short_speed(speed))
    if worth["smaller or faster"]:
        return Verdict(
            outcome="keep",
            sentence=f"{variant}: {gains}; {agreement}.",
            gates=checks,
            reason=short,
            agreement=agreement_words(fidelity, brief=True),
        )
    slower = speed is not None and speed.high < 1 - gates.min_gain
    larger = size > reference_size * (1 + gates.min_gain)
    if slower or larger:
        words = "slower without being smaller" if slower else "larger without being faster"
        sentence = f"{variant} rejected: {words}: {gains}; {agreement}."
        return Verdict(outcome="reject", sentence=sentence, gates=checks, reason=short)
    chance = speed is None or speed.low <= 1 <= speed.high
    words = "not distinguishable from the reference" if chance else "too near the reference to matter"
    saved = reference_size - size
    if saved > gates.min_gain * reference_size:  # a large share of a tiny file
        words = f"saves only {_bytes(saved)}, and is not faster"
    sentence = f"{variant}: {words}: {gains}; {agreement}."
    return Verdict(outcome="not distinguishable", sentence=sentence, gates=checks, reason=words)


_FEW_SAMPLES = 20
"""Agreement on fewer rows than these is told with that caution: one of 19 is five points of accuracy."""
_WORTH = ("smaller or faster", "not much slower")


def judge_fidelity(variant: str, fidelity: Fidelity, gates: GateSettings) -> Verdict:
    """Keep or reject by the rules on agreement alone: what can be known before anything is measured."""
    checks = fidelity_gates(fidelity, gates)
    failed = [check for check in checks if not check.passed]
    if not failed:
        words = agreement_words(fidelity)
        return Verdict(outcome="keep", sentence=f"{variant}: {words}.", gates=checks, reason=words)
    why = "; ".join(_failure(check) for check in failed)
    sentence = f"{variant} rejected: {why}, on {_seen(failed, fidelity)}."
    return Verdict(outcome="reject", sentence=sentence, gates=checks, reason=_short_failure(failed[0], fidelity))


def _seen(failed: list[Gate], fidelity: Fidelity) -> str:
    """What it failed on: NaN is looked for in rows too that agreement is not about."""
    everywhere = any(gate.name in ("finite", "hides NaN") for gate in failed)
    return _on(replace(fidelity, unjudged=0) if everywhere else fidelity)


def _where(fidelity: Fidelity) -> str:
    """`; it breaks at Conv 'features.3': SQNR 31 → 9 dB`, where that was looked into."""
    return "" if fidelity.layers is None else f"; it {fidelity.layers.sentence}"


def reference_verdict(measurement: Measurement, size: int) -> Verdict:
    """What is said of the reference itself."""
    if not measurement.batched:
        latency, rate = f"{_ms(measurement.p50)} a run", f"{_count(measurement.throughput)} runs/s"
    else:
        latency = f"{_ms(measurement.p50)} at batch {measurement.latency[0].batch}"
        rate = f"{_count(measurement.throughput)} rows/s at batch {measurement.throughput_batch}"
    reason = f"{latency}, {_bytes(size)}"
    return Verdict(outcome="reference", sentence=f"The reference: {latency}, {rate}, {_bytes(size)}.", reason=reason)


def not_applicable(variant: str, why: str) -> Verdict:
    """What is said where a recipe does not apply; `why` as the recipe gives it."""
    why = why.rstrip(".")
    return Verdict(outcome="not applicable", sentence=f"{variant} does not apply: {why}.", reason=why)


def not_made(variant: str, problem: Problem) -> Verdict:
    """What is said where a recipe failed, or ended its worker."""
    words = replace(problem, fix="").sentence()
    reason = problem.what.rstrip(".")
    return Verdict(outcome="reject", sentence=f"{variant} could not be made: {words}", reason=reason)


def fidelity_gates(fidelity: Fidelity, gates: GateSettings) -> tuple[Gate, ...]:
    """The rules on agreement, over the worst of all outputs. A rule without figures is left out."""
    outputs = fidelity.outputs
    bad = sum(out.non_finite for out in outputs)
    found = [Gate(name="finite", rule="no NaN or infinity", value=float(bad), passed=bad == 0)]
    changed = sum(out.changed_non_finite for out in outputs)
    if changed:
        # A caller sees by NaN that there is no answer; a number in its place would be taken for one.
        rule = "NaN and infinity of the reference stay"
        found.append(Gate(name="hides NaN", rule=rule, value=float(changed), passed=False))
    cosine = _worst([out.cosine for out in outputs])
    top1 = _worst([out.top1_agreement for out in outputs])
    # Where classes agree or not, that is the question; elsewhere, an answer near the mean can have a high cosine.
    follows = _worst([out.correlation for out in outputs if out.top1_agreement is None])
    found += _floor("cosine", cosine, gates.min_cosine)
    found += _floor("correlation", follows, gates.min_correlation)
    found += _floor("top-1 agreement", top1, gates.min_top1_agreement)
    if fidelity.accuracy is not None and fidelity.reference_accuracy is not None:
        drop = fidelity.reference_accuracy - fidelity.accuracy
        limit = gates.max_accuracy_drop
        # Shares of a few hundred rows are not exact in binary: 0.99 - 0.98 must pass a limit of 0.01.
        found.append(
            Gate(name="accuracy drop", rule=f"accuracy drop ≤ {limit:g}", value=drop, passed=drop <= limit + 1e-9)
        )
    return (*found, *task_gates(fidelity, gates))


def parity_gates(
    fidelity: Fidelity, gates: GateSettings, tolerances: Mapping[str, float] | None = None
) -> tuple[Gate, ...]:
    """The rules on a conversion: floats within `parity_max_rel` of the output's scale, nearly all else equal.

    `tolerances`: by output, a difference up to which a source that rounds coarsely (a quantised model) agrees.
    """
    bad = sum(out.non_finite for out in fidelity.outputs)
    found = [Gate(name="finite", rule="no NaN or infinity", value=float(bad), passed=bad == 0)]
    coarse = tolerances or {}
    found += [
        Gate(
            name=f"parity of '{out.name}'",
            rule=f"largest difference ≤ {coarse[out.name]:.3g}, as the source rounds",
            value=out.max_abs,
            passed=out.max_abs <= coarse[out.name] * (1 + 1e-6),
        )
        for out in fidelity.outputs
        if out.name in coarse
    ]
    fidelity = replace(fidelity, outputs=tuple(out for out in fidelity.outputs if out.name not in coarse))
    floats = [out.max_rel for out in fidelity.outputs if not _by_equality(out.cosine, out.top1_agreement)]
    if floats:
        limit = gates.parity_max_rel
        worst = max(floats)
        rule = f"largest difference ≤ {limit:g} of the output's scale"
        found.append(Gate(name="parity", rule=rule, value=worst, passed=worst <= limit))
    top1 = _worst([out.top1_agreement for out in fidelity.outputs])
    return (*found, *_floor("top-1 agreement", top1, gates.min_top1_agreement))


def _by_equality(cosine: float | None, top1: float | None) -> bool:
    return cosine is None and top1 is not None


def _worst(values: list[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _floor(name: str, value: float | None, least: float) -> list[Gate]:
    return [] if value is None else [Gate(name=name, rule=f"{name} ≥ {least:g}", value=value, passed=value >= least)]


def _worth_gates(
    measurement: Measurement | None, size: int, reference_size: int, gates: GateSettings
) -> tuple[Gate, ...]:
    speed = measurement.speedup if measurement else None
    rate = measurement.rate_speedup if measurement else None
    saved = reference_size - size
    smaller = size <= reference_size * (1 - gates.min_gain) and saved >= gates.min_gain_bytes
    # A gain counts when it is large enough and not chance: the interval leaves 1 out.
    faster = _gains(speed, gates) or (_gains(rate, gates) and (speed is None or speed.high >= 1))
    speeds = [one.value - 1 for one in (speed, rate) if one is not None]
    gain = max(saved / reference_size if reference_size and saved >= gates.min_gain_bytes else 0.0, *speeds, 0.0)
    bound = 1 / gates.max_slowdown
    slow = speed is not None and speed.high < bound
    return (
        Gate(
            name="smaller or faster",
            rule=f"gain in speed ≥ {100 * gates.min_gain:g} %, or in size, and then ≥ {_bytes(gates.min_gain_bytes)}",
            value=100 * gain,
            passed=smaller or faster,
        ),
        Gate(
            name="not much slower",
            rule=f"speed ≥ {bound:.2f}x the reference's",
            value=speed.value if speed else None,
            passed=not slow,
        ),
    )


def _gains(speed: Interval | None, gates: GateSettings) -> bool:
    return speed is not None and speed.value >= 1 + gates.min_gain and speed.low > 1


def _short_failure(gate: Gate, fidelity: Fidelity) -> str:
    """The same in a few words. What was seen on made-up inputs alone is never told without saying so."""
    words = _failure(gate).partition(" (")[0]
    return f"{words} on made-up inputs" if fidelity.inputs == "synthetic" else words


def _failure(gate: Gate) -> str:
    value = gate.value or 0.0
    if gate.name == "finite":
        return f"{int(value)} values are NaN or infinite where the reference's are not"
    if gate.name == "hides NaN":
        return f"{int(value)} values are something else where the reference's are NaN or infinite"
    if gate.name == "accuracy drop":
        return f"accuracy falls by {100 * value:.1f} points ({gate.rule})"
    if gate.name in ("F1 drop", "AUC drop"):
        return f"{gate.name.removesuffix(' drop')} falls by {value:.3f} ({gate.rule})"
    if gate.name == "RMSE rise":
        return f"the error (RMSE) rises by {100 * value:.1f} % ({gate.rule})"
    if gate.name == "top-1 agreement":
        return f"agrees on only {share(value)} ({gate.rule})"
    # Cut, not rounded: 0.98996 must not read as the 0.99 that it fails.
    return f"{gate.name} {math.floor(value * 10_000) / 10_000:g} ({gate.rule})"


def agreement_words(fidelity: Fidelity, brief: bool = False) -> str:
    """How far it agrees, on what, and, unless `brief`, what that does not show."""
    if not fidelity.judged:
        return f"nothing to agree with: the reference answers NaN to all of {_on(replace(fidelity, unjudged=0))}"
    top1 = _worst([out.top1_agreement for out in fidelity.outputs])
    cosine = _worst([out.cosine for out in fidelity.outputs])
    ranks = _worst([out.rank_correlation for out in fidelity.outputs])
    if ranks is not None and top1 is None:
        words = f"rank correlation {_cosine(ranks)} on {_on(fidelity)}"
    elif top1 is not None:
        words = f"agrees on {share(top1)} of {_on(fidelity)}"
    elif cosine is not None:
        words = f"cosine {_cosine(cosine)} on {_on(fidelity)}"
    else:
        words = f"equal on {_on(fidelity)}"
    if brief:
        return words
    if fidelity.accuracy is not None and fidelity.reference_accuracy is not None:
        words += f" (accuracy {share(fidelity.accuracy)}, the reference's {share(fidelity.reference_accuracy)})"
    elif fidelity.scores is not None and fidelity.reference_scores is not None:
        words += _score_words(fidelity.scores, fidelity.reference_scores)
    elif fidelity.inputs == "synthetic":
        words += ", which say nothing about accuracy"
    elif fidelity.inputs in ("samples", "captured"):
        words += ", accuracy unknown without labels"
    if fidelity.unjudged:
        words += f", {fidelity.unjudged} more left out: the reference answers NaN to them"
    if fidelity.inputs != "synthetic" and fidelity.judged < _FEW_SAMPLES:
        words += f"; {fidelity.judged} {'is' if fidelity.judged == 1 else 'are'} too few to rely on"
    return words


def _score_words(own: Scores, base: Scores) -> str:
    for name, mine, its in (("RMSE", own.rmse, base.rmse), ("AUC", own.auc, base.auc)):
        if mine is not None and its is not None:
            return f" ({name} {mine:.4g}, the reference's {its:.4g})"
    return ""


_KINDS: dict[InputsKind, str] = {"labelled": "labelled", "samples": "", "captured": "recorded", "synthetic": "made-up"}


def _on(fidelity: Fidelity) -> str:
    noun = {"synthetic": "inputs", "captured": "requests"}.get(fidelity.inputs, "samples")
    noun = noun if fidelity.judged != 1 else noun[:-1]
    return " ".join(word for word in (str(fidelity.judged), _KINDS[fidelity.inputs], noun) if word)


def share(value: float) -> str:
    """A share in percent that never rounds up to all: 0.9996 is '99.9 %', only 1 is '100 %'."""
    if value >= 1:
        return "100 %"
    return f"{min(99.9, round(100 * value, 1)):.1f} %"


def _cosine(value: float) -> str:
    return f"{value:.4f}" if round(value, 4) < 1 or value == 1 else "> 0.9999"


def _speed_words(speed: Interval | None) -> str:
    if speed is None:
        return "speed not measured"
    low, high = speed.low, speed.high
    if speed.value >= 1:
        value, word = speed.value, "faster"
    else:
        value, low, high, word = 1 / speed.value, 1 / speed.high, 1 / speed.low, "slower"
    if speed.low <= 1 <= speed.high or round(speed.value, 2) == 1:
        return f"as fast ({speed.value:.2f}x, 95 % CI {speed.low:.2f}–{speed.high:.2f})"
    return f"{_times(value)} {word} (95 % CI {_times(low)[:-1]}–{_times(high)[:-1]})"


def _times(value: float) -> str:
    """A factor to two or three figures: '1.04x', '3.6x', '16x'."""
    return f"{value:.2f}x" if value < 2 else f"{value:.1f}x" if value < 10 else f"{value:.0f}x"


def _size_words(size: int, reference: int) -> str:
    if not size or not reference or abs(size - reference) < 0.005 * reference:
        return "the same size"
    return f"{_times(reference / size)} smaller" if size < reference else f"{_times(size / reference)} larger"


def _rate_words(measurement: Measurement | None) -> str:
    """Throughput at the best batch, told only where it is another story than latency."""
    rate = measurement.rate_speedup if measurement else None
    if measurement is None or rate is None or not _another_story(measurement):
        return ""
    span = f"(95 % CI {_times(rate.low)[:-1]}–{_times(rate.high)[:-1]})"
    rows = f"{_count(measurement.throughput)} rows/s"
    return f", {_times(rate.value)} the throughput {span} at batch {measurement.throughput_batch}: {rows}"


def _another_story(measurement: Measurement) -> bool:
    speed, rate = measurement.speedup, measurement.rate_speedup
    if speed is None or rate is None:
        return False
    chance = [one.low <= 1 <= one.high for one in (speed, rate)]
    return not 0.8 < rate.value / speed.value < 1.25 or (chance[0] != chance[1] and abs(rate.value - 1) >= 0.05)


def _short_speed(speed: Interval | None) -> str:
    return _speed_words(speed).partition(" (")[0]


def _short_gains(measurement: Measurement | None, size: int, reference: int) -> str:
    """'3.1x faster, 4.0x smaller'; throughput in place of a latency that did not change."""
    speed = _short_speed(measurement.speedup if measurement else None)
    if measurement is not None and measurement.rate_speedup is not None and _another_story(measurement):
        speed += (
            f", {_times(measurement.rate_speedup.value)} the throughput in batches of {measurement.throughput_batch}"
        )
    return f"{speed}, {_size_words(size, reference)}"


def _count(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}".replace(",", " ")


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def _bytes(size: float) -> str:
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
