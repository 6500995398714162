"""What an arrival is: recognised as it came, or, where it is a plain archive, by what is in it.

An archive that is a model format itself (.pt2, .keras, …) is that format's. A plain one is an archive that no format
recognises; it is unpacked beside the task's output folder, and what comes out is looked at like a folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from studio.core.errors import InvalidInput, Refused, StudioError
from studio.formats.archives.archive import Allowance, archive_kind, unpack
from studio.formats.archives.mar import MANIFEST, Mar, read_mar
from studio.formats.base import ArrivalFiles, Format, Recognition
from studio.formats.registry import recognised_by, unknown
from studio.formats.unsupported.known import is_plain_archive

_DEEPEST = 2
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An arrival that is known. `dropped` as it came; `files` are what the format works on, and differ from that where
    it came in an `archive`.

    `around`: all files that came, where a format works on some. `class_labels`: what the archive says of the classes.
    """

    dropped: ArrivalFiles
    files: ArrivalFiles
    format: Format
    recognition: Recognition
    around: tuple[Path, ...]
    archive: Path | None = None
    class_labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_arrival(
    paths: tuple[Path, ...], stem: str, scratch: Path, report: Callable[[str], None] = lambda _: None
) -> Opened:
    """Recognise an arrival; a plain archive is unpacked below `scratch` first. `report` is told what takes long.

    Raises Refused for what no format knows and for unsafe archives, InvalidInput for what is broken or more than one
    model.
    """
    files = ArrivalFiles.of(paths, stem)
    try:
        found, recognition = _the_model(files)
    except Refused:
        archive = _the_archive(files)
        if archive is None:
            raise
        allowance = Allowance(size=archive.stat().st_size)
        return _Opening(files, archive, scratch, allowance, report).open()
    return Opened(dropped=files, files=files, format=found, recognition=recognition, around=files.content)


def _the_model(files: ArrivalFiles) -> tuple[Format, Recognition]:
    """The one format that knows the files. Raises InvalidInput where several know different ones of them."""
    seen = list(recognised_by(files))
    if not seen:
        raise unknown(files)
    models = dict.fromkeys(recognition.model for _, recognition in seen)
    if len(models) > 1:
        named = ", ".join(
            f"{model.name} ({next(one.detail for _, one in seen if one.model == model)})"
            for model in list(models)[:_SHOWN]
        )
        raise InvalidInput(
            f"There are {len(models)} models under one name: {named}.",
            "Files of one stem are one arrival, and an arrival becomes one version of one model.",
            "Give each of them a name of its own.",
        )
    return seen[0]


def _the_archive(files: ArrivalFiles) -> Path | None:
    """The one plain archive among files that no format knows. Raises InvalidInput when there are several."""
    found = [file for file in files.content if archive_kind(file) is not None and is_plain_archive(file)]
    if len(found) > 1:
        raise InvalidInput(
            f"There are {len(found)} archives in this arrival: {_names(found)}.",
            "An arrival becomes one version of one model.",
            "Drop each of them alone.",
        )
    return found[0] if found else None


class _Opening:
    """Unpacks one dropped archive, and one inside it."""

    def __init__(
        self,
        files: ArrivalFiles,
        archive: Path,
        scratch: Path,
        allowance: Allowance,
        report: Callable[[str], None],
    ) -> None:
        self._dropped, self._archive, self._scratch = files, archive, scratch
        self._allowance, self._report = allowance, report
        self._left_out = 0

    def open(self) -> Opened:
        """The model in it, or in the one archive in it."""
        inner, folder = self._archive, self._scratch
        for depth in range(_DEEPEST):
            self._report(f"unpacking {inner.name}")
            folder = self._scratch / f"unpacked-{depth}"
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that found out that it needs an environment
            folder.mkdir()
            unpacked = unpack(inner, folder, self._allowance)
            self._left_out += unpacked.left_out
            if not unpacked.files:
                raise InvalidInput(
                    f"There is no file in the archive '{inner.name}'.", fix="Drop the model file itself."
                )
            found = self._found(_stepped_in(folder))
            if isinstance(found, Opened):
                return found
            files, said = found
            within = _the_archive(files)
            if within is None:
                raise self._nothing(inner, files, said)
            inner = within
        raise Refused(
            f"There is no model in '{self._archive.name}'.",
            f"It holds an archive that holds the archive '{inner.name}'. Archives are opened two deep.",
            "Unpack it, and drop the model itself.",
        )

    def _found(self, folder: Path) -> Opened | tuple[ArrivalFiles, Refused]:
        """The model in an unpacked folder; its files, and what was said of them, where there is none."""
        mar = read_mar(folder)
        came = self._came(folder)
        files = came if mar is None else self._named(came, folder, mar)
        seen = list(recognised_by(files))
        models = list(dict.fromkeys(recognition.model for _, recognition in seen))
        if len(models) > 1:
            named = ", ".join(
                f"{model.relative_to(folder)} ({next(r.detail for _, r in seen if r.model == model)})"
                for model in models[:_SHOWN]
            )
            raise InvalidInput(
                f"There are {len(models)} models in '{self._archive.name}': {named}.",
                "An arrival becomes one version of one model.",
                "Drop each of them alone.",
            )
        if not seen:
            return files, unknown(files)
        chosen, recognition = seen[0]
        detail = f"{recognition.detail}, from {self._archive.name}"
        return Opened(
            dropped=self._dropped,
            files=files,
            format=chosen,
            recognition=replace(recognition, detail=detail),
            around=came.content,
            archive=self._archive,
            class_labels=mar.class_labels if mar else (),
            notes=self._notes(mar),
        )

    def _came(self, folder: Path) -> ArrivalFiles:
        """What was unpacked, with what was dropped beside the archive."""
        dropped = self._dropped
        beside = (file for file in dropped.content if file != self._archive)
        try:
            return ArrivalFiles.of((folder, *beside), dropped.stem, dropped.settings, dropped.samples)
        except StudioError as error:
            raise InvalidInput(f"In '{self._archive.name}': {error.what}", error.why, error.fix) from error

    def _named(self, found: ArrivalFiles, folder: Path, mar: Mar) -> ArrivalFiles:
        """Of a TorchServe archive, the files that make up the model."""
        handler = folder / mar.handler
        if mar.model is not None:
            # Weights alone come with the file that has their class, which may import others beside it.
            code = [file for file in found.content if file.suffix == ".py" and file != handler] if mar.factory else []
            beside = [file for file in found.content if not file.is_relative_to(folder)]
            return replace(found, content=tuple(dict.fromkeys((mar.model, *code, *beside))))
        content = tuple(file for file in found.content if file not in (handler, folder / MANIFEST))
        if not content:
            raise InvalidInput(
                f"The TorchServe archive '{self._archive.name}' holds no model, only code.",
                "Its manifest names no serialized file.",
                "Drop the model file itself.",
            )
        return replace(found, content=content)

    def _notes(self, mar: Mar | None) -> tuple[str, ...]:
        notes = [f"It came in the archive {self._archive.name}, which was unpacked."]
        if self._left_out:
            notes.append(f"{self._left_out} links or devices in it were left out.")
        if mar is not None:
            handler = f" ({mar.handler})" if mar.handler else ""
            notes.append(
                f"It is a TorchServe archive. Its handler{handler} was not run: the endpoint takes and gives the "
                "model's own tensors, without what the handler does before and after."
            )
        return tuple(notes)

    def _nothing(self, inner: Path, files: ArrivalFiles, said: Refused) -> Refused:
        held = f"It holds {len(files.content)} files: {_names(list(files.content))}."
        if len(files.content) == 1:
            held = f"It holds {files.content[0].name} alone."
        what = f"There is no model that Studio knows in '{inner.name}'."
        return Refused(what, f"{held} {said.what} {said.why}", said.fix)


def _stepped_in(folder: Path) -> Path:
    """The folder itself, or the only folder in it, as archives are packed."""
    while True:
        inside = list(folder.iterdir())
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        folder = inside[0]


def _names(files: list[Path]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(file.name for file in files[:_SHOWN]) + more
