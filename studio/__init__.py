"""Studio: drop a model into a folder, get a checked and measured endpoint on localhost."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ort-studio")
except PackageNotFoundError:  # a bare checkout on sys.path, never installed
    __version__ = "0+unknown"
