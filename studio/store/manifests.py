"""Manifests on disk: `models/<model>/<version>.json` and `<version>-<variant>.json`, written once, never edited.

A variant that is judged again gets a further one, `<version>-<variant>@2.json`; the newest holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from studio.core import codec
from studio.core.errors import InvalidInput, NotFound, Problem, StudioError
from studio.core.manifest import SCHEMA, FileRef, Graph, VariantManifest, VersionManifest
from studio.core.names import check_model_name, check_variant_name, variant_key
from studio.store.blobs import Blobs
from studio.store.files import clean_temps, create_exclusive, make_folder, sync_folder

_FILE = re.compile(r"([1-9][0-9]{0,8})(?:-([a-z][a-z0-9.-]*?)(?:@([2-9]|[1-9][0-9]{1,5}))?)?\.json")

M = TypeVar("M", VersionManifest, VariantManifest)


@dataclass(frozen=True, order=True)
class ManifestName:
    """Names one manifest file. An empty `variant` is the version itself; `run` counts the documents of a variant."""

    model: str
    version: int
    variant: str = ""
    run: int = 1

    @property
    def file(self) -> str:
        """Path under `models/`."""
        key = variant_key(self.version, self.variant) if self.variant else str(self.version)
        return f"{self.model}/{key}{f'@{self.run}' if self.run > 1 else ''}.json"


def newest(names: Iterable[ManifestName]) -> list[ManifestName]:
    """Without the documents of variants that a later run has replaced, sorted."""
    last: dict[tuple[str, int, str], ManifestName] = {}
    for name in sorted(names):
        last[name.model, name.version, name.variant] = name
    return sorted(last.values())


class Manifests:
    """The folder `store/models`. Writing checks that every blob a manifest names is stored."""

    def __init__(self, folder: Path, blobs: Blobs) -> None:
        self.folder = folder
        self.blobs = blobs

    def write_version(self, manifest: VersionManifest) -> None:
        """Makes a version exist. Raises Conflict if it does already, NotFound for a missing blob, Unavailable."""
        self._write(ManifestName(manifest.model, manifest.version), manifest)

    def write_variant(self, manifest: VariantManifest) -> None:
        """Adds a variant to its version, or one more run of it. Raises Conflict, NotFound (no such version, missing
        blob), Unavailable."""
        check_variant_name(manifest.variant)
        if not self._path(ManifestName(manifest.model, manifest.version)).exists():
            raise NotFound(
                f"There is no version {manifest.model}:{manifest.version}.",
                f"The variant '{manifest.variant}' needs it.",
            )
        self._write(ManifestName(manifest.model, manifest.version, manifest.variant, manifest.run), manifest)

    def read_version(self, model: str, version: int) -> VersionManifest:
        """Raises NotFound, or InvalidInput when the file is damaged."""
        return self._read(ManifestName(model, version), VersionManifest)

    def read_variant(self, model: str, version: int, variant: str) -> VariantManifest:
        """Its newest run. Raises NotFound, or InvalidInput when the file is damaged."""
        run = self.last_run(model, version, variant)
        return self._read(ManifestName(model, version, variant, run), VariantManifest)

    def read_variants(self, model: str, version: int) -> list[VariantManifest]:
        """All variants of a version, each in its newest run, by name. Raises InvalidInput for a damaged file."""
        names = (name for name in self._names_of(model) if name.version == version and name.variant)
        return [self._read(name, VariantManifest) for name in newest(names)]

    def last_run(self, model: str, version: int, variant: str) -> int:
        """The number of a variant's newest document; 1 where there is none."""
        names = self._names_of(model)
        return max((name.run for name in names if (name.version, name.variant) == (version, variant)), default=1)

    def variants_of(self, model: str, version: int) -> tuple[str, ...]:
        """Names of the variants whose manifests are written."""
        names = (name for name in self._names_of(model) if name.version == version and name.variant)
        return tuple(sorted({name.variant for name in names}))

    def versions(self) -> list[tuple[str, int]]:
        """All (model, version), sorted."""
        return sorted((name.model, name.version) for name in self.names() if not name.variant)

    def names(self) -> list[ManifestName]:
        """Every manifest file, without reading any. Files of other names are none of ours."""
        found: list[ManifestName] = []
        for entry in os.scandir(self.folder):
            if entry.is_dir() and _is_model(entry.name):
                found.extend(self._names_of(entry.name))
        return found

    def read_all(
        self, names: list[ManifestName], problems: dict[ManifestName, Problem]
    ) -> Iterator[tuple[ManifestName, VersionManifest | VariantManifest]]:
        """Reads manifests one by one; those that can not be read are put into `problems` and left alone."""
        for name in names:
            try:
                manifest = self._read(name, VariantManifest) if name.variant else self._read(name, VersionManifest)
            except StudioError as error:
                problems[name] = error.problem
            else:
                yield name, manifest

    def next_version(self, model: str, floor: int = 0) -> int:
        """The number after the newest that is written, and after `floor` (numbers once used are never used again)."""
        return max([floor, *(name.version for name in self._names_of(check_model_name(model)))]) + 1

    def delete(self, model: str, version: int) -> None:
        """Removes a version and its variants, for purge: the version first, so that it is gone wholly."""
        self._path(ManifestName(model, version)).unlink(missing_ok=True)
        folder = self.folder / check_model_name(model)
        if not folder.is_dir():
            return
        sync_folder(folder)
        for name in self._names_of(model):
            if name.version == version:
                self._path(name).unlink(missing_ok=True)
        sync_folder(folder)
        if not any(folder.iterdir()):
            folder.rmdir()

    def clean(self) -> None:
        """Removes files that a crash left half written. Only for the owner of the workspace, when it starts."""
        for entry in os.scandir(self.folder):
            if entry.is_dir():
                clean_temps(Path(entry.path))

    def _names_of(self, model: str) -> list[ManifestName]:
        found: list[ManifestName] = []
        try:
            entries = os.listdir(self.folder / model)  # noqa: PTH208 - names alone: three times as fast
        except FileNotFoundError:
            return found
        for entry in entries:
            match = _FILE.fullmatch(entry)
            if match:
                found.append(ManifestName(model, int(match[1]), match[2] or "", int(match[3] or 1)))
        return found

    def _path(self, name: ManifestName) -> Path:
        check_model_name(name.model)
        return self.folder / name.file

    def _write(self, name: ManifestName, manifest: VersionManifest | VariantManifest) -> None:
        path = self._path(name)
        for file in files_of(manifest):
            if not self.blobs.exists(file.sha256):
                raise NotFound(
                    f"{name.file} was not written.",
                    f"Its file '{file.name}' ({file.sha256[:12]}…) is not in the store.",
                    "Retry the job: it stores its files again.",
                )
        make_folder(path.parent)
        create_exclusive(path, codec.encode_pretty(manifest))

    def _read(self, name: ManifestName, kind: type[M]) -> M:
        path = self._path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            thing = f"{name.model}:{name.file.rpartition('/')[2].removesuffix('.json')}"
            raise NotFound(f"There is no {thing}.", f"{path} does not exist.", "See: studio ls") from error
        except OSError as error:
            raise InvalidInput(f"The manifest {name.file} could not be read.", f"{error}.") from error
        fix = f"The file was left as it is: restore it from a backup, or move it away from {path}."
        try:
            manifest = codec.decode(data, kind, f"manifest {name.file}")
        except InvalidInput as error:
            raise InvalidInput(f"The manifest {name.file} is damaged.", error.why, fix) from error
        said = (manifest.model, manifest.version, getattr(manifest, "variant", ""), getattr(manifest, "run", 1))
        if said != (name.model, name.version, name.variant, name.run):
            raise InvalidInput(f"The manifest {name.file} is not what its name says.", f"It describes {said}.", fix)
        if manifest.schema > SCHEMA:
            raise InvalidInput(
                f"The manifest {name.file} was written by a newer Studio.",
                f"It has schema {manifest.schema}; this Studio knows {SCHEMA}.",
                "Upgrade Studio.",
            )
        return manifest


def files_of(manifest: VersionManifest | VariantManifest) -> list[FileRef]:
    """Every blob that a manifest needs."""
    found: list[FileRef] = []
    graph: Graph | None = manifest.graph
    if graph is not None:
        found += [graph.file, *graph.weights]
    if isinstance(manifest, VersionManifest):
        found += [*manifest.source.files, *manifest.assets]
        found += [file for file in (manifest.samples.file, manifest.example) if file is not None]
        if manifest.example is not None:
            found.append(manifest.example)
    return found


def _is_model(name: str) -> bool:
    try:
        check_model_name(name)
    except InvalidInput:
        return False
    return True
