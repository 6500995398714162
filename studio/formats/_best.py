"""Choosing among conversions of one source by what they answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import Refused, StudioError
from studio.formats.base import Case, Feed, Kit, answered
from studio.formats.torch._exported import agree, write_model

Run = Callable[[Feed], Feed]


@dataclass(frozen=True)
class Best:
    """The conversion that was chosen, and which one of those offered it is."""

    graph: Path
    weights: tuple[Path, ...]
    cases: tuple[Case, ...]
    chosen: int


def best(
    offers: Sequence[Callable[[], Any]],
    run: Run,
    out_dir: Path,
    kit: Kit,
    accept: Callable[[Sequence[Case], Sequence[Feed]], bool] = agree,
) -> Best:
    """The first that answers as the source does. `offers` give an onnx.ModelProto each, likeliest first.

    Where none does, the last that could be run: the parity gate then tells its figures. Raises what the first one
    raised where none could be.
    """
    ran: int | None = None
    failure: StudioError | None = None
    for place, offer in enumerate(offers):
        try:
            made = _made(offer, place, run, out_dir, kit)
            if accept(made.cases, kit.run(made.graph, tuple(case.inputs for case in made.cases))):
                return made
            ran = place
        except StudioError as error:
            failure = failure or error
    if ran is not None:
        return _made(offers[ran], ran, run, out_dir, kit)
    raise failure or Refused("There are no inputs to run the model on.")


def _made(offer: Callable[[], Any], place: int, run: Run, out_dir: Path, kit: Kit) -> Best:
    kit.report(0.5, "converting to ONNX")
    graph, weights = write_model(offer(), out_dir)
    signature = kit.signature(graph)
    kit.report(0.8, "running the original")
    failure: StudioError | None = None
    for runs in kit.runs(signature):
        try:
            return Best(graph, weights, answered(run, runs), place)
        except StudioError as error:
            failure = error
    raise failure or Refused("There are no inputs to run the model on.")
