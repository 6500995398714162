"""Rows of CSV as values for a model's inputs."""

from __future__ import annotations

import io
from math import isinf
from typing import Any

from studio.core.errors import InvalidInput
from studio.core.routing import Target
from studio.core.tensors import FLOATS, TensorSpec
from studio.serving.protocols.oip_infer import MAX_BATCH
from studio.serving.texts import is_text

MAX_CELL = 2**31 - 1
"""Characters of a cell: a body is not that long. The reader's own limit would refuse long texts."""

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def read(text: str, target: Target, specs: list[TensorSpec]) -> tuple[dict[str, list[Any]], int]:
    """Values by input name, and the number of rows. A first row that is no data names the columns.

    One input takes the rows as they are; several take a column each. Columns that nothing wants are left out.
    Raises InvalidInput.
    """
    import csv

    csv.field_size_limit(MAX_CELL)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True, strict=True) if row]
    except csv.Error as error:
        raise InvalidInput("The CSV can not be read.", f"{error}.") from None
    if not rows or len(rows) > MAX_BATCH + 1:
        raise InvalidInput(f"CSV of 1 to {MAX_BATCH} rows is expected.")
    width = len(rows[0])
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise InvalidInput(f"Row {number} of the CSV has {len(row)} values, the first has {width}.")
    wanted = _wanted(target, specs)
    header = _header(rows, wanted, specs)
    data = rows[1:] if header else rows
    if not data:
        raise InvalidInput("The CSV has a header and no rows.")
    order = [header.index(name) for name in wanted] if header and wanted else list(range(width))
    columns = [[row[place].strip() for row in data] for place in order]
    if len(specs) == 1:
        cells = [typed(list(row), specs[0]) for row in zip(*columns, strict=True)]
        if len(specs[0].shape) == 1 and (len(columns) == 1 or len(data) == 1):
            cells = [cell for row in cells for cell in row]
        return {specs[0].name: cells}, len(data)
    if len(columns) != len(specs):
        names = ", ".join(f"'{spec.name}'" for spec in specs)
        raise InvalidInput(f"The CSV has {width} columns, and '{target.model}' takes {len(specs)}: {names}.")
    values = {
        spec.name: column if is_text(target, spec) else typed(column, spec)
        for spec, column in zip(specs, columns, strict=True)
    }
    return values, len(data)


def _wanted(target: Target, specs: list[TensorSpec]) -> list[str]:
    """Names of the columns in their order, where they are known."""
    if len(specs) > 1:
        return [spec.name for spec in specs]
    how = target.preprocessing.get(specs[0].name)
    return list(how.columns) if how is not None else []


def _header(rows: list[list[str]], wanted: list[str], specs: list[TensorSpec]) -> list[str]:
    """The first row where it names the columns, else nothing."""
    first = [cell.strip() for cell in rows[0]]
    if wanted and set(first) >= set(wanted):
        twice = [name for name in wanted if first.count(name) > 1]
        if twice:
            raise InvalidInput(f"The CSV's header has '{twice[0]}' twice.", "", "Name each column once.")
        return first
    numeric = any(spec.datatype != "BYTES" for spec in specs)
    boolean = any(spec.datatype == "BOOL" for spec in specs)
    if numeric and len(rows) > 1 and any(first) and not any(_is_value(cell, boolean) for cell in first):
        missing = [name for name in wanted if name not in first]
        if missing:
            raise InvalidInput(f"The CSV's header lacks '{missing[0]}'.")
        return first
    return []


def _is_value(cell: str, boolean: bool) -> bool:
    """Whether a cell is no name: a number or, where the model takes them, true or false."""
    try:
        float(cell)
    except ValueError:
        return boolean and cell.lower() in _BOOLEANS
    return True


def typed(cells: list[str], spec: TensorSpec) -> list[Any]:
    """Cells as the input's datatype wants them; an empty cell of floats is NaN, as tables mean it."""
    if spec.datatype == "BYTES":
        return list(cells)
    return [_value(cell, spec) for cell in cells]


def _value(cell: str, spec: TensorSpec) -> Any:
    try:
        if spec.datatype == "BOOL":
            return _BOOLEANS[cell.lower()]
        # Python takes 1_5 for 15, and the digits of any script.
        if "_" in cell or not cell.isascii():
            raise ValueError
        if spec.datatype not in FLOATS:
            return int(cell)
        number = float(cell or "nan")
    except (KeyError, ValueError):
        raise InvalidInput(f"'{cell[:40]}' is no {spec.datatype}, which '{spec.name}' takes.") from None
    if isinf(number) and "f" not in cell.lower():  # digits, and not the word
        raise InvalidInput(f"'{cell[:40]}' is out of the range of {spec.datatype}, which '{spec.name}' takes.")
    return number
