"""What a graph in ONNX Runtime's own format (.ort) is made of: the facts that a manifest keeps of it."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from studio.core.manifest import FileRef, Graph

_DEFAULT_DOMAINS = ("", "ai.onnx")
_MOST = 1_000_000
_PACKAGE = "ort_flatbuffers_py"


def describe_ort(path: Path, file: FileRef) -> Graph:
    """The manifest's graph for an `.ort` file stored as `file`; without operators where they can not be read.

    Reads the FlatBuffers of ONNX Runtime's schema (core/flatbuffers/schema/ort.fbs) with the readers that come with
    the runtime. Bodies of branches and loops are not counted. To be called after the runtime has loaded the file, which
    checks its offsets.
    """
    try:
        model = _readers().InferenceSession.GetRootAsInferenceSession(path.read_bytes(), 0).Model()
        graph = model.Graph()
        nodes = [graph.Nodes(place) for place in range(min(graph.NodesLength(), _MOST))]
        weights = [graph.Initializers(place) for place in range(min(graph.InitializersLength(), _MOST))]
        imports = [model.OpsetImport(place) for place in range(min(model.OpsetImportLength(), 100))]
        return Graph(
            file=file,
            opset=max((int(one.Version()) for one in imports if _text(one.Domain()) in _DEFAULT_DOMAINS), default=0),
            ir_version=int(model.IrVersion()),
            parameters=sum(prod(int(one.Dims(at)) for at in range(min(one.DimsLength(), 64))) for one in weights),
            operators=dict(Counter(_name(node) for node in nodes).most_common()),
        )
    except Exception:  # another layout of the runtime's package, or of the file: facts are no reason to fail
        return Graph(file=file)


def _readers() -> Any:
    """The runtime's readers as a package of their own: importing them by way of onnxruntime.tools imports PyTorch."""
    if _PACKAGE not in sys.modules:
        import onnxruntime

        folder = Path(onnxruntime.__file__).parent / "tools" / "ort_format_model" / _PACKAGE
        spec = importlib.util.spec_from_file_location(
            _PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(_PACKAGE)
        sys.modules[_PACKAGE] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(f"{_PACKAGE}.fbs.InferenceSession")


def _name(node: Any) -> str:
    domain, name = _text(node.Domain()), _text(node.OpType())
    return name if domain in _DEFAULT_DOMAINS else f"{domain}.{name}"


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
