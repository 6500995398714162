"""The automatic choice among a version's variants: only what was measured on this machine decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.core.choice import choose, pareto, stale_words
from studio.core.errors import InvalidInput
from studio.core.manifest import Graph, Interval, Latency, Outcome, VariantManifest
from studio.core.names import check_variant_name
from tests.manifests import MACHINE, fidelity, measurement, variant

Speed = tuple[float, float, float]
SAME = (1.0, 0.97, 1.03)


def made(
    name: str,
    speed: Speed = SAME,
    size: int = 1000,
    outcome: Outcome = "keep",
    cosine: float = 0.999,
    reason: str = "",
    rate: Speed | None = None,
) -> VariantManifest:
    one = variant(None, name=name, outcome=outcome)
    assert one.graph is not None
    single = replace(measurement(1.0), speedup=Interval(*speed), throughput_batch=1)
    if rate:
        batch = replace(single.latency[0], batch=32, speedup=Interval(*rate))
        single = replace(single, latency=(single.latency[0], batch), throughput_batch=32)
    return replace(
        one,
        graph=Graph(file=replace(one.graph.file, size=size)),
        fidelity=fidelity(cosine),
        measurement=single if name != "fp32" else replace(single, speedup=None),
        verdict=replace(one.verdict, reason=reason or f"{speed[0]:.1f}x"),
    )


REFERENCE = made("fp32", outcome="reference", cosine=1.0)


def test_the_fastest_that_passes_is_chosen_and_the_sentence_says_why() -> None:
    words, agreement = "3.1x faster, 4.0x smaller", "agrees on 99.7 % of 600 labelled samples"
    static = made("int8-static", (3.1, 3.0, 3.2), 250, reason=words)
    choice = choose(
        [
            REFERENCE,
            replace(static, verdict=replace(static.verdict, agreement=agreement)),
            made("int8", (0.14, 0.13, 0.15), 260, "reject", reason="7.0x slower"),
            made("ruined", (9.0, 8.9, 9.1), 100, "reject", reason="agrees on only 41.0 %"),
            made("fp16", (1.0, 0.9, 1.1), 500, reason="as fast, 2.0x smaller"),
        ]
    )
    assert choice.variant == "int8-static"
    assert choice.sentence == (
        f"int8-static: {words}, {agreement}; ruined rejected: agrees on only 41.0 %; int8 rejected: 7.0x slower; "
        "fp16 kept too: as fast, 2.0x smaller."
    )


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([], "fp32"),
        ([made("a", SAME, 500)], "fp32"),  # smaller, which was not asked for
        ([made("a", (1.5, 0.9, 2.2))], "fp32"),  # may be chance
        ([made("a", (1.03, 1.02, 1.04))], "fp32"),  # nobody would see it
        ([made("a", (2.0, 1.9, 2.1), outcome="not distinguishable")], "fp32"),
        ([made("a", (2.0, 1.9, 2.1), outcome="reject")], "fp32"),
        ([made("a", (1.2, 1.1, 1.3)), made("b", (2.0, 1.9, 2.1), 2000)], "b"),
        ([made("a", (2.02, 1.9, 2.1), 900), made("b", (2.0, 1.9, 2.1), 300)], "b"),  # as fast, and smaller
        ([made("a", (2.02, 2.01, 2.03), 900), made("b", (1.99, 1.98, 2.0), 300)], "a"),  # seen to be faster
        ([made("a", (2.0, 1.9, 2.1), cosine=0.995), made("b", (2.0, 1.9, 2.1), cosine=0.9999)], "b"),
        ([made("a", SAME, rate=(2.0, 1.9, 2.1))], "a"),  # no slower one by one, faster in batches
        ([made("a", (0.9, 0.88, 0.92), 500, rate=(2.0, 1.9, 2.1))], "fp32"),
        ([made("a", SAME, rate=(2.0, 1.9, 2.1)), made("b", (1.2, 1.1, 1.3))], "b"),
    ],
)
def test_the_incumbent_gives_way_to_nothing_less_than_a_faster_one(others: list[VariantManifest], chosen: str) -> None:
    assert choose([REFERENCE, *others]).variant == chosen


def test_size_may_be_asked_for_instead() -> None:
    others = [made("fast", (3.0, 2.9, 3.1), 600), made("small", SAME, 300), made("no", SAME, 100, "reject")]
    assert choose([REFERENCE, *others], prefer="size").variant == "small"
    assert choose([REFERENCE], prefer="size").variant == "fp32"
    assert "nothing that passes is smaller here" in choose([REFERENCE, others[2]], prefer="size").sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cpu": "another"}, "measured on another processor (test)"),
        ({"cores": 8}, "measured with 2 cores; this machine has 8"),
        ({"runtime": "ort 2"}, "measured with ort; this is ort 2"),
    ],
)
def test_figures_of_another_machine_decide_nothing(changes: dict[str, object], words: str) -> None:
    here = replace(MACHINE, **changes)
    assert stale_words(MACHINE, here) == words and stale_words(MACHINE, None) == ""
    assert stale_words(MACHINE, replace(MACHINE, system="newer", memory=1)) == ""
    fast = made("int8", (3.0, 2.9, 3.1), 250)
    assert choose([REFERENCE, fast], MACHINE).variant == "int8"
    elsewhere = choose([REFERENCE, fast], here)
    assert elsewhere.variant == "fp32"
    assert elsewhere.sentence == (
        f"fp32: nothing else has been measured as things are here; int8 was {words}: that decides nothing here."
    )
    slow = replace(made("int4", (0.5, 0.4, 0.6), 200), machine=here)
    some = choose([REFERENCE, fast, slow], here).sentence
    assert some.startswith("fp32: nothing that was measured as things are here is faster, and passes; int4 kept too: ")
    assert elsewhere.front == ("fp32",)
    again = replace(fast, machine=here)
    assert choose([REFERENCE, again], here).variant == "int8"


def test_what_was_not_made_is_never_chosen() -> None:
    missing = replace(made("int4", outcome="not applicable"), graph=None)
    choice = choose([REFERENCE, missing])
    assert (choice.variant, choice.sentence) == ("fp32", "fp32: no recipe applies.")
    assert choose([]).sentence == "fp32: nothing else has been made yet."
    gone = replace(made("int8", (3.0, 2.9, 3.1)), graph=None)
    assert choose([REFERENCE, gone]).variant == "fp32"


def test_the_front_has_what_nothing_beats() -> None:
    fast = made("fast", (3.0, 2.9, 3.1), 900, cosine=0.995)
    small = made("small", (0.8, 0.7, 0.9), 200, cosine=0.992)
    worse = made("worse", (2.0, 1.9, 2.1), 950, cosine=0.994)
    noisy = made("noisy", (1.4, 0.8, 2.0), 1000, cosine=0.9999)  # perhaps no faster, and a little off
    wrong = made("wrong", (9.0, 8.9, 9.1), 10, "reject")
    assert pareto([REFERENCE, fast, small, worse, noisy, wrong]) == ("fp32", "fast", "small")
    twins = [made("a", (2.0, 1.9, 2.1), 500), made("b", (2.0, 1.9, 2.1), 500)]
    assert pareto(twins) == ("a", "b")


@pytest.mark.parametrize("name", ["auto", "latest"])
def test_what_stands_for_another_is_the_name_of_no_variant(name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        check_variant_name(name)


def test_the_rate_of_a_setting_is_from_its_median() -> None:
    one = Latency(batch=8, threads=2, runs=10, p50=4.0, p95=9.0, p99=9.0, mean=5.0)
    assert one.rate == 2000.0
