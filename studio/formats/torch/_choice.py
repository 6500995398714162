"""From a PyTorch model to the better graph of its two exporters. Imports torch."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from studio.core.errors import Refused, StudioError
from studio.core.tensors import Dim
from studio.formats.base import Case, Converted, Feed, Kit, answered
from studio.formats.torch._exported import agree, declare, leave_out_traces, write_model
from studio.formats.torch._exporters import FusedKernels, Made, capture, trace
from studio.formats.torch._model import Flat, Free, TorchModel
from studio.formats.torch._sizes import other_sizes
from studio.formats.torch.common import tools

_CLEAR = 1.1  # times this near each other are the same, on a machine that does other things as well
_ROUNDS, _SECONDS = 12, 1.0
_FIXED = "It warned that forward() decides something by values: that stays decided as it was for the example inputs."
_LARGEST_STUDY = 500_000_000  # bytes of a graph beyond which its attention is not looked at


@dataclass(frozen=True)
class Candidate:
    """A graph that answers as its source, in a folder of its own."""

    made: Made
    path: Path


@dataclass(frozen=True)
class Origin:
    """`sources`: files that were read. `sampled`: the user gave sample inputs. `told`: the user said what is free."""

    sources: tuple[Path, ...]
    sampled: bool
    told: bool


def convert(model: TorchModel, out_dir: Path, kit: Kit, origin: Origin, *more_tools: str) -> Converted:
    """The graph of the exporter that does better, checked on other batches and lengths than it was made with.

    Sizes that were only found to be free are given up where no graph keeps them. Raises Refused when neither exporter
    gives a graph that answers as the model does, StepFailed when the model itself does not run.
    """
    whole = model.free
    batch = tuple({axis: name for axis, name in one.items() if name == "batch"} for one in whole)
    nothing: Free = tuple({} for _ in whole)
    for free in dict.fromkeys(map(_hashable, (whole,) if origin.told else (whole, batch, nothing))):
        model.free = tuple(dict(one) for one in free)
        try:
            converted = _convert(model, out_dir, kit, origin, more_tools)
        except Refused as error:
            failure = error
            continue
        if model.free == whole:
            return converted
        kept = "Only its batch is free" if any(model.free) else "All of its sizes are fixed"
        return replace(converted, notes=(*converted.notes, f"{kept}: with more freedom, {_lower(failure.what)}"))
    raise failure


def _hashable(free: Free) -> tuple[tuple[tuple[int, str], ...], ...]:
    return tuple(tuple(one.items()) for one in free)


def _lower(text: str) -> str:
    return text if text.startswith("PyTorch") else text[:1].lower() + text[1:]


def _convert(model: TorchModel, out_dir: Path, kit: Kit, origin: Origin, more_tools: Sequence[str]) -> Converted:
    kit.report(0.4, "running the original")
    cases = _cases(model, kit)
    others = answered(model.run, tuple(model.feed(model.resized(sizes)) for sizes in other_sizes(model)))
    made, notes = _best(model, out_dir, kit, (*cases, *others))
    inputs = {spec.name: spec.shape for spec in model.signature().inputs}
    declare(made.model, inputs, output_shapes(model, (*cases, *others)))
    leave_out_traces(made.model)
    graph, weights = write_model(made.model, out_dir)
    return Converted(
        graph=graph,
        weights=weights,
        cases=cases if origin.sampled else (*cases, *others),
        sources=origin.sources,
        notes=notes,
        tools=tools(*more_tools),
    )


def _cases(model: TorchModel, kit: Kit) -> tuple[Case, ...]:
    failure: StudioError | None = None
    for runs in kit.runs(model.signature(), model.ranges()):
        try:
            return answered(model.run, runs)
        except StudioError as error:
            failure = failure or error
    raise failure or Refused("There are no inputs to run the model on.")


def _best(model: TorchModel, out_dir: Path, kit: Kit, cases: tuple[Case, ...]) -> tuple[Made, tuple[str, ...]]:
    """Tracing is tried first, because it takes a tenth of the time; capturing when there is something to gain.

    That is when tracing failed, or took decisions of the user's code for constants, or where there are layers of
    nn.MultiheadAttention: of 15 networks, the graphs of both ran equally fast (within 10 %) wherever both answered
    right, but for those, where capturing was ahead by up to a sixth.
    """
    kit.report(0.5, "converting to ONNX")
    older = _tried(trace, model, out_dir / "older", kit, cases)
    if isinstance(older, FusedKernels):
        raise older
    if isinstance(older, Candidate) and not older.made.fixed and not _has_attention_layers(model):
        shutil.rmtree(out_dir / "older")
        return older.made, ()
    kit.report(0.6, "converting to ONNX with the newer exporter")
    newer = _tried(capture, model, out_dir / "newer", kit, cases)
    try:
        if isinstance(older, Candidate) and isinstance(newer, Candidate):
            return _better(older, newer, cases)
        if isinstance(newer, Candidate):
            return newer.made, (f"PyTorch's newer exporter was used: the older one {_why(older)}",)
        if isinstance(older, Candidate):
            fixed = f" {_FIXED}" if older.made.fixed else ""
            return older.made, (f"PyTorch's older exporter was used: the newer one {_why(newer)}{fixed}",)
    finally:
        for name in ("older", "newer"):
            shutil.rmtree(out_dir / name, ignore_errors=True)
    raise Refused(
        f"{older.what} {newer.what}" if older.what != newer.what else older.what,
        f"{older.why} {newer.why}" if older.why != newer.why else older.why,
        older.fix or newer.fix,
    ) from newer


def _has_attention_layers(model: TorchModel) -> bool:
    return isinstance(model.flat, Flat) and any(
        isinstance(part, torch.nn.MultiheadAttention) for part in model.flat.modules()
    )


def _tried(
    export: Callable[[TorchModel], Made], model: TorchModel, folder: Path, kit: Kit, cases: tuple[Case, ...]
) -> Candidate | StudioError:
    """A graph that loads, runs on all cases and answers right, or why not."""
    try:
        made = export(model)
        folder.mkdir()
        path, _ = write_model(made.model, folder)
        outputs = kit.run(path, tuple(case.inputs for case in cases))
    except StudioError as error:
        return error
    if not agree(cases, outputs):
        return Refused(
            f"The graph of PyTorch's {made.exporter} exporter does not answer as the model does.",
            "It strays on other batch sizes or lengths than it was converted with.",
            "Drop typical inputs with it (.npz of the same stem), or sizes for its inputs (.toml of the same stem).",
        )
    return Candidate(made, path)


def _why(failure: Candidate | StudioError) -> str:
    """Completes "the older one …"."""
    if isinstance(failure, Candidate):
        return "was not needed."
    if failure.what.startswith("The graph of"):
        return "gave a graph that does not answer as the model does on other batch sizes or lengths."
    return f"failed ({failure.why.rstrip('.')})." if failure.why else "failed."


def _better(older: Candidate, newer: Candidate, cases: tuple[Case, ...]) -> tuple[Made, tuple[str, ...]]:
    """Of two right graphs the one that runs clearly faster; else the one that more can be fused in; else the smaller.

    That both are right also says that the decisions which tracing fixed do not depend on values: capturing would have
    failed at such a one.
    """
    times = _times(older.path, newer.path, max(cases, key=_elements).inputs)
    figures = f"{times[0] * 1e3:.3g} ms a run against {times[1] * 1e3:.3g} ms"
    fused = [_fused_attention(older.path), _fused_attention(newer.path)]
    attention = ""
    if any(total for _, total in fused):
        counts = " and ".join(f"{done} of {total}" for done, total in fused)
        attention = f" ONNX Runtime's transformer optimizer can fuse {counts} attention layers of them."
    if max(times) > _CLEAR * min(times):
        first = times[0] < times[1]
        reason = "its graph is faster"
    elif fused[0][0] != fused[1][0]:
        first = fused[0][0] > fused[1][0]
        reason = "its graph is as fast, and more attention layers of it can be fused"
    else:
        nodes = [_optimised_nodes(one.path) for one in (older, newer)]
        first = nodes[0] <= nodes[1]
        reason = f"its graph is as fast, and not larger ({min(nodes)} nodes once optimized, against {max(nodes)})"
    word = "older" if first else "newer"
    note = f"Both of PyTorch's exporters were tried. The {word} one was taken: {reason}. Older and newer: {figures}."
    return (older if first else newer).made, (note + attention,)


def _elements(case: Case) -> int:
    return sum(array.size for array in case.inputs.values())


def _times(older: Path, newer: Path, feed: Feed) -> tuple[float, float]:
    """Seconds of the fastest run of each, taken in turns."""
    sessions = [_session(path) for path in (older, newer)]
    best = [float("inf"), float("inf")]
    end = time.monotonic() + _SECONDS
    for turn in range(_ROUNDS):
        for place, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(None, feed)
            if turn:  # the first one also allocates
                best[place] = min(best[place], time.perf_counter() - start)
        if turn and time.monotonic() > end:
            break
    return best[0], best[1]


def _session(path: Path, optimised: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _optimised_nodes(path: Path) -> int:
    """Operators that are left of a graph once ONNX Runtime has optimised it."""
    import onnx

    optimised = path.with_name("optimised.onnx")
    _session(path, optimised)
    count = len(onnx.load(optimised, load_external_data=False).graph.node)
    optimised.unlink()
    return count


def _fused_attention(path: Path) -> tuple[int, int]:
    """Attention layers that ONNX Runtime's optimizer for transformers can make one operator of, and all of them."""
    import onnx

    if path.stat().st_size > _LARGEST_STUDY:
        return 0, 0
    total = sum(node.op_type == "Softmax" for node in onnx.load(path, load_external_data=False).graph.node)
    if not total:
        return 0, 0
    from onnxruntime.transformers import optimizer

    logging.getLogger("onnxruntime.transformers").setLevel(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            fused = optimizer.optimize_model(str(path), model_type="bert", num_heads=0, hidden_size=0, opt_level=0)
            counts = fused.get_fused_operator_statistics()
        except Exception:  # it is made for the transformers that its authors knew
            return 0, total
    return int(counts.get("Attention", 0)) + int(counts.get("MultiHeadAttention", 0)), total


def output_shapes(model: TorchModel, cases: tuple[Case, ...]) -> dict[str, tuple[Dim, ...]]:
    """Sizes of the outputs as they were seen: a number, the free size that they always equal, or not known."""
    found: dict[str, tuple[Dim, ...]] = {}
    runs = [(_sizes_of(model, case.inputs), case.outputs) for case in cases]
    for name in model.outputs:
        shapes = [np.shape(outputs[name]) for _, outputs in runs]
        if len({len(shape) for shape in shapes}) == 1:
            found[name] = tuple(
                _size([shape[axis] for shape in shapes], [sizes for sizes, _ in runs]) for axis in range(len(shapes[0]))
            )
    return found


def _size(seen: list[int], sizes: list[dict[str, int]]) -> Dim:
    for name in sizes[0]:
        if all(one == size.get(name) for one, size in zip(seen, sizes, strict=True)) and len(set(seen)) > 1:
            return name
    return seen[0] if len(set(seen)) == 1 and len(seen) > 1 else "?"


def _sizes_of(model: TorchModel, feed: Feed) -> dict[str, int]:
    return {
        name: int(feed[of].shape[axis])
        for of, free in zip(model.names, model.free, strict=True)
        for axis, name in free.items()
    }
