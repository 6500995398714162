"""Studio: drop a model into a folder, get a checked and measured endpoint on localhost."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    # Reading the installed metadata takes 30 ms, which every command would pay.
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ort-studio")
    except PackageNotFoundError:  # a bare checkout on sys.path, never installed
        return "0+unknown"
