"""Recorded requests as samples: one file of rows that fit a signature, without doubles."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from studio.core.errors import InvalidInput
from studio.core.recording import part_of
from studio.core.rows import RowLayout, row_layout
from studio.core.tensors import Signature
from studio.verify.evidence import FEWEST_ROWS
from studio.verify.inputs import load_samples, pick_rows, row_count, row_digests
from studio.verify.session import Array, Feed

MOST_ROWS = 5000
"""More would only take longer: judging stops after a time."""

_Sizes = tuple[tuple[int, ...], ...]


def captured_samples(folder: Path, signature: Signature, out: Path) -> int:
    """Write what was recorded in `folder` and fits the signature to `out`, as sample inputs; returns the rows.

    Newest files first. Of a model whose rows differ in size (texts of many lengths), those of the commonest sizes. 0,
    and no file, where there are fewer than 16 rows: made-up inputs show as much.
    """
    layout = row_layout(signature)
    if layout is None:
        return 0
    groups: dict[_Sizes, list[Feed]] = {}
    seen: set[bytes] = set()
    for feed in _feeds(folder, signature):
        new = _unseen(layout, feed, seen)
        if new is not None:
            sizes = tuple(new[spec.name].shape[1:] for spec in signature.inputs if spec.name in layout.names)
            groups.setdefault(sizes, []).append(new)
    if not groups:
        return 0
    best = max(groups.values(), key=lambda feeds: sum(row_count(layout, feed) for feed in feeds))
    # What has no rows, a threshold for one, is as it was in the newest request.
    joined = {
        name: np.concatenate([feed[name] for feed in best])[: MOST_ROWS * layout.length]
        if name in layout.names
        else best[0][name]
        for name in best[0]
    }
    rows = row_count(layout, joined)
    if rows < FEWEST_ROWS:
        return 0
    out.touch(mode=0o600)
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in joined.items():
            # Without the time of writing: the same rows are the same file, whose variants are known already.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _plain(array), allow_pickle=False)
    return rows


def _feeds(folder: Path, signature: Signature) -> Iterator[Feed]:
    for path in sorted(folder.glob("*.npz"), reverse=True):
        # A later version may take other inputs: what does not fit this one is passed over.
        if part_of(path.name) is not None:
            try:
                yield load_samples(path, signature).inputs
            except InvalidInput:
                continue


def _unseen(layout: RowLayout, feed: Feed, seen: set[bytes]) -> Feed | None:
    """The rows that are in no other file: several processes of a server record without knowing of each other."""
    kept: list[Array] = []
    for number, digest in enumerate(row_digests(layout, feed, layout.rows)):
        if digest not in seen:
            seen.add(digest)
            kept.append(np.arange(number * layout.rows, (number + 1) * layout.rows))
    return pick_rows(layout, feed, np.concatenate(kept)) if kept else None


def _plain(array: Array) -> Array:
    if array.dtype == object:
        return array.astype(np.str_)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
