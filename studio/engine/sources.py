"""The files that a version was made from, handed to workers that open them again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePosixPath

from studio.core.errors import InvalidInput
from studio.core.manifest import VersionManifest
from studio.core.names import model_name_from_stem
from studio.engine.keep import Keep
from studio.pipeline.messages import SourceFiles


def source_of(version: VersionManifest, keep: Keep) -> SourceFiles:
    """Where a version's source files lie in the store, with what the user has said of their code."""
    blobs = keep.store.blobs
    return SourceFiles(
        format=version.source.format,
        stem=_stem(version),
        files={file.name: str(blobs.path(file.sha256)) for file in version.source.files},
        trusted=tuple(one.sha256 for one in keep.trusted()),
    )


def _stem(version: VersionManifest) -> str:
    """What the arrival was called: the stem of its files, or its folder, that the model has its name from."""
    for file in version.source.files:
        top = PurePosixPath(file.name).parts[0]
        for stem in (top, PurePosixPath(top).stem, top.partition(".")[0]):
            with suppress(InvalidInput):
                if model_name_from_stem(stem) == version.model:
                    return stem
    return version.model
