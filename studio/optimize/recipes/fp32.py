"""fp32: the graph as it is, in one self-contained file.

Nothing is rewritten. ONNX Runtime folds constants, drops dead nodes and fuses operators whenever it loads a graph.
Doing so ahead of time was tried on convolutional nets, a perceptron and transformers from both of torch's exporters: no
graph ran faster, files shrank by a hundredth at most, and loading became as often slower as faster
(docs/reference/recipes.md has the figures). And what is not rewritten can not go wrong.
"""

from __future__ import annotations

import shutil
from typing import Any

from studio.core.errors import Refused
from studio.optimize import graphs
from studio.optimize.base import Given, Recipe, Work


def applies(model: Any, given: Given) -> str:
    """Always: any graph is its own reference."""
    return ""


def apply(work: Work) -> dict[str, str]:
    """Copy the file byte for byte; weights that lie in other files come into it. Raises Refused."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    src, out, report = work.src, work.out, work.report
    report(0.0, "reading the graph")
    try:
        model = onnx.load(src, load_external_data=False)
    except Exception as error:
        raise Refused("The graph can not be read.", graphs.first_line(error), "Export it again.") from error
    if not any(uses_external_data(tensor) for tensor in model.graph.initializer):
        shutil.copyfile(src, out)
        how = "unchanged"
    else:
        report(0.3, "taking the weights in")
        graphs.save(onnx.load(src), out)
        how = "external weights taken in"
    graphs.check_loads(out, src)
    report(1.0, "done")
    return {"graph": how}


RECIPE = Recipe(name="fp32", title="32-bit floats, as converted", applies=applies, apply=apply)
