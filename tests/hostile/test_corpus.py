"""Every attack against a real engine: refused with words, or contained; and nobody notices but its own job.

The default run takes a representative part; `pytest -m slow tests/hostile` takes them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile import code_attacks, file_attacks, inbox_attacks, onnx_attacks, pickle_attacks
from tests.hostile.place import REFUSED, Attack
from tests.hostile.siege import Outcome, besieged

ATTACKS = (
    *onnx_attacks.ATTACKS,
    *pickle_attacks.ATTACKS,
    *code_attacks.ATTACKS,
    *file_attacks.ATTACKS,
    *inbox_attacks.ATTACKS,
)
QUICK = tuple(attack for attack in ATTACKS if not attack.slow and not attack.hangs)
QUICK_HANGS = tuple(attack for attack in ATTACKS if not attack.slow and attack.hangs)
SLOW = tuple(attack for attack in ATTACKS if attack.slow and not attack.hangs)
SLOW_HANGS = tuple(attack for attack in ATTACKS if attack.slow and attack.hangs)

SECONDS = 90.0
HANG_SECONDS = 10.0


def withstand(folder: Path, attacks: tuple[Attack, ...], seconds: float) -> None:
    """All attacks on one engine. Fails with each that did not come out as it must.

    One test for all of them: shared between test processes, every process would need an engine of its own.
    """
    with besieged(folder, seconds) as siege:
        siege.run(attacks, 120 + 12 * len(attacks))
        siege.still_stands()
    wrong = [f"{attack.name}: {fault}" for attack in attacks for fault in faults(attack, siege.outcomes[attack.name])]
    assert not wrong, "\n".join(wrong)


@pytest.mark.timeout(900)
def test_every_attack_is_contained(tmp_path: Path) -> None:
    withstand(tmp_path, QUICK, SECONDS)


@pytest.mark.timeout(300)
def test_every_attack_on_time_is_contained(tmp_path: Path) -> None:
    withstand(tmp_path, QUICK_HANGS, HANG_SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_other_attack_is_contained(tmp_path: Path) -> None:
    withstand(tmp_path, SLOW, SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_other_attack_on_time_is_contained(tmp_path: Path) -> None:
    withstand(tmp_path, SLOW_HANGS, HANG_SECONDS)


def faults(attack: Attack, outcome: Outcome) -> Iterator[str]:
    """What is wrong with an outcome, in words for who reads the failed test."""
    if outcome.state not in attack.states:
        yield f"it is {outcome.state!r}, not one of {sorted(attack.states)}: {outcome.text}"
        return
    if not re.search(attack.words, outcome.text):
        yield f"it does not say {attack.words!r}: {outcome.text}"
    acts = [line for line in outcome.log.splitlines() if line.startswith("escape:")]
    yield from (line for line in acts if " gave " in line and not line.startswith(HARMLESS))
    if len(acts) != (ESCAPES if attack.name == "factory-escapes" else 0):
        yield f"its log tells of {len(acts)} acts"
    if outcome.state not in REFUSED:
        return
    problem = outcome.problem
    if problem is None or not problem.what or not (problem.why or problem.fix) or problem.code in ("internal", ""):
        yield f"it is not explained: {problem}"
    for bad in ("did not foresee", "Traceback", "/scratch", "\x1b"):
        if bad in outcome.text:
            yield f"it says {bad!r}: {outcome.text}"


# What a worker may do: look that its home and environment are not the user's, listen where nobody can connect, start
# processes that end with it, and start a shell that can do no more than it.
HARMLESS = (
    "escape: home gave None",
    "escape: environment gave None",
    "escape: listens gave None",
    "escape: hides gave None",
    "escape: shells gave 1",
)
ESCAPES = len(code_attacks.QUIET.split(","))


def test_the_corpus_covers_what_it_should() -> None:
    aims = {aim for attack in ATTACKS for aim in attack.aims.split()}
    assert aims >= {f"S{number}" for number in (1, 2, 4, 5, 6, 7, 8, 9, 10, 23, 24)}
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert 40 <= len(QUICK) + len(QUICK_HANGS) <= 90
