"""What a source format is: how an arrival is recognised, and what converting it gives.

A third party adds one through the entry point group `studio.formats`: an entry that loads to an object with the
attributes and methods of `Format`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from studio.core.errors import CodeFile, InvalidInput
from studio.core.manifest import CrossValidation
from studio.core.tensors import Signature
from studio.formats.clock import running
from studio.formats.settings.file import ModelSettings

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Bounds = tuple[float, float] | tuple[Array, Array] | tuple[str, ...] | Array

SETTINGS_SUFFIX = ".toml"
SAMPLES_SUFFIX = ".npz"
_MOST_FILES = 2000


@dataclass(frozen=True, kw_only=True)
class ArrivalFiles:
    """The files of one arrival. `content`: everything but settings and samples; folders are listed through."""

    stem: str
    content: tuple[Path, ...]
    settings: Path | None = None
    samples: Path | None = None

    @classmethod
    def of(
        cls, paths: tuple[Path, ...], stem: str = "", settings: Path | None = None, samples: Path | None = None
    ) -> ArrivalFiles:
        """Sort the files of an arrival by their role. Symbolic links and hidden parts of folders are left out.

        `settings`, `samples`: those that count, whatever else of their kind is among the files. Raises InvalidInput
        when there is no model among them, or more than one settings or samples file.
        """
        files = [file for path in paths for file in _listed(path)]
        described = [file for file in files if file.suffix.lower() == SETTINGS_SUFFIX]
        sampled = [file for file in files if file.suffix.lower() == SAMPLES_SUFFIX]
        content = tuple(file for file in files if file.suffix.lower() not in (SETTINGS_SUFFIX, SAMPLES_SUFFIX))
        if not content:
            names = ", ".join(path.name for path in paths) or "nothing"
            raise InvalidInput(
                f"There is no model in this arrival ({names}).",
                "A .toml describes a model and an .npz holds its sample inputs; neither is one.",
                "Drop the model file with the same stem beside them.",
            )
        return cls(
            stem=stem or content[0].stem,
            content=content,
            settings=settings or _only(described, "settings file (.toml)"),
            samples=samples or _only(sampled, "samples file (.npz)"),
        )


def _only(found: list[Path], word: str) -> Path | None:
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise InvalidInput(f"There is more than one {word}: {names}.", fix="Leave one and drop it again.")
    return found[0] if found else None


def _listed(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    for child in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in child.relative_to(path).parts)
        if child.is_file() and not child.is_symlink() and not hidden:
            found.append(child)
        if len(found) > _MOST_FILES:
            raise InvalidInput(f"The folder '{path.name}' holds more than {_MOST_FILES} files.", fix="Drop the model.")
    return found


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """What a format saw. `model` is the file to convert; `detail` a few words on it ('ONNX, opset 17')."""

    model: Path
    detail: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of the source: inputs by name, and what the source framework answered, outputs by name."""

    inputs: Feed
    outputs: Feed


CrossValidate = Callable[[Feed, Array, int, float, Callable[[float, str], None]], CrossValidation]
"""Samples by input, rows first, their labels, the number of folds, the seconds it may take, and whom to tell how far it
is. Raises StepFailed, saying why, where it can not be done."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A conversion. `graph` is the ONNX file in the output folder, `weights` its external data, if any.

    Weights are named by the SHA-256 of their content, and the graph refers to them by that name. `cases` are runs of
    the source on several batch sizes, made-up or of the user's samples. `tools`: versions of what made it, by
    distribution name. `sources`: every file outside the output folder that was read. `class_labels`: what the source
    itself calls its classes. `serve_only`: why no variants can be made of it, empty where they can. `tolerances`: by
    output, how far off an answer may be where the source rounds so coarsely that the usual gate says nothing; a note
    says why. `cross_validate`: fits fresh copies of the source on samples, where that can be done.
    """

    graph: Path
    cases: tuple[Case, ...]
    sources: tuple[Path, ...]
    weights: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    tools: dict[str, str] = field(default_factory=dict)
    class_labels: tuple[str, ...] = ()
    serve_only: str = ""
    tolerances: dict[str, float] = field(default_factory=dict)
    cross_validate: CrossValidate | None = None


class Kit(Protocol):
    """What a conversion is given to work with, beside its files."""

    @property
    def settings(self) -> ModelSettings:
        """What the user says of the model; all defaults where nothing was said."""

    def trust(self, code: tuple[CodeFile, ...], why: str = "") -> None:
        """Ask before running code: returns when the user said yes to every one of these files, by hash.

        Raises NeedsTrust with all of them otherwise. `why` tells in a sentence what was found.
        """

    @property
    def threads(self) -> int:
        """Threads that a framework may use."""

    def report(self, progress: float | None, detail: str) -> None:
        """Tell how far the conversion is: 0 to 1, or None where that is not known."""

    def signature(self, graph: Path) -> Signature:
        """What an ONNX file declares. Raises Refused when ONNX Runtime can not load it."""

    def runs(self, signature: Signature, ranges: Mapping[str, Bounds] | None = None) -> Iterator[tuple[Feed, ...]]:
        """Runs to compare on, batch sizes 1, 2 and 5 where the batch is free. Try one set after the other until one
        runs: the user's samples are the only set, made-up inputs come in several. `ranges`: bounds of values, for
        a float input also arrays with one entry a column, for a string input the words to draw; a single array holds
        rows to take as they come.
        """

    def run(self, graph: Path, runs: tuple[Feed, ...], optimised: bool = True) -> list[Feed]:
        """Outputs of an ONNX file for each run. Raises StepFailed when one fails."""


def answered(run: Callable[[Feed], Feed], runs: tuple[Feed, ...]) -> tuple[Case, ...]:
    """What a source answers to each of `runs`, every one with a clock of its own. Raises what `run` raises."""
    cases = []
    for feed in runs:
        with running():
            cases.append(Case(inputs=feed, outputs=run(feed)))
    return tuple(cases)


@runtime_checkable
class Format(Protocol):
    """One source format. `extra` names the optional extra that converting needs, None for none."""

    name: str
    title: str
    extra: str | None

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        """Whether this is that format, from content and never from the name alone. Cheap, without any framework.

        Raises InvalidInput for files that are certainly of this format, and broken.
        """

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        """Make the reference graph. Raises Refused, NeedsExtra, NeedsTrust, InvalidInput or StepFailed."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a source computes with, as something that can be trained.

    `module` is a torch.nn.Module in evaluation mode: it takes the reference graph's inputs as tensors and gives a tuple
    of its outputs, both in the graph's order. `export(module, out)` writes such a module, changed inside, as one ONNX
    file with the names and sizes of the reference graph; it raises Refused.
    """

    module: Any
    export: Callable[[Any, Path], None]


@runtime_checkable
class Trainable(Protocol):
    """A format whose sources hold such a network."""

    def network(self, files: ArrivalFiles, recognition: Recognition, graph: Path, kit: Kit) -> Network:
        """The network that became the reference `graph`. Asks for the same trust, and raises the same, as convert."""
