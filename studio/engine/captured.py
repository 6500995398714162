"""Recorded requests in place of made-up inputs, for versions that came without samples."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from studio.core.manifest import FileRef, Samples, VersionManifest
from studio.store.files import temp_path
from studio.verify.captured import captured_samples


class Captured:
    """Gives the lab what was recorded. `folder` tells where the recording of a model lies, None where there is none;
    `written` waits until what was taken so far is written.

    The rows that a version is judged on are put together once for each run of the lab, beside the recording, so that
    they are deleted with it; they never go into the store.
    """

    def __init__(
        self, folder: Callable[[str], Path | None], written: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._folder, self._written = folder, written
        self._paths: dict[str, Path] = {}

    async def newest(self, version: VersionManifest) -> VersionManifest:
        """As `over`, with what was asked until now."""
        if self._recorded(version) is not None and self._written is not None:
            await self._written()
        return await asyncio.to_thread(self.over, version)

    async def count(self, version: VersionManifest) -> int:
        """How many real samples `newest` would give. Files that the lab reads meanwhile stay as they are."""
        folder = self._recorded(version)
        if folder is None:
            return version.samples.real
        if self._written is not None:
            await self._written()
        return await asyncio.to_thread(_count, folder, version)

    def over(self, version: VersionManifest) -> VersionManifest:
        """The manifest, with recorded requests as its samples where it has none of its own and enough were recorded.

        Blocks. What it gives is for the lab alone, and is not to be kept.
        """
        folder = self._recorded(version)
        if folder is None:
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

    def _recorded(self, version: VersionManifest) -> Path | None:
        """Where requests lie that may stand in for the samples that a version lacks."""
        folder = self._folder(version.model)
        return folder if version.samples.kind == "synthetic" and folder is not None and folder.is_dir() else None

    def path(self, file: FileRef) -> Path | None:
        """Where samples lie that `over` gave; None for those of the store."""
        return self._paths.get(file.sha256)


def _count(folder: Path, version: VersionManifest) -> int:
    draft = temp_path(folder)
    try:
        return captured_samples(folder, version.signature, draft)
    finally:
        draft.unlink(missing_ok=True)
