"""Batchable is what was seen: the rows of a batch equal single runs. Declared shapes lie too often to be believed."""

from __future__ import annotations

import numpy as np

from studio.core.errors import StudioError
from studio.core.rows import row_layout
from studio.verify.inputs import row_count, take_rows
from studio.verify.session import Array, Feed, Session, run, signature_of

BATCHES = (2, 5)
_RELATIVE = 1e-3  # of the output's largest value: kernels sum in another order for another batch


def rows_equal(session: Session, inputs: Feed) -> bool:
    """Whether the rows of batches of 2 and of 5 equal single runs within 1/1000 of each output's scale.

    `inputs`: arrays by input name, rows first; fewer than 5 rows are repeated. False also when the graph declares no
    free leading size, when a run fails, or when an output has no row for each input row.
    """
    layout = row_layout(signature_of(session))
    if layout is None or layout.unit > 1 or row_count(layout, inputs) < 1:
        return False
    try:
        single = [run(session, take_rows(layout, inputs, row, 1)) for row in range(max(BATCHES))]
        for batch in BATCHES:
            together = run(session, take_rows(layout, inputs, 0, batch))
            for name, rows in together.items():
                if np.ndim(rows) < 1 or len(rows) != batch:
                    return False
                if not all(_same(np.asarray(one[name]), rows[row : row + 1]) for row, one in enumerate(single[:batch])):
                    return False
    except StudioError:
        return False
    return True


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    left, right = one.astype(np.float64), other.astype(np.float64)
    scale = float(np.max(np.abs(left[np.isfinite(left)]), initial=0.0))
    return bool(np.allclose(left, right, rtol=_RELATIVE, atol=_RELATIVE * scale, equal_nan=True))
