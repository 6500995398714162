"""Official clients that want a process of their own: asyncio ones of Triton, and KServe's in its own environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.core.settings import ServingSettings
from tests.serving import graphs
from tests.serving.environments import interpreter
from tests.serving.harness import Child, running
from tests.serving.test_grpc import free_port, grpc_port

HERE = Path(__file__).parent
KSERVE = "kserve==0.21.0"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("clients")
    table = graphs.table(graphs.mlp(folder, model="digits", version=3), graphs.add_and_subtract(folder, model="simple"))
    with running(folder, table, ServingSettings(grpc_port=free_port())) as server:
        yield server


def run(python: Path, script: str, server: Child) -> str:
    done = subprocess.run(
        [str(python), str(HERE / script), str(server.port), str(grpc_port(server))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        # The client's own interpreter finds its own packages alone.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        cwd=HERE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_tritons_asyncio_clients(served: Child) -> None:
    assert run(Path(sys.executable), "triton_aio_client.py", served) == "all answered alike\n"


@pytest.mark.environment
@pytest.mark.timeout(1200)
def test_kserves_client(served: Child) -> None:
    """Over v2 with and without binary tensors, over v1, and over gRPC."""
    assert run(interpreter(KSERVE), "kserve_client.py", served).endswith("all answered alike\n")
