"""The load process: `python -m studio.bench.load` reads a LoadPlan as JSON on stdin and prints Lines on stdout.

It is a process of its own so that neither the engine's event loop nor its garbage collector is in the figures. Arms
take turns in slices A B, B A, A B … in random order within each round, so that a machine which becomes slower or faster
does so for all of them.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Iterator

from studio.bench.bins import binned
from studio.bench.driver import Driver, Turn, endless
from studio.bench.plan import Line, LoadPlan, Prepared, Slice
from studio.bench.requests import bodies_for, http_request
from studio.core import codec
from studio.core.errors import StudioError, Unavailable
from studio.core.manifest import InputsKind

MIN_ROUNDS = 20  # more and shorter rounds gave narrower intervals than fewer long ones on a busy machine
LEAST_ROUNDS = 3
MIN_SLICE = 0.05
_WEAKEST: tuple[InputsKind, ...] = ("synthetic", "captured", "samples", "labelled")


def run(plan: LoadPlan, tell: Callable[[Line], None]) -> None:
    """Build the requests, warm up, measure. Raises StudioError when an arm gives no good answer at all."""
    made = [bodies_for(arm.signature, arm.samples, plan.seed) for arm in plan.arms]
    kind = next(kind for kind in _WEAKEST if any(one.kind == kind for one in made))
    tell(Line(prepared=Prepared(inputs=kind, samples=len(made[0].bodies))))
    requests = [
        endless([http_request(plan.url, arm.path, body) for body in one.bodies])
        for arm, one in zip(plan.arms, made, strict=True)
    ]
    driver = Driver(plan.url, plan.clients, plan.timeout)
    try:
        for arm, of_arm in zip(plan.arms, requests, strict=True):
            _check(arm.label, driver.run(of_arm, plan.warmup))
        _measure(plan, driver, requests, tell)
    finally:
        driver.close()


def slice_length(plan: LoadPlan) -> float:
    """Seconds of a slice: what was asked for, or shorter where that leaves too few rounds to judge by."""
    return max(MIN_SLICE, min(plan.slice_seconds, plan.seconds / (MIN_ROUNDS * len(plan.arms))))


def _measure(plan: LoadPlan, driver: Driver, requests: list[Iterator[bytes]], tell: Callable[[Line], None]) -> None:
    order = list(range(len(plan.arms)))
    shuffle = random.Random(plan.seed).shuffle  # noqa: S311 - an order, not a secret
    seconds = slice_length(plan)
    begun = time.perf_counter()
    number = 0
    gc.freeze()
    gc.disable()
    while True:
        spent = time.perf_counter() - begun
        if spent >= plan.seconds and (number >= LEAST_ROUNDS or spent >= 4 * plan.seconds):
            return
        shuffle(order)
        for arm in order:
            tell(Line(slice=_slice(number, arm, driver.run(requests[arm], seconds))))
        number += 1


def _slice(number: int, arm: int, turn: Turn) -> Slice:
    return Slice(
        round=number,
        arm=arm,
        at=time.time(),
        seconds=turn.seconds,
        requests=turn.requests,
        errors=turn.errors,
        bins=binned(turn.latencies),
        error=turn.error,
    )


def _check(label: str, turn: Turn) -> None:
    if not turn.latencies:
        raise Unavailable(
            f"{label} gave no good answer while it was warmed up.",
            f"The first of {turn.errors} failures: {turn.error}.",
            "Try the request by hand (y in the Serve screen copies it), and look at the server's log.",
        )


def _tell(line: Line) -> None:
    sys.stdout.buffer.write(codec.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    """The process. 0 when it measured to the end; a StudioError's exit code after a Line with its problem."""
    try:
        run(codec.decode(sys.stdin.buffer.read(), LoadPlan, "load plan"), _tell)
    except StudioError as error:
        _tell(Line(problem=error.problem))
        return error.exit_code
    except BrokenPipeError:
        return 0  # nobody listens any more
    return 0


if __name__ == "__main__":
    sys.exit(main())
