"""What the PyTorch formats share before PyTorch is imported."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from contextlib import contextmanager

from studio.core.errors import InvalidInput, NeedsExtra, StepFailed

OPSET = 20
"""The highest that both of PyTorch's exporters write. Later ones bring nothing that ONNX Runtime runs faster on a CPU,
and the Attention operator of 23 fails there with masks that are broadcast (PyTorch 2.13, ONNX Runtime 1.31)."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

EXPORT_FIX = (
    "Or export it yourself: torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2'); "
    "then drop model.pt2."
)


def import_torch(what: str) -> None:
    """Import PyTorch. Raises NeedsExtra with `what` as its first sentence, StepFailed when it is there and broken."""
    try:
        import onnxscript
        import torch

        del onnxscript, torch
    except ModuleNotFoundError as error:
        raise NeedsExtra(what, "torch") from error
    except (ImportError, OSError) as error:
        raise StepFailed(
            "PyTorch is installed, but can not be loaded.",
            f"{error}.",
            "Reinstall it: pip install 'ort-studio[torch]'.",
        ) from error


def tools(*more: str) -> dict[str, str]:
    """Versions of what converts PyTorch models, by distribution name."""
    return {name: importlib.metadata.version(name) for name in ("torch", "onnxscript", "onnx", *more)}


def said(error: BaseException, length: int = 400) -> str:
    """What an error of PyTorch says, or what lies behind it, on one line that ends with a full stop."""
    while error.__cause__ is not None and type(error).__module__.startswith("torch.onnx"):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = (lines or [type(error).__name__])[0]
    if "TorchScript interpreter" in line:  # then a traceback of the script, and what it ended with
        line = lines[-1].removeprefix("RuntimeError: ")
    text = _COLOURS.sub("", line)[:length]
    return text if text.endswith((".", "!", "?")) else f"{text}."


@contextmanager
def loading(name: str, fix: str) -> Iterator[None]:
    """PyTorch's loaders raise anything on a damaged file: raises InvalidInput saying what, and `fix`."""
    from studio.core.errors import StudioError

    try:
        yield
    except (StudioError, MemoryError):
        raise
    except Exception as error:
        raise InvalidInput(f"PyTorch can not load '{name}'.", f"{type(error).__name__}: {said(error)}", fix) from error
