from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.registry.registry import Registry
from studio.store.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path)


@pytest.fixture
def registry(workspace: Workspace) -> Iterator[Registry]:
    with Registry.open(workspace) as found:
        yield found
