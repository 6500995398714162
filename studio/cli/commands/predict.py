"""predict: one call of the endpoint."""

from __future__ import annotations

import json
import sys
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from studio.cli.output import emit, is_terminal
from studio.cli.session import Session, command, complete_reference, pass_session
from studio.client import Client
from studio.core.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

Inputs = dict[str, Any]


@command("predict", short_help="Ask the endpoint for a prediction.")
@click.argument("reference", metavar="REF", shell_complete=complete_reference)
@click.option(
    "--input", "-i", "inputs", multiple=True, metavar="[NAME=]VALUE", help="JSON, or @FILE with .npy, .npz or .json."
)
@click.option("--sample", is_flag=True, help="Send one of the version's own samples.")
@click.option("--key", default="", metavar="TEXT", help="Who asks: a split keeps them with one version.")
@pass_session
def predict(session: Session, reference: str, inputs: tuple[str, ...], sample: bool, key: str) -> None:
    """Ask the endpoint for REF's answer. Rows come first: one image is [[...]].

    Without --input or --sample, JSON is read from stdin: {"NAME": rows}, an Open Inference Protocol request, or the
    bare rows where the model has one input.
    """
    if sample and inputs:
        raise click.UsageError("Choose --sample or --input.")
    if not (sample or inputs) and is_terminal(sys.stdin):
        raise click.UsageError("Give --input NAME=@FILE or --sample, or pipe JSON in.")
    client = session.client()
    if sample:
        given = from_json(client.call(reference).body, "sample")
    elif inputs:
        given = from_options(inputs)
    else:
        given = from_json(sys.stdin.read(), "stdin")
    answer = client.predict(reference, _named(client, reference, given), key)
    plain = {name: _plain(array) for name, array in answer.items()}
    emit(session, {"reference": reference, "outputs": plain}, lambda: outputs_text(answer))


def from_options(options: tuple[str, ...]) -> Any:
    """The inputs that `--input` options give. A single one may leave its name out."""
    found: Inputs = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not equals or name.lstrip().startswith(("@", "[", "{")):
            name, value = "", text
        content = from_file(Path(value[1:])) if value.startswith("@") else from_json(value, f"--input {name or text}")
        if name and isinstance(content, dict):  # one array of several in a file
            if name not in content:
                held = ", ".join(content) or "nothing"
                raise InvalidInput(f"{value[1:]} holds no '{name}'.", f"It holds {held}.", "Name one of these.")
            found[name] = content[name]
        elif name:
            found[name] = content
        elif isinstance(content, dict):
            found |= content
        elif len(options) == 1:
            return content
        else:
            raise InvalidInput(f"--input {text[:60]} has no name.", "There are several inputs.", "Write NAME=VALUE.")
    return found


def from_file(path: Path) -> Any:
    """The content of a .npy, .npz or .json file. Raises InvalidInput; nothing in the file is executed."""
    import numpy as np

    try:
        if path.suffix == ".json":
            return from_json(path.read_text(), str(path))
        loaded = np.load(path, allow_pickle=False)
        if not hasattr(loaded, "files"):
            return loaded
        # The labels of a samples file are no input of the model.
        return {name: loaded[name] for name in loaded.files if name != "labels"}
    except OSError as error:
        raise InvalidInput(f"{path} can not be read.", f"{error.strerror or error}.") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if _holds_arrays(path):  # numpy's own words would have the user load pickles
            raise InvalidInput(
                f"{path} holds Python objects, or is damaged.",
                "Studio loads plain arrays of numbers, truth values and texts, because loading objects runs code.",
                "Save it again: numpy.save('rows.npy', array.astype('float32')), or 'U' for texts.",
            ) from error
        raise InvalidInput(f"{path} is not a .npy, .npz or .json file.", fix="Save it with numpy.save.") from error


def _holds_arrays(path: Path) -> bool:
    """Whether a file begins as numpy writes them: .npy by its own mark, .npz as a zip archive."""
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x93NUMPY", b"PK\x03\x04"))


def from_json(text: str, where: str) -> Any:
    """Inputs from JSON: bare rows, {"NAME": rows}, or an Open Inference Protocol request."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"The JSON of {where} is unreadable.", f"{error}.") from error
    if isinstance(value, dict) and isinstance(value.get("inputs"), list):
        return _from_protocol(value["inputs"], where)
    if isinstance(value, dict) and isinstance(value.get("inputs"), dict) and len(value) == 1:
        return value["inputs"]
    return value


def _from_protocol(entries: list[Any], where: str) -> Inputs:
    from studio.client.predict import as_datatype

    try:
        return {
            entry["name"]: as_datatype(entry["name"], entry["data"], entry["datatype"]).reshape(entry["shape"])
            for entry in entries
        }
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}."
        raise InvalidInput(f"{where} is not an inference request.", why) from error


def _named(client: Client, reference: str, given: Any) -> Inputs:
    """Bare rows are the model's one input."""
    if isinstance(given, dict):
        return given
    from studio.client.predict import declared_inputs

    declared = declared_inputs(client.status().server.url, reference)
    if len(declared) != 1:
        raise InvalidInput(
            f"{reference} takes {len(declared)} inputs.",
            f"They are {', '.join(declared)}; what was given has no name.",
            'Name them: {"NAME": rows} or --input NAME=VALUE.',
        )
    return {next(iter(declared)): given}


def _plain(array: np.ndarray[Any, Any]) -> Any:
    values = array.astype("float32") if array.dtype.name == "bfloat16" else array
    return _words(values.tolist())


def _words(value: Any) -> Any:
    """Nested lists with byte strings as text."""
    if isinstance(value, list):
        return [_words(item) for item in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def outputs_text(answer: dict[str, np.ndarray[Any, Any]]) -> str:
    """Every output with its datatype and shape; long ones are cut in the middle."""
    import numpy as np

    parts = []
    for name, array in answer.items():
        shape = " × ".join(map(str, array.shape)) or "scalar"
        shown = np.array2string(array, max_line_width=100, precision=6, suppress_small=True, threshold=400)
        parts.append(f"{name}  {array.dtype.name} [{shape}]\n{shown}")
    return "\n\n".join(parts)


COMMANDS = (predict,)
