"""Choosing how a Keras model becomes ONNX: which sizes stay free, and which exporter of PyTorch is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, NeedsSettings, Refused, StudioError
from studio.core.tensors import DATATYPES, TensorSpec
from studio.formats.base import Case, Kit, answered


@dataclass(frozen=True)
class Attempt:
    graph: Path
    weights: tuple[Path, ...]
    cases: tuple[Case, ...]
    agrees: bool


Shapes = list[tuple[int | None, ...]]


def best(program: Any, path: Path, out_dir: Path, kit: Kit) -> tuple[Attempt, tuple[str, ...]]:
    """The first conversion that answers as Keras does: free sizes before fixed ones, and the quick exporter first.

    Where none does, the last that could be run: the parity gate then tells its figures. Raises what the first exporter
    said where none gave a graph, NeedsSettings where sizes have to be fixed and nobody said to what.
    """
    declared: Shapes = [one.shape for one in program.inputs]
    given = [_given(one, kit) for one in program.inputs]
    ran: tuple[Shapes, bool] | None = None
    failure: StudioError | None = None
    for shapes, note in _ways(declared, given):
        for dynamo in _exporters(program, shapes):
            kit.report(0.6, "converting to ONNX" + (" with the newer exporter" if dynamo else ""))
            try:
                attempt = _attempt(program, shapes, dynamo, out_dir, kit)
            except _Disagrees:
                ran = (shapes, dynamo)
                continue
            except StudioError as error:
                failure = failure or error
                continue
            if attempt.agrees:
                return attempt, note
            ran = (shapes, dynamo)
    free = tuple(one.name for one, shape in zip(program.inputs, given, strict=True) if None in shape[1:])
    if ran is not None and free:
        raise _needs_sizes(path, program, free)
    if ran is not None:
        return _attempt(program, *ran, out_dir, kit), ()
    raise failure or Refused("There are no inputs to run the model on.")


def _exporters(program: Any, shapes: Shapes) -> tuple[bool, ...]:
    """Which exporters to try, False for the older one. One that can not work takes as long to say so."""
    if program.large:
        return (True,)
    return (False,) if program.steps and any(None in shape[1:] for shape in shapes) else (False, True)


class _Disagrees(Exception):
    """The graph failed where the original did not."""


def _attempt(program: Any, shapes: Shapes, dynamo: bool, out_dir: Path, kit: Kit) -> Attempt:
    from studio.formats.torch._exported import agree, write_model

    graph, weights = write_model(program.to_onnx(shapes, dynamo, out_dir), out_dir)
    signature = kit.signature(graph)
    kit.report(0.8, "running the original")
    failure: StudioError | None = None
    for runs in kit.runs(signature, program.ranges()):
        try:
            cases = answered(program.run, runs)
        except StudioError as error:
            failure = error
            continue
        try:
            answers = kit.run(graph, tuple(case.inputs for case in cases))
        except StudioError as error:
            raise _Disagrees from error
        return Attempt(graph, weights, cases, agree(cases, answers))
    raise failure or Refused("There are no inputs to run the model on.")


def _given(one: Any, kit: Kit) -> tuple[int | None, ...]:
    """The input's shape with what the user's settings say of its free sizes. Raises InvalidInput."""
    said = kit.settings.inputs.get(one.name)
    if said is None or said.shape is None:
        return tuple(one.shape)
    if len(said.shape) != len(one.shape):
        raise InvalidInput(
            f"{kit.settings.place('inputs', one.name)}: '{one.name}' has {len(said.shape)} sizes.",
            f"The model takes {len(one.shape)}: {[size or 'free' for size in one.shape]}.",
        )
    return tuple(
        size if size is not None or isinstance(told, str) else told
        for size, told in zip(one.shape, said.shape, strict=True)
    )


def _ways(declared: Shapes, given: Shapes) -> list[tuple[Shapes, tuple[str, ...]]]:
    """Shapes to try, freest first, each with what is to be told where it is the one."""
    ways: list[tuple[Shapes, tuple[str, ...]]] = []
    rows = {shape[:1] for shape in declared}
    fixed = next(iter(rows)) if len(rows) == 1 else ()
    if fixed and fixed[0] is not None:
        # Keras takes the first batch that a sequential model saw for its only size, which nobody meant.
        note = f"It was saved for exactly {fixed[0]} rows at a time. The batch was made free, and others were compared."
        ways.append(([(None, *shape[1:]) for shape in declared], (note,)))
    ways.append((declared, ()))
    if given != declared:
        ways.append((given, ("It takes the sizes in its settings alone: no graph for any size answered the same.",)))
    single: Shapes = [(1, *shape[1:]) if shape[:1] == (None,) else shape for shape in given]
    if single != given and not any(None in shape[1:] for shape in given):
        ways.append(
            (single, ("It takes exactly one row at a time: no graph for any number of rows answered the same.",))
        )
    return ways


def _needs_sizes(path: Path, program: Any, free: tuple[str, ...]) -> NeedsSettings:
    one = next(one for one in program.inputs if one.name in free)
    example = ", ".join('"batch"' if place == 0 else str(size or 20) for place, size in enumerate(one.shape))
    return NeedsSettings(
        f"The model '{path.stem}' takes inputs of any size, and can only be converted for one.",
        free,
        "Its layers repeat themselves for every step of the input: masked recurrent layers, for example.",
        f"Write {path.stem}.toml beside it: [inputs.{one.name}] and below it shape = [{example}].",
        tuple(
            TensorSpec(
                one.name,
                next((kind for kind, (dtype, _) in DATATYPES.items() if dtype == one.dtype), ""),
                tuple("batch" if place == 0 else size or "?" for place, size in enumerate(one.shape)),
            )
            for one in program.inputs
            if one.name in free
        ),
    )
