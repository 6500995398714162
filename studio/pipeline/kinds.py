"""What workers import before their task arrives, and which frameworks are worth keeping warm for the next one."""

from __future__ import annotations

import importlib
import logging

_BASE = ("studio.pipeline.intake", "studio.pipeline.lab", "onnx")
_TORCH = ("torch", "torch.export", "torch.onnx", "onnxscript")

# By name: "onnx" for what needs no framework, else the extra that a format names as its own.
_MODULES: dict[str, tuple[str, ...]] = {
    "onnx": _BASE,
    "lab": _BASE,
    "torch": (*_BASE, *_TORCH),
    "keras": (*_BASE, "keras", *_TORCH),
    "sklearn": (*_BASE, "skl2onnx", "studio.formats._sklearn_convert", "studio.formats._skops"),
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


def warm_up() -> None:
    """What the first session, the first comparison and the first listing of packages cost, paid while waiting."""
    from studio.formats.registry import formats
    from studio.verify.machine import this_machine, tool_versions
    from studio.verify.session import initialise

    initialise()
    formats()
    this_machine()
    tool_versions()
