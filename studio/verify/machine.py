"""Where figures hold, and what made them: this machine and the versions of the tools."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from studio.core.manifest import Machine

_TOOLS = ("onnxruntime", "onnx", "numpy")


def this_machine() -> Machine:
    """Processor, usable cores, memory in bytes, operating system, runtime ('onnxruntime 1.31.1')."""
    import psutil

    return Machine(
        cpu=_cpu(),
        cores=usable_cores(),
        memory=int(psutil.virtual_memory().total),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        runtime=f"onnxruntime {_version('onnxruntime')}",
    )


def tool_versions(*more: str) -> dict[str, str]:
    """Versions of what made a manifest, by distribution name: Studio's tools, Python, and `more` where installed."""
    found = {name: _version(name) for name in ("ort-studio", *_TOOLS, *more)}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def usable_cores() -> int:
    """The cores that this process may run on."""
    # Fewer than the machine has where a container or taskset limits them; macOS has no affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model") and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown"
