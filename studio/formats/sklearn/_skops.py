"""skops, imported without PyTorch.

skops looks at every module of scikit-learn to list its estimators, among them one for PyTorch's arrays, which would
import all of PyTorch: seconds, and 200 MB, for nothing that a file of skops needs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without(package: str) -> Iterator[None]:
    """While it holds, a package that was not imported yet seems not to be installed."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


with _without("torch"):
    import skops.io

get_untrusted_types, load = skops.io.get_untrusted_types, skops.io.load
