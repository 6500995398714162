"""A PaddlePaddle inference model: running it on arrays, turning it into ONNX. Imports paddle and paddle2onnx."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
import paddle.inference
import paddle2onnx

from studio.core.errors import Refused, StepFailed
from studio.formats.base import Feed
from studio.formats.torch._exported import BATCH, declare, free_names, leave_out_traces, rename


@dataclass
class PaddleProgram:
    """A loaded predictor, and the pair of files that the converter reads."""

    predictor: Any
    inputs: Sequence[str]
    outputs: Sequence[str]
    files: tuple[str, str]

    @classmethod
    def load(cls, path: Path, weights: Path | None, threads: int) -> PaddleProgram:
        """Load a program that was screened. Raises whatever PaddlePaddle raises."""
        # Both libraries tell the two kinds of programs apart by the suffix, and find the weights beside it.
        folder = Path(tempfile.mkdtemp())
        model = folder / ("model.json" if path.read_bytes()[:1] == b"{" else "model.pdmodel")
        shutil.copyfile(path, model)
        numbers = folder / "model.pdiparams"
        if weights is not None:
            numbers.symlink_to(weights.resolve())
        config = paddle.inference.Config(str(model), str(numbers) if weights else "")
        config.disable_gpu()
        config.disable_glog_info()
        config.switch_ir_optim(False)
        config.set_cpu_math_library_num_threads(threads)
        predictor = paddle.inference.create_predictor(config)
        names = predictor.get_input_names(), predictor.get_output_names()
        return cls(predictor, *names, (str(model), str(numbers) if weights else ""))

    def run(self, feed: Feed) -> Feed:
        """What PaddlePaddle answers, by output name. Raises StepFailed when it does not."""
        try:
            for name in self.inputs:
                self.predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(feed[name]))
            self.predictor.run()
            return {name: self.predictor.get_output_handle(name).copy_to_cpu() for name in self.outputs}
        except Exception as error:
            shapes = ", ".join(f"{name} {list(np.shape(array))}" for name, array in feed.items())
            raise StepFailed(
                f"The original model failed on inputs of shape {shapes}.",
                f"{(str(error).strip() or type(error).__name__).splitlines()[-1][:400]}.",
                "Drop sample inputs with it: an .npz of the same stem with one array per input.",
            ) from error

    def to_onnx(self, opset: int) -> Any:
        """An onnx.ModelProto with readable sizes. Raises Refused where paddle2onnx can not make one."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                data = paddle2onnx.export(
                    *self.files, None, opset_version=opset, enable_onnx_checker=True, optimize_tool="None"
                )
        except MemoryError:
            raise
        except Exception as error:  # it logs why, and then fails on having nothing to give back
            told = [line.strip() for line in said.getvalue().splitlines() if "ailed" in line or "rror" in line]
            why = (told or [str(error).strip() or type(error).__name__])[0]
            raise Refused(
                "paddle2onnx can not convert this model to ONNX.",
                f"{why[:400].rstrip('.')}.",
                "The job's log has its whole report. Leave the operation that it names out of the model.",
            ) from error
        model = onnx.ModelProto.FromString(data)
        used = {name for node in model.graph.node for name in node.input} | {one.name for one in model.graph.output}
        kept = [one for one in model.graph.initializer if one.name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        rename(model, {value.name: name for value, name in zip(model.graph.output, self.outputs, strict=True)})
        _name_sizes(model)
        leave_out_traces(model)
        return model


def _name_sizes(model: Any) -> None:
    sizes = {value.name: _sizes(value) for value in (*model.graph.input, *model.graph.output)}
    names = [value.name for value in model.graph.input]
    free = any(sizes[name][:1] == [None] for name in names)
    declare(
        model,
        dict(zip(names, free_names(names, [sizes[name] for name in names], channels_first=True), strict=True)),
        {
            value.name: [
                size if size is not None else BATCH if place == 0 and free else "?"
                for place, size in enumerate(sizes[value.name])
            ]
            for value in model.graph.output
        },
    )


def _sizes(value: Any) -> list[int | None]:
    return [int(dim.dim_value) if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim]
