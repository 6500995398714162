"""PaddlePaddle inference models, `.json` or `.pdmodel` with `.pdiparams`, converted in an environment of their own.

Layout: PIR programs are JSON that begins with `{"base_code":{"magic":"pir"`; older ones are the ProgramDesc of
paddle/fluid/framework/framework.proto. Neither `.pdiparams` holds a pickle.
"""

from __future__ import annotations

import importlib.metadata
import re
from functools import partial
from pathlib import Path

from studio.core.errors import InvalidInput, NeedsEnvironment, StepFailed, StudioError
from studio.formats.base import ArrivalFiles, Converted, Kit, Recognition
from studio.formats.pickles.screen import code_file
from studio.formats.sniff import Broken, Field, fields, head

ENVIRONMENT = "paddle"
_PIR = re.compile(rb'\{\s*"base_code"\s*:\s*\{\s*"magic"\s*:\s*"pir"')
# The first block of a program: number 0, and no parent (-1 as a varint).
_PROGRAM = re.compile(rb"\x0a[\x80-\xff]*[\x00-\x7f]\x08\x00\x10\xff{9}\x01", re.DOTALL)
_PIR_OPERATION = re.compile(rb'"#"\s*:\s*"\d+\.([A-Za-z0-9_]+)"')
_PIR_WEIGHT = re.compile(rb'"#"\s*:\s*"p"')
_REACHING = frozenset(
    {
        *("py_func", "pylayer", "read_file", "save", "load", "save_combine", "load_combine", "print", "run_program"),
        *("send", "recv", "recv_save", "listen_and_serv", "fetch_barrier", "distributed_lookup_table", "custom_op"),
    }
)
_LARGEST_PROGRAM = 512 * 1024 * 1024
_DISTRIBUTIONS = ("paddlepaddle", "paddle2onnx", "onnx")


class PaddleFormat:
    """Recognised by the beginning of the program, whatever it is called."""

    name = "paddle"
    title = "PaddlePaddle (.json or .pdmodel, with .pdiparams)"
    extra: str | None = None

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [file for file in files.content if (start := head(file, 64)) and (_PIR.match(start) or _old(start))]
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:5])
            raise InvalidInput(
                f"There are {len(found)} PaddlePaddle models in this arrival: {names}.",
                "An arrival becomes one version of one model.",
                "Drop each of them alone.",
            )
        if found:
            return Recognition(model=found[0], detail="PaddlePaddle program")
        weights = [file for file in files.content if file.suffix == ".pdiparams" and head(file, 16) == bytes(16)]
        if weights and len(files.content) == 1:
            raise InvalidInput(
                f"'{weights[0].name}' holds the weights of a PaddlePaddle model alone.",
                "What to do with them is in a .json or .pdmodel file of the same name.",
                "Drop both files, or their folder.",
            )
        return None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.0, "looking for operations that reach outside")
        found = tuple(sorted(operations(path) & _REACHING))
        if found:
            why = f"It has operations that read, write or run something outside of it: {', '.join(found)}."
            kit.trust((code_file(path, found),), why)
        weights = _weights(path, files)
        kit.report(0.1, "loading PaddlePaddle")
        try:
            from studio.formats.paddle._program import PaddleProgram
        except ModuleNotFoundError as error:
            raise NeedsEnvironment(f"'{path.name}' is a PaddlePaddle model.", ENVIRONMENT) from error
        except (ImportError, OSError) as error:
            raise StepFailed(
                "PaddlePaddle is installed, but can not be loaded.",
                f"{error}.",
                f"Make its environment again: studio environments remove {ENVIRONMENT}, then retry.",
            ) from error
        from studio.formats._best import best

        kit.report(0.3, "loading the model")
        try:
            program = PaddleProgram.load(path, weights, kit.threads)
        except (StudioError, MemoryError):
            raise
        except Exception as error:  # Paddle raises anything on what it can not read
            raise InvalidInput(
                f"PaddlePaddle can not load '{path.name}'.",
                f"{(str(error).strip() or type(error).__name__).splitlines()[-1][:400]}.",
                "Save it again with paddle.jit.save, best with PaddlePaddle 3.",
            ) from error
        made = best([partial(program.to_onnx, opset) for opset in (17, 15, 13)], program.run, out_dir, kit)
        return Converted(
            graph=made.graph,
            weights=made.weights,
            cases=made.cases,
            sources=(path, *([weights] if weights else [])),
            tools={name: importlib.metadata.version(name) for name in _DISTRIBUTIONS},
        )


def operations(path: Path) -> set[str]:
    """The names of all operations of a program. Raises InvalidInput when it is damaged."""
    if path.stat().st_size > _LARGEST_PROGRAM:
        raise InvalidInput(f"'{path.name}' is larger than 512 MB.", "A program has no weights in it.", "Save it again.")
    if not _old(head(path, 64)):
        return {name.decode() for name in _PIR_OPERATION.findall(path.read_bytes())}
    found: set[str] = set()
    try:
        with path.open("rb") as file:
            whole = Field(0, 2, 0, 0, file.seek(0, 2))
            for block in (part for part in fields(file, 0, whole.length) if part.number == 1 and part.wire == 2):
                for part in fields(file, block.start, block.start + block.length):
                    if part.number == 4 and part.wire == 2:
                        for one in fields(file, part.start, part.start + part.length):
                            if one.number == 3 and one.wire == 2:
                                file.seek(one.start)
                                found.add(file.read(min(one.length, 200)).decode("utf-8", "replace"))
    except Broken as error:
        raise InvalidInput(
            f"'{path.name}' is damaged or truncated.", "Its parts do not fit together.", "Copy it again."
        ) from error
    return found


def _old(start: bytes) -> bool:
    return _PROGRAM.match(start) is not None


def _weights(path: Path, files: ArrivalFiles) -> Path | None:
    """The file with the numbers: of the same name, or the only one of its kind. None for a model without any."""
    found = [file for file in files.content if file.suffix == ".pdiparams" and file.parent == path.parent]
    same = [file for file in found if file.stem == path.stem]
    if len(same or found) > 1:
        raise InvalidInput(
            f"It is not clear which weights belong to '{path.name}'.",
            f"There are {', '.join(file.name for file in found)}.",
            f"Call them {path.stem}.pdiparams.",
        )
    if not found and (_old(head(path, 64)) or _PIR_WEIGHT.search(path.read_bytes())):
        raise InvalidInput(
            f"The weights of '{path.name}' are missing.",
            "A PaddlePaddle model is two files.",
            f"Drop {path.stem}.pdiparams together with it, or their folder.",
        )
    return (same or found)[0] if found else None


FORMAT = PaddleFormat()
