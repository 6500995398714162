"""A handler for TorchServe: a module with the one function that it calls, on ONNX Runtime."""

from __future__ import annotations

from typing import Any

from onnx_model import run_many, session

_model: Any = None


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[dict[str, Any]] | None:
    global _model
    if _model is None:
        _model = session()
    return run_many(_model, [row["body"] for row in data]) if data else None
