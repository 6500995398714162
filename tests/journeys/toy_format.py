"""A format of a third party that asks its user things, installed beside Studio for the journeys of waiting jobs.

A file of words: `toy`, then any of `code` (loading it would run code), `shapes` (it does not tell what its input is)
and `shelf` (it can only be served).
Converting takes no framework and a few milliseconds, so that many questions can be asked in a test.
"""

from __future__ import annotations

from pathlib import Path

from studio.core.errors import NeedsSettings
from studio.core.tensors import TensorSpec
from studio.formats.base import ArrivalFiles, Case, Converted, Kit, Recognition
from studio.formats.pickles.screen import code_file

IMPORTS = ("toy.layers.Dense", "posix.\x1b[2Ksystem")


class ToyFormat:
    name = "toy"
    title = "Toy"
    extra = None

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [file for file in files.content if file.read_bytes()[:4] == b"toy "]
        return Recognition(model=found[0], detail="a toy") if found else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        from onnx import TensorProto, helper

        words = recognition.model.read_text().split()
        kit.report(0.5, "looking into the toy")
        if "code" in words:
            asked = [file for file in files.content if "code" in file.read_text().split()]
            kit.trust(tuple(code_file(file, IMPORTS) for file in asked), "A toy builds its layers by calling them.")
        said = kit.settings.inputs.get("x")
        if "shapes" in words and (said is None or said.shape is None):
            hints = (TensorSpec("x", "FP32", ("batch", "?")),)
            raise NeedsSettings("The toy does not say what it takes.", ("x",), "It has no shapes.", "Say it.", hints)
        shape = list(said.shape) if said and said.shape else ["batch", 4]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "toy", ends[:1], ends[1:])
        path = out_dir / "model.onnx"
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        path.write_bytes(model.SerializeToString())
        runs = next(iter(kit.runs(kit.signature(path))))
        return Converted(
            graph=path,
            cases=tuple(Case(inputs=feed, outputs={"y": -feed["x"]}) for feed in runs),
            sources=files.content,
            serve_only="A toy stays as it is." if "shelf" in words else "",
        )


FORMAT = ToyFormat()


def install(folder: Path) -> Path:
    """Put the format, and the entry point that names it, into a folder for PYTHONPATH; the folder."""
    info = folder / "toy-1.dist-info"
    info.mkdir(parents=True)
    (folder / "toy_format.py").write_bytes(Path(__file__).read_bytes())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[studio.formats]\ntoy = toy_format:FORMAT\n")
    return folder
