"""What workers import before their task arrives, and which frameworks are worth keeping warm for the next one."""

from __future__ import annotations

import importlib
import logging
import warnings
from contextlib import suppress
from pathlib import Path

_BASE = ("studio.pipeline.intake", "studio.pipeline.lab", "onnx")
_TORCH = ("torch", "torch.export", "torch.onnx", "onnxscript")

# By name: "onnx" for what needs no framework, else the extra that a format names as its own.
_MODULES: dict[str, tuple[str, ...]] = {
    "onnx": _BASE,
    "lab": _BASE,
    "torch": (*_BASE, *_TORCH),
    "keras": (*_BASE, "keras", *_TORCH),
    "sklearn": (*_BASE, "skl2onnx", "studio.formats.sklearn._convert", "studio.formats.sklearn._skops"),
    "boosters": (*_BASE, "xgboost", "lightgbm", "onnxmltools"),
    "catboost": (*_BASE, "catboost"),
}
PLAIN = "onnx"
FRAMEWORKS = tuple(name for name in _MODULES if name not in ("onnx", "lab"))

_log = logging.getLogger(__name__)


def server_of(preload: str) -> str:
    """Which fork server a worker comes from: one for all that need no framework."""
    return preload if preload in FRAMEWORKS else PLAIN


def import_all(kind: str) -> None:
    """Import a kind's modules. What is not installed is left out: the format that needs it says so with words."""
    if kind == "keras":
        import os

        os.environ.setdefault("KERAS_BACKEND", "torch")
    for name in _MODULES[kind]:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken framework is told by the task that needs it
            _log.warning("%s could not be imported ahead: %s: %s", name, type(error).__name__, error)


def practise(kind: str, folder: Path) -> None:
    """Take in a small model of our own making, where a framework does much only when it first converts one.

    That is PyTorch alone: its exporters then import 800 modules and build their tables, which takes longer than a small
    conversion. The others convert at once what they convert. May raise anything.
    """
    if kind != "torch":
        return
    import torch

    from studio.pipeline.intake import run_intake
    from studio.pipeline.messages import IntakeTask

    with suppress(ModuleNotFoundError):
        # The exporter's progress bars would start a thread, even while none is shown.
        importlib.import_module("tqdm").tqdm.monitor_interval = 0
    layers = (torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Flatten())
    network = torch.nn.Sequential(*layers, torch.nn.Linear(72, 2)).eval()
    path = folder / "practice.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            network, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
        torch.export.save(program, path)
        run_intake(IntakeTask(files=(str(path),), out=str(folder / "out")), lambda *_: None)


def warm_up() -> None:
    """What the first session, the first comparison and the first listing of packages cost, paid while waiting."""
    from studio.formats.registry import formats
    from studio.verify.machine import this_machine, tool_versions
    from studio.verify.session import initialise

    initialise()
    formats()
    this_machine()
    tool_versions()
