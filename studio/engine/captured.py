"""Recorded requests in place of made-up inputs, for versions that came without samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from studio.core.manifest import FileRef, Samples, VersionManifest
from studio.store.files import temp_path
from studio.verify.captured import captured_samples


class Captured:
    """Gives the lab what was recorded. `folder` tells where the recording of a model lies, None where there is none.

    The rows that a version is judged on are put together once for each run of the lab, beside the recording, so that
    they are deleted with it; they never go into the store.
    """

    def __init__(self, folder: Callable[[str], Path | None]) -> None:
        self._folder = folder
        self._paths: dict[str, Path] = {}

    def over(self, version: VersionManifest) -> VersionManifest:
        """The manifest, with recorded requests as its samples where it has none of its own and enough were recorded.

        Blocks. What it gives is for the lab alone, and is not to be kept.
        """
        folder = self._folder(version.model)
        if version.samples.kind != "synthetic" or folder is None or not folder.is_dir():
            return version
        draft = temp_path(folder)
        try:
            rows = captured_samples(folder, version.signature, draft)
            if not rows:
                return version
            digest = hashlib.sha256(draft.read_bytes()).hexdigest()
            size = draft.stat().st_size
            path = draft.replace(folder / f"rows-v{version.version}.npz")
        finally:
            draft.unlink(missing_ok=True)
        self._paths[digest] = path
        file = FileRef(name=path.name, sha256=digest, size=size)
        return replace(version, samples=Samples(kind="captured", count=rows, file=file))

    def path(self, file: FileRef) -> Path | None:
        """Where samples lie that `over` gave; None for those of the store."""
        return self._paths.get(file.sha256)
