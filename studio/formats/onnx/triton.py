"""Folders as Triton Inference Server keeps them: `NAME/config.pbtxt` and `NAME/VERSION/model.onnx`.

The folder is a layout, not a format: the newest version's files are handed to the format that they are, with what the
configuration says of inputs and classes. Where the graph says otherwise, the graph decides, and a note tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from studio.core.errors import CodeFile, InvalidInput, Refused
from studio.core.tensors import Dim, Signature, TensorSpec
from studio.formats.base import ArrivalFiles, Bounds, Converted, Feed, Format, Kit, Recognition
from studio.formats.onnx.triton_config import CONFIG, Declared, TritonConfig, differences, read_config
from studio.formats.settings.file import InputSettings, ModelSettings

_LARGEST_LABELS = 4 * 1024 * 1024
_MOST_LABELS = 100_000
_ALONE = "Drop each model's folder alone."

# What can not be turned into a graph here, by backend: what it is, and what to do instead.
_ELSEWHERE = {
    "ensemble": (
        "is an ensemble: a plan over other models, without one of its own",
        "Drop the folder of each model in it, and call them one after the other in your app.",
    ),
    "python": (
        "is code for Triton's Python backend, with no graph to convert",
        "Export the model that the code loads to ONNX, and drop that.",
    ),
    "tensorrt": (
        "is a TensorRT plan: compiled code for one kind of graphics card",
        "Drop the ONNX file that the plan was built from.",
    ),
    "dali": ("is a DALI pipeline, which runs on graphics cards", "Do those steps in your app; drop the model."),
    "vllm": ("names a language model for vLLM to load", "Serve it with vLLM."),
    "tensorrtllm": ("is a TensorRT-LLM engine: compiled code for one kind of graphics card", "Serve it with Triton."),
}


class TritonFormat:
    """Recognised by a readable `config.pbtxt`, or by several numbered folders of a `model.onnx` each."""

    name = "triton"
    title = "Triton model folder (config.pbtxt)"
    extra: str | None = None
    container = True

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        folder = _folder(files)
        if folder is None:
            return None
        _, recognition = _inner(folder, files)
        detail = f"{recognition.detail}, version {folder.version} of a Triton folder"
        return Recognition(model=recognition.model, detail=detail)

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        folder = _folder(files)
        if folder is None:
            raise InvalidInput("The Triton folder changed while it was read.", fix="Drop it again.")
        chosen, inside = _inner(folder, files)
        model_files = folder.files(files)
        done = chosen.convert(model_files, inside, out_dir, _TritonKit(kit, folder.config, files.samples is not None))
        labels, label_notes = _labels(folder, files)
        extra = (folder.root / CONFIG,) if folder.has_config else ()
        return replace(
            done,
            sources=(*done.sources, *extra),
            notes=(*folder.notes(), *_told(folder.config, kit.signature(done.graph)), *done.notes, *label_notes),
            class_labels=done.class_labels or labels,
        )


@dataclass(frozen=True)
class _Folder:
    """A model's folder. `versions`: those that hold files, by number, ascending; `version` is the one to take."""

    root: Path
    config: TritonConfig
    versions: tuple[int, ...]
    version: int
    has_config: bool

    def files(self, files: ArrivalFiles) -> ArrivalFiles:
        """The files of the version alone: the one that the configuration names, where it is there."""
        inside = tuple(file for file in files.content if self.version == _version_of(self.root, file))
        named = tuple(file for file in inside if file.name == self.config.file) if self.config.file else ()
        return replace(files, content=named or inside)

    def notes(self) -> Iterator[str]:
        """What of the folder was taken and what was not."""
        if len(self.versions) > 1:
            left = [str(one) for one in self.versions if one != self.version]
            word = "version" if len(left) == 1 else "versions"
            yield f"The Triton folder also holds {word} {', '.join(left)}. Version {self.version} was taken."
        if self.config.not_taken:
            yield f"Not taken over from {CONFIG}: {', '.join(self.config.not_taken)}."


def _folder(files: ArrivalFiles) -> _Folder | None:
    """The one model's folder among the files. Raises InvalidInput for several, or one without versions."""
    configs = [file for file in files.content if file.name == CONFIG]
    if len(configs) > 1:
        names = ", ".join(file.parent.name for file in configs[:5])
        raise InvalidInput(
            f"There are {len(configs)} models in this Triton repository: {names}.",
            "An arrival becomes one version of one model.",
            _ALONE,
        )
    if not configs:
        return _unconfigured(files)
    root = configs[0].parent
    versions = sorted({number for file in files.content if (number := _version_of(root, file)) is not None})
    if not versions and any(file.suffix != ".txt" for file in files.content if file != configs[0]):
        return None  # the configuration lies beside the model instead of above it: the model is what counts
    config = read_config(configs[0])
    if not versions and config.backend not in _ELSEWHERE:
        raise InvalidInput(
            f"There is no version in the Triton folder '{root.name}'.",
            f"Beside {CONFIG} there should be a folder whose name is a number, with the model in it.",
            "For example: NAME/1/model.onnx.",
        )
    wanted = [number for number in versions if number in config.versions] or versions or [0]
    return _Folder(root, config, tuple(versions), wanted[-1], has_config=True)


def _unconfigured(files: ArrivalFiles) -> _Folder | None:
    """Triton needs no configuration for ONNX: several numbered folders beside each other with a `model.onnx` each."""
    models = [file for file in files.content if file.name == "model.onnx"]
    folders = [file.parent.parent if file.parent.name == "model.onnx" else file.parent for file in models]
    numbered = [folder for folder in folders if _number(folder.name) is not None]
    roots = {folder.parent for folder in numbered}
    if len(numbered) < 2 or len(numbered) < len(folders):
        return None
    if len(roots) > 1:
        names = ", ".join(sorted(root.name for root in roots)[:5])
        raise InvalidInput(
            f"There are {len(roots)} models in this Triton repository: {names}.",
            "An arrival becomes one version of one model.",
            _ALONE,
        )
    versions = sorted({number for folder in numbered if (number := _number(folder.name)) is not None})
    return _Folder(roots.pop(), TritonConfig(), tuple(versions), versions[-1], has_config=False)


def _version_of(root: Path, file: Path) -> int | None:
    parts = file.relative_to(root).parts if file.is_relative_to(root) else ()
    return _number(parts[0]) if len(parts) > 1 else None


def _number(name: str) -> int | None:
    # As Triton does: other names, and those that begin with 0, are no versions.
    return int(name) if name.isascii() and name.isdigit() and name[0] != "0" and len(name) < 19 else None


def _inner(folder: _Folder, files: ArrivalFiles) -> tuple[Format, Recognition]:
    """The format of the version's own files. Raises Refused where there is none."""
    from studio.formats.registry import recognise

    backend = folder.config.backend
    if backend in _ELSEWHERE:
        what, fix = _ELSEWHERE[backend]
        raise Refused(f"The Triton folder '{folder.root.name}' {what}.", f"Its {CONFIG} names that backend.", fix)
    model_files = folder.files(files)
    try:
        return recognise(model_files)
    except Refused as error:
        said = f" {CONFIG} names the backend '{backend}'." if backend else ""
        raise Refused(
            f"Version {folder.version} of the Triton folder '{folder.root.name}' holds no model that Studio knows.",
            f"{error.what}{said}",
            error.fix,
        ) from error


def _told(config: TritonConfig, signature: Signature) -> tuple[str, ...]:
    found = differences(config, signature)
    if not found:
        return ()
    more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
    return (f"{CONFIG} and the graph differ: {'; '.join(found[:4])}{more}. The graph decides.",)


def _labels(folder: _Folder, files: ArrivalFiles) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The class labels of the one output that has some, and a note where they can not be read."""
    named = [one for one in folder.config.outputs if one.labels]
    if len(named) != 1:
        return (), (f"{CONFIG} names labels for {len(named)} outputs; none were taken.",) if named else ()
    path = folder.root / named[0].labels
    if path not in files.content:  # also whatever leads out of the folder
        return (), (f"The labels file '{named[0].labels[:100]}' is not in the Triton folder.",)
    try:
        with path.open("rb") as file:
            lines = file.read(_LARGEST_LABELS).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return (), (f"The labels file '{path.name}' is no readable text.",)
    labels = tuple(line.strip() for line in lines)
    while labels and not labels[-1]:
        labels = labels[:-1]
    return (labels, ()) if len(labels) <= _MOST_LABELS else ((), (f"'{path.name}' has too many lines for labels.",))


class _TritonKit:
    """A kit that knows what the configuration says of inputs, where the user said nothing of them."""

    def __init__(self, kit: Kit, config: TritonConfig, samples: bool) -> None:
        self._kit, self._inputs, self._samples = kit, {one.name: one for one in config.inputs}, samples

    @property
    def settings(self) -> ModelSettings:
        said = self._kit.settings
        if said.inputs:
            return said
        known = {
            name: InputSettings(shape=_dims(one), datatype=one.datatype)
            for name, one in self._inputs.items()
            if one.shape and all(size != 0 for size in one.shape)
        }
        return replace(said, inputs=known)

    def trust(self, code: tuple[CodeFile, ...], why: str = "") -> None:
        self._kit.trust(code, why)

    @property
    def threads(self) -> int:
        return self._kit.threads

    def report(self, progress: float | None, detail: str) -> None:
        self._kit.report(progress, detail)

    def signature(self, graph: Path) -> Signature:
        return self._kit.signature(graph)

    def runs(self, signature: Signature, ranges: Mapping[str, Bounds] | None = None) -> Iterator[tuple[Feed, ...]]:
        if not self._samples:
            signature = replace(signature, inputs=tuple(self._sized(spec) for spec in signature.inputs))
        return self._kit.runs(signature, ranges)

    def _sized(self, spec: TensorSpec) -> TensorSpec:
        """Free sizes but the leading one as the configuration has them, where it fits."""
        said = self._inputs.get(spec.name)
        if said is None or len(said.shape) != len(spec.shape) or not spec.shape:
            return spec
        both = zip(said.shape, spec.shape, strict=True)
        dims = [size if isinstance(dim, str) and size > 0 else dim for size, dim in both]
        return replace(spec, shape=(spec.shape[0], *dims[1:]))

    def run(self, graph: Path, runs: tuple[Feed, ...], optimised: bool = True) -> list[Feed]:
        return self._kit.run(graph, runs, optimised)


def _dims(said: Declared) -> tuple[Dim, ...]:
    names = ("batch", *(f"{said.name}_{place}" for place in range(1, len(said.shape))))
    return tuple(size if size > 0 else name for size, name in zip(said.shape, names, strict=True))


FORMAT = TritonFormat()
