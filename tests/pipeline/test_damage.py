"""A ruined variant through real workers: its manifest says at which layer it broke."""

from __future__ import annotations

from pathlib import Path

from tests.formats.graphs import save
from tests.pipeline.conftest import Runner
from tests.pipeline.test_variants import variant, wide

RUINING = """
import numpy as np
import onnx
from onnx import numpy_helper
from studio.optimize.base import Recipe


def apply(work):
    model = onnx.load(work.src)
    second = next(one for one in model.graph.initializer if one.name == "v")
    turned = np.ascontiguousarray(numpy_helper.to_array(second)[:, ::-1])
    second.CopyFrom(numpy_helper.from_array(turned, "v"))
    onnx.save(model, work.out)
    return {}


RECIPE = Recipe(name="ruin", title="Ruin", applies=lambda model, given: "", apply=apply)
"""


async def test_a_ruined_variant_says_where_it_broke(runner: Runner, tmp_path: Path, plugin) -> None:
    plugin(RUINING, "[studio.recipes]\nruin = odd_package:RECIPE\n")
    intake = await runner.intake(save(wide(), tmp_path / "wide.onnx"))
    result = await variant(runner, intake, "ruin")
    assert result.verdict.outcome == "reject"
    assert result.fidelity is not None and result.fidelity.layers is not None
    found = result.fidelity.layers
    assert (found.worst[0].tensor, found.worst[0].operator, found.worst[0].before_db) == ("y", "MatMul", None)
    assert found.sentence.startswith("breaks at MatMul 'y': SQNR exact → ")
    assert found.sentence in result.verdict.sentence


async def test_what_agrees_is_not_looked_into(runner: Runner, tmp_path: Path) -> None:
    intake = await runner.intake(save(wide(), tmp_path / "wide.onnx"))
    result = await variant(runner, intake, "fp16")
    assert result.fidelity is not None and result.fidelity.layers is None
