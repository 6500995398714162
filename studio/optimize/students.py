"""What the recipes that train a smaller torch module share: when there is something to train, and the way from the
version's module over pruning and training to a graph.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from studio.core.errors import NeedsExtra, Refused
from studio.optimize import graphs
from studio.optimize.base import MORE_SAMPLES, Given, Option, Work

if TYPE_CHECKING:
    from studio.optimize._torch_prune import Pruned
    from studio.optimize._torch_train import Trained

FEWEST_ROWS = 64
"""Fewer rows teach nothing that holds for others."""
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TOOLS = ("torch", "torch-pruning", "onnxscript")


_IMPORTANCE = Option(
    name="importance",
    default="l2",
    choices=("l1", "l2", "taylor"),
    help="which channels matter least: of small weights (l1, l2), or such as the loss would miss least (taylor)",
)


def options(amount: float, epochs: int, rate: float, labels: float) -> tuple[Option, ...]:
    """What both recipes let be set, with the defaults of one."""
    return (
        Option(name="amount", default=amount, low=0.05, high=0.9, help="share of each layer's channels to take out"),
        _IMPORTANCE,
        Option(name="epochs", default=epochs, low=1, high=10_000, help="how often all rows are trained on, at most"),
        Option(name="rate", default=rate, low=1e-6, high=1.0, help="learning rate at the start; it falls to 0"),
        Option(
            name="labels",
            default=labels,
            low=0.0,
            high=1.0,
            help="share of the labels in what is trained towards; the rest is what the original answers",
        ),
        Option(name="seconds", default=600.0, low=1.0, high=86_400.0, help="time budget of the training"),
        Option(name="seed", default=0, low=0, high=2**31 - 1, help="of the order of rows"),
    )


def why_not(model: Any, given: Given, doing: str) -> str:
    """'' or why there is nothing to train. `doing`: 'prune', 'distil'."""
    if not given.module:
        return (
            f"it has no torch module to {doing}: only a version that came as a PyTorch model has one, "
            "and in a plan only the first step is given it"
        )
    if importlib.util.find_spec("torch_pruning") is None:
        return "torch-pruning is not installed (pip install 'ort-studio[torch]')"
    if given.kind == "synthetic":
        return f"a smaller network has to be trained again, and made-up inputs teach nothing. {MORE_SAMPLES}"
    if given.rows < FEWEST_ROWS:
        return f"it has {given.rows} rows of samples to train with, and needs {FEWEST_ROWS}. {MORE_SAMPLES}"
    layers = sum(node.op_type in _LAYERS for node in graphs.all_nodes(model.graph))
    if layers < 2:
        return "the channels of its only layer are its outputs" if layers else "it has no layers with channels"
    constants = {tensor.name for tensor in model.graph.initializer}
    for entry in model.graph.input:
        dims = entry.type.tensor_type.shape.dim
        if entry.name not in constants and dims and dims[0].dim_value:
            return f"it takes exactly {dims[0].dim_value} rows at a time, and training needs batches of any size"
    return ""


def make(work: Work, temperature: float) -> dict[str, str]:
    """Prune the version's module, train it as the options say, and write it. Returns what was done.

    `temperature` softens the scores that are compared. Raises Refused where nothing can be taken out, or where training
    brought nothing.
    """
    assert work.module is not None
    report = work.report
    report(0.0, "loading PyTorch and the module")
    try:
        import torch

        from studio.optimize._torch_prune import prune
        from studio.optimize._torch_train import Lesson, Rows, loss_of, train
    except ImportError as error:
        raise NeedsExtra("Training needs PyTorch.", "torch") from error

    lesson = Lesson(
        epochs=int(work.number("epochs")),
        rate=work.number("rate"),
        labels=work.number("labels"),
        temperature=temperature,
        seconds=work.number("seconds"),
        seed=int(work.number("seed")),
    )
    torch.manual_seed(lesson.seed)
    torch.set_num_threads(max(1, work.threads))
    original = work.module.load()
    report(0.05, "running the original on the rows set apart")
    rows = Rows(original, _inputs(work), work.evidence, lesson.seed)
    example = rows.take(rows.taught[:2])
    report(0.1, "looking for the channels that matter least")
    pruned = prune(
        original,
        example,
        work.number("amount"),
        work.text("importance"),
        lambda module: loss_of(module, rows, rows.taught[:256], lesson),
    )
    trained = train(pruned.module, rows, lesson, lambda share, text: report(0.1 + 0.8 * share, text))
    if not trained.epoch:
        raise Refused(
            "Training the smaller network brought nothing.",
            f"On the rows held out its loss was {trained.first:.3g} before, and never less in {trained.epochs} epochs.",
            "Try a smaller rate, take out fewer channels, or drop more samples.",
        )
    report(0.92, "writing the graph")
    work.module.export(pruned.module, work.out)
    graphs.check_loads(work.out, work.src)
    report(1.0, "done")
    return _told(pruned, trained, rows, lesson.labels)


def _inputs(work: Work) -> tuple[str, ...]:
    """The names of the graph's inputs, in order."""
    model = graphs.load(work.src)
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(entry.name for entry in model.graph.input if entry.name not in constants)


def _told(pruned: Pruned, trained: Trained, rows: Any, labels: float) -> dict[str, str]:
    towards = "the original's answers"
    if rows.labels is not None and labels > 0:
        towards = f"labels and {towards}" if labels < 1 else "labels"
    return {
        "channels": _change(pruned.channels),
        "layers pruned": f"{pruned.layers} of {pruned.layers + pruned.left}",
        "multiply-adds a row": _change(pruned.macs),
        "weights": _change(pruned.parameters),
        "rows": f"{len(rows.taught)} trained on, {len(rows.held_out)} held out to see when to stop",
        "towards": towards,
        "epochs done": f"{trained.epochs}, the weights of epoch {trained.epoch} kept ({trained.why})",
        "loss on the rows held out": f"{trained.first:.4g} → {trained.best:.4g}",
        "training took": f"{trained.seconds:.1f} s",
    }


def _change(pair: tuple[int, int]) -> str:
    before, after = pair
    return f"{before:,} → {after:,} (−{1 - after / max(1, before):.0%})"
