"""Looking into a .pt2 archive before PyTorch loads it, because loading one can run code in many ways:

    sample inputs, old weights    torch.export.load falls back to full unpickling when safe loading fails
    weights and constants         `use_pickle`, opaque and custom objects are unpickled
    sizes (`expr_str`)            evaluated as Python by sympy.sympify
    names, operators              put into the source text of the graph's forward(), looked up as `torch.….…`
    tree specifications           import modules for enums and default dictionaries

A file that needs none of these loads without a question; any other raises NeedsTrust that says what it would run. Tried
with the source of PyTorch 2.13: torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, NeedsTrust, Refused
from studio.formats.pickles.screen import code_file

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DOTTED = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_OPERATOR = re.compile(r"torch\.ops\.[a-z0-9_]+\.[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_SYMBOLIC = re.compile(r"torch\.sym_(int|float|ite|max|min|not|sqrt|sum)|math\.(ceil|floor|trunc|sqrt)")
_BUILTIN = re.compile(
    r"_operator\.(getitem|add|mul|sub|truediv|ge|le|gt|lt|eq|ne|floordiv|mod|and_|or_|not_|pow|neg|pos|abs|lshift|rshift)"
)
_NO_MODE = re.compile(r"torch\._C\._set_grad_enabled|torch\.amp\.autocast_mode\._(enter|exit)_autocast")
_TREE_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
# fmt: off
_SIZE_NAMES = frozenset({
    "Symbol", "Dummy", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "Eq", "Ne",
    "Equality", "Unequality", "Ge", "Gt", "Le", "Lt", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan",
    "And", "Or", "Not", "true", "false", "oo", "zoo", "floor", "ceiling", "Piecewise", "FloorDiv", "ModularIndexing",
    "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural",
    "FloatPow", "FloatTrueDiv", "IntTrueDiv", "ToFloat", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal",
    "IsNonOverlappingAndDenseIndicator", "Identity", "inf", "int_oo",
})
# fmt: on
_SIZE_NODES = (
    ast.Expression,
    ast.Call,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.keyword,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.Tuple,
)  # fmt: skip
_SIZE_TEXT = re.compile(r"[A-Za-z0-9_.+-]*")
_LARGEST_JSON = 512 * 1024 * 1024


def screen(path: Path) -> None:
    """Raises NeedsTrust when loading the archive would run code, Refused for compiled packages. Imports torch."""
    reader, names = _reader(path)
    if any(name.startswith("data/aotinductor/") for name in names):
        raise compiled(path)
    for name in names:
        if name.endswith((".pt", ".pth")):
            _check_pickle(path, name, reader.read_bytes(name))
        elif name.startswith(("data/weights/", "data/constants/")) and name.endswith(".json"):
            _check_payloads(path, _json(path, name, reader))
        elif name.startswith("models/"):
            _check_program(path, _json(path, name, reader))
        elif name.endswith((".so", ".pyd", ".dylib", ".py", ".cpp")):
            raise _needs_trust(path, f"the file {name} inside it")


def compiled(path: Path) -> Refused:
    """The words for a package of torch._inductor.aoti_compile_and_package."""
    return Refused(
        f"'{path.name}' is an AOTInductor package.",
        "It holds compiled native code, and no graph that could be converted or checked.",
        "Save the program itself: torch.export.save(exported_program, 'model.pt2').",
    )


def _reader(path: Path) -> tuple[Any, list[str]]:
    """PyTorch's own reader, and the names of what is in the archive."""
    from torch.export.pt2_archive._package import PT2ArchiveReader

    try:
        reader = PT2ArchiveReader(str(path))
        return reader, list(reader.get_file_names())  # which fails where an entry leads out of the archive
    except RuntimeError as error:
        words = re.sub(r"^\[enforce fail at [^]]*\][ .]*", "", str(error).splitlines()[0])
        raise InvalidInput(
            f"'{path.name}' is no readable .pt2 archive.", f"{words[:300]}.", "Save it again."
        ) from error


def _needs_trust(path: Path, what: str) -> NeedsTrust:
    return NeedsTrust(
        (code_file(path, (what[:400],)),),
        f"torch.export.save writes only tensors and operators of PyTorch; this file holds more: {what[:400]}.",
    )


def _json(path: Path, name: str, reader: Any) -> Any:
    data = reader.read_bytes(name)
    if len(data) > _LARGEST_JSON:
        raise InvalidInput(f"'{path.name}' is damaged: {name} is {len(data)} bytes long.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"'{path.name}' is damaged: {name} is not valid JSON.", f"{error}.") from error


def _check_pickle(path: Path, name: str, data: bytes) -> None:
    import torch

    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # the restricted unpickler raises whatever the bytes lead it to
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"'{named[1]}'" if named else "objects that are no tensors"
        raise _needs_trust(path, f"{what} in {name}") from error


def _check_payloads(path: Path, config: Any) -> None:
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise InvalidInput(f"'{path.name}' is damaged: a list of weights is not as expected.")
    for name, entry in entries.items():
        place = entry.get("path_name") if isinstance(entry, dict) else None
        if not isinstance(place, str) or not _DOTTED.fullmatch(place):
            raise InvalidInput(f"'{path.name}' is damaged: the weights '{name[:100]}' have no place in it.")
        if entry.get("use_pickle"):
            raise _needs_trust(path, f"the pickled object '{name[:100]}'")
        if not place.startswith(("weight_", "tensor_")):
            raise _needs_trust(path, f"the custom object '{name[:100]}' ({place})")
        if not _DOTTED.fullmatch(name):
            raise _needs_trust(path, f"the name {name[:200]!r}")


def _check_program(path: Path, program: Any) -> None:
    for key, value in _strings(program):
        if key == "expr_str" and not _is_size(value):
            raise _needs_trust(path, f"the size {value!r}")
        if key == "target" and not _is_operator(value):
            raise _needs_trust(path, f"the operator {value!r}")
        if key in ("name", "as_name") and value and not _NAME.fullmatch(value):
            raise _needs_trust(path, f"the name {value!r}")
        if key.endswith("_name") and value and not _DOTTED.fullmatch(value):
            raise _needs_trust(path, f"the name {value!r}")
        if key in ("in_spec", "out_spec") and value:
            _check_tree(path, value)


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Every string with the key it stands under, except in `metadata`, which is shown to people and never run."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, here = stack.pop()
        if isinstance(here, str):
            yield key, here
        elif isinstance(here, list):
            stack.extend((key, item) for item in here)
        elif isinstance(here, dict):
            stack.extend((name, item) for name, item in here.items() if name != "metadata")


def _is_operator(target: str) -> bool:
    # Buffers and inputs have a `target` as well: the dotted name of what they replace.
    if any(pattern.fullmatch(target) for pattern in (_OPERATOR, _SYMBOLIC, _BUILTIN, _NO_MODE)):
        return not target.startswith(("torch.ops.load_", "torch.ops.import_"))
    return bool(_DOTTED.fullmatch(target)) and not target.startswith(("torch", "_operator", "math", "#"))


def _is_size(text: str) -> bool:
    """Whether it is arithmetic on symbols, as torch.export writes it: "Symbol('s40', positive=True, integer=True)"."""
    if len(text) > 20_000:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _SIZE_NODES):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _SIZE_NAMES):
            return False
        if isinstance(node, ast.Name) and node.id not in _SIZE_NAMES and not re.fullmatch(r"[a-z]{1,4}\d+", node.id):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not _SIZE_TEXT.fullmatch(node.value):
            return False
    return True


def _check_tree(path: Path, text: str) -> None:
    try:
        spec = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"'{path.name}' is damaged: the structure of its inputs is not readable.") from error
    for key, value in _strings(spec):
        if (key == "type" and value not in _TREE_TYPES) or "__enum__" in value:
            raise Refused(
                f"'{path.name}' takes or gives Python objects ({value[:100]}).",
                "An endpoint takes and gives tensors, alone or in tuples, lists and dictionaries.",
                "Wrap the model in a module whose forward takes and returns tensors, and export that.",
            )


@contextmanager
def no_pickles(path: Path) -> Iterator[None]:
    """While it holds, torch loads nothing but tensors: what the screen may have missed still raises NeedsTrust."""
    import pickle

    import torch

    safe, loads, load_object = torch.load, pickle.loads, torch._C._pickle_load_obj

    def only_weights(*args: Any, **more: Any) -> Any:
        if more.get("weights_only") is False:
            raise _needs_trust(path, "a pickle that is no tensor")
        return safe(*args, **{**more, "weights_only": True})

    def never(*_args: Any, **_more: Any) -> Any:
        raise _needs_trust(path, "a pickled object")

    torch.load, pickle.loads, torch._C._pickle_load_obj = only_weights, never, never
    try:
        yield
    finally:
        torch.load, pickle.loads, torch._C._pickle_load_obj = safe, loads, load_object
