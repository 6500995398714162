"""Every attack against a real engine: refused with words, or contained; and nobody notices but its own job.

The default run takes a representative part; `pytest -m slow tests/hostile` takes them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.hostile import code_attacks, file_attacks, onnx_attacks
from tests.hostile.place import FAILED, LEFT, Attack
from tests.hostile.siege import Outcome, Siege, besieged

ATTACKS = (*onnx_attacks.ATTACKS, *code_attacks.ATTACKS, *file_attacks.ATTACKS)
QUICK = tuple(attack for attack in ATTACKS if not attack.slow and not attack.hangs)
QUICK_HANGS = tuple(attack for attack in ATTACKS if not attack.slow and attack.hangs)
SLOW = tuple(attack for attack in ATTACKS if attack.slow and not attack.hangs)
SLOW_HANGS = tuple(attack for attack in ATTACKS if attack.slow and attack.hangs)

SECONDS = 40.0
HANG_SECONDS = 6.0


def laid(request: pytest.FixtureRequest, folder: pytest.TempPathFactory, attacks: tuple[Attack, ...], seconds: float):
    with besieged(folder.mktemp("siege"), seconds) as siege:
        siege.run(attacks, 60 + 12 * len(attacks))
        yield siege
        siege.still_stands()


@pytest.fixture(scope="module")
def siege(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    yield from laid(request, tmp_path_factory, QUICK, SECONDS)


@pytest.fixture(scope="module")
def hanging(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    yield from laid(request, tmp_path_factory, QUICK_HANGS, HANG_SECONDS)


@pytest.fixture(scope="module")
def slow_siege(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    yield from laid(request, tmp_path_factory, SLOW, SECONDS)


@pytest.fixture(scope="module")
def slow_hanging(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    yield from laid(request, tmp_path_factory, SLOW_HANGS, HANG_SECONDS)


def names(attacks: tuple[Attack, ...]) -> list[str]:
    return [attack.name for attack in attacks]


@pytest.mark.parametrize("attack", QUICK, ids=names(QUICK))
def test_an_attack_is_contained(siege: Siege, attack: Attack) -> None:
    check(attack, siege.outcomes[attack.name])


@pytest.mark.parametrize("attack", QUICK_HANGS, ids=names(QUICK_HANGS))
def test_an_attack_on_time_is_contained(hanging: Siege, attack: Attack) -> None:
    check(attack, hanging.outcomes[attack.name])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("attack", SLOW, ids=names(SLOW))
def test_each_other_attack_is_contained(slow_siege: Siege, attack: Attack) -> None:
    check(attack, slow_siege.outcomes[attack.name])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("attack", SLOW_HANGS, ids=names(SLOW_HANGS))
def test_each_other_attack_on_time_is_contained(slow_hanging: Siege, attack: Attack) -> None:
    check(attack, slow_hanging.outcomes[attack.name])


def check(attack: Attack, outcome: Outcome) -> None:
    assert outcome.state in attack.states, outcome
    assert re.search(attack.words, outcome.text), outcome.text
    escaped = [line for line in outcome.log.splitlines() if line.startswith("escape:") and " gave None" in line]
    assert not [line for line in escaped if not line.startswith(HARMLESS)], escaped
    if outcome.state not in FAILED | {"waiting"}:
        assert outcome.state in LEFT or outcome.problem is None
        return
    problem = outcome.problem
    assert problem is not None
    assert problem.what and (problem.why or problem.fix)
    assert problem.code not in ("internal", ""), problem
    for bad in ("did not foresee", "Traceback", "/scratch", "\x1b"):
        assert bad not in outcome.text


# What a worker may do: look that its home and environment are not the user's, listen where nobody can connect.
HARMLESS = ("escape: home ", "escape: environment ", "escape: listens ", "escape: hides ")


def test_the_corpus_covers_what_it_should() -> None:
    aims = {aim for attack in ATTACKS for aim in attack.aims.split()}
    assert aims >= {f"S{number}" for number in (1, 2, 4, 5, 6, 7, 8, 9, 10, 23, 24)}
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert 40 <= len(QUICK) + len(QUICK_HANGS) <= 90
