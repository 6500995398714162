from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import graphs
from tests.serving.harness import Child, running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Child]:
    """One server for a module, with a model of every kind."""
    labels = tuple(f"class-{n}" for n in range(10))
    targets = (
        graphs.mlp(folder, model="digits", version=3, labels=labels),
        graphs.mlp(folder, model="digits", version=3, variant="int8"),
        graphs.mlp(folder, model="digits", version=2),
        graphs.add_and_subtract(folder, model="simple"),
        graphs.identity(folder, "BYTES", ("n",), model="words"),
        graphs.identity(folder, "BYTES", (1,), model="word"),
        graphs.identity(folder, "FP16", ("n",), model="half"),
        graphs.identity(folder, "BF16", ("n",), model="brain"),
        graphs.identity(folder, "BOOL", ("n",), model="flags"),
        graphs.identity(folder, "INT8", ("n", "m"), model="bytes"),
        graphs.identity(folder, "FP32", ("n",), model="floats"),
        graphs.slow(folder, model="slow"),
        graphs.broken(folder, model="broken"),
    )
    table = graphs.table(
        *targets, aliases={"production": "3-fp32", "candidate": "3-int8"}, pinned=("digits:3-fp32", "simple:1-fp32")
    )
    with running(folder, table) as child:
        yield child
