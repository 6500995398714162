"""Copying a model into the inbox so that it arrives whole: a file appears under its name only once it is complete."""

from __future__ import annotations

import errno
import secrets
import shutil
from pathlib import Path

from studio.core.errors import InvalidInput, NotFound, StudioError, Unavailable
from studio.inbox.groups import (
    FACTORY_SUFFIX,
    SAMPLES_SUFFIX,
    SETTINGS_SUFFIX,
    is_companion,
    is_external_data,
    is_ignored,
    stem_of,
)

WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
"""Suffixes of files that may hold weights alone, which a factory of the same stem makes a model of."""

_TEMP = ".adding-"


def add(path: Path, inbox_folder: Path, name: str | None = None) -> list[Path]:
    """Copy a model file or folder into the inbox, with what belongs to it; returns what lies there now.

    Settings (`.toml`), samples (`.npz`), a tokenizer (`.tokenizer.json`), ONNX external data and the factory of weights
    (`.py`), of the same stem beside a file, come along and arrive before it.

    `name` replaces the stem; a file whose external data is found by name then arrives as a folder of that
    name. An earlier arrival of the same name is replaced: that is how the next version of a model is added. Links in
    `path` are followed, since the user named them. What lies in the inbox already stays as it is; with another `name`
    a copy of it lies there too.

    Raises NotFound, InvalidInput, or Unavailable when it can not be copied.
    """
    source = Path(path).expanduser()
    if not source.exists():
        raise NotFound(f"There is no file or folder {str(path)!r}.", fix="Check the path.")
    if name is not None:
        _check_name(name)
    if is_ignored(source.name) and name is None:
        raise InvalidInput(
            f"{source.name!r} looks like a temporary or hidden file.",
            "The inbox takes no notice of such names.",
            "Give it another: --name STEM.",
        )
    renamed = name is not None and name != (source.name if source.is_dir() else stem_of(source.name))
    if _is_inside(source, inbox_folder) and not (renamed and source.resolve().parent == inbox_folder.resolve()):
        return [source]
    try:
        return _add_folder(source, inbox_folder, name) if source.is_dir() else _add_file(source, inbox_folder, name)
    except OSError as error:
        raise _not_copied(source, error) from error


def _add_file(source: Path, inbox: Path, name: str | None) -> list[Path]:
    if not source.is_file():
        raise InvalidInput(f"{source.name!r} is neither a file nor a folder.", "Pipes and devices can not be copied.")
    stem = stem_of(source.name)
    companions = [] if is_companion(source.name) else _companions(source, stem)
    external = [one for one in companions if is_external_data(one.name)]
    new = name or stem
    if external and new != stem:
        return [_install_folder([*companions, source], inbox, new)]
    # The model comes last: companions alone wait quietly, so that it never arrives without them.
    return [_install_file(one, inbox / f"{new}{one.name[len(stem) :]}") for one in [*companions, source]]


def _companions(source: Path, stem: str) -> list[Path]:
    beside = (one for one in source.parent.iterdir() if one.name != source.name and not is_ignored(one.name))
    # A script of the same name beside, say, an .onnx file is nobody's factory: only weights need one.
    wanted = (one for one in beside if one.suffix.lower() != FACTORY_SUFFIX or source.suffix.lower() in WEIGHTS)
    return sorted(one for one in wanted if stem_of(one.name) == stem and is_companion(one.name) and one.is_file())


def _add_folder(source: Path, inbox: Path, name: str | None) -> list[Path]:
    entries = sorted(source.iterdir())
    new = name or source.resolve().name
    beside = [
        one
        for suffix in (SAMPLES_SUFFIX, SETTINGS_SUFFIX)
        if (one := source.resolve().with_name(source.resolve().name + suffix)).is_file()
    ]
    installed = [_install_file(one, inbox / f"{new}{one.suffix}") for one in beside]
    return [*installed, _install_folder(entries, inbox, new)]


def _install_file(source: Path, target: Path) -> Path:
    temp = target.with_name(f"{_TEMP}{secrets.token_hex(6)}")
    try:
        shutil.copyfile(source, temp)
        temp.replace(target)
    finally:
        temp.unlink(missing_ok=True)
    return target


def _install_folder(entries: list[Path], inbox: Path, name: str) -> Path:
    temp, target = inbox / f"{_TEMP}{secrets.token_hex(6)}", inbox / name
    aside = inbox / f"{_TEMP}{secrets.token_hex(6)}"
    try:
        temp.mkdir()
        _copy_into(entries, temp, ())
        earlier = target.exists()
        if earlier:
            target.rename(aside)
        try:
            temp.rename(target)
        except OSError:
            if earlier:
                aside.rename(target)
            raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
    return target


def _copy_into(entries: list[Path], folder: Path, above: tuple[Path, ...]) -> None:
    for entry in entries:
        if is_ignored(entry.name):
            continue
        if entry.is_dir():
            real = entry.resolve()
            if real in above:
                raise InvalidInput(f"{entry} leads back to itself.", "The folder contains a loop of links.")
            (folder / entry.name).mkdir()
            _copy_into(sorted(entry.iterdir()), folder / entry.name, (*above, real))
        elif entry.is_file():
            shutil.copyfile(entry, folder / entry.name)


def _is_inside(source: Path, inbox: Path) -> bool:
    return inbox.resolve() in source.resolve().parents or source.resolve() == inbox.resolve()


def _check_name(name: str) -> None:
    if name != Path(name).name or "\\" in name or "\0" in name or not name or is_ignored(name) or len(name) > 100:
        raise InvalidInput(
            f"{name[:120]!r} is no name for an arrival.",
            "It becomes a file name in the inbox: at most 100 characters, no slashes, not hidden or temporary.",
            "For example: --name digits.",
        )


def _not_copied(source: Path, error: OSError) -> StudioError:
    what = f"{source.name!r} could not be copied into the inbox."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(what, "The disk is full.", "Free some space, then add it again.")
    if error.errno in (errno.EACCES, errno.EPERM):
        named = error.filename or source
        return InvalidInput(what, f"{named} may not be read or written.", "Change its permissions, then add it again.")
    return Unavailable(what, f"{error.strerror or error}.", "Nothing of it arrived; try again.")
