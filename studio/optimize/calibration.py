"""Ranges of activations, learnt from runs of real inputs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import Refused
from studio.optimize import graphs
from studio.optimize.base import Feed

METHODS = ("minmax", "percentile", "entropy")
_WILD = 1e30
"""Ranges beyond this hold a mask or an overflow, and no 8-bit number besides."""
# The tool's default for entropy, as many bins as levels, leaves it one candidate: the whole range. With more it is a
# method of its own, but slow, and worse than the whole range on every graph it was tried on.
_ENTROPY_BINS = 512


@dataclass(frozen=True)
class Ranges:
    """Lowest and highest value of each tensor, as the tool's TensorData; `wild`: tensors without a usable range."""

    by_tensor: dict[str, Any]
    wild: frozenset[str]

    def fresh(self) -> Any:
        """What a quantiser takes: a copy, since it moves the ranges in front of activations."""
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

        return TensorsData(CalibrationMethod.MinMax, dict(self.by_tensor))


def calibrate(
    path: Path,
    operators: Sequence[str],
    runs: Sequence[Feed],
    method: str,
    folder: Path,
    threads: int = 1,
    percentile: float = 99.999,
) -> Ranges:
    """Run the graph at `path` on `runs` and learn the ranges of all float tensors that `operators` read or give.

    `folder`: for files in between. Raises Refused where the graph does not run, or the method fails on its values.
    """
    import numpy as np

    calibrator = _calibrator(path, operators, method, folder, percentile)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the histograms' classes print what they do
            calibrator.augment_graph()
            calibrator.infer_session = _session(Path(calibrator.augmented_model_path), threads)
            for feed in runs:  # one by one: histograms would else hold every activation of every run in memory
                calibrator.collect_data(_Once(feed))
            found = calibrator.compute_data()
    except Exception as error:
        reason = graphs.first_line(error)
        fix = "Leave the method at 'minmax'." if method != "minmax" else "Look at the samples: do they run?"
        raise Refused(f"Calibrating with '{method}' failed.", reason, fix) from error
    wild = {
        name
        for name, data in found.items()
        if not all(np.isfinite(end).all() and (np.abs(end) < _WILD).all() for end in data.range_value)
    }
    return Ranges({name: data for name, data in found.items() if name not in wild}, frozenset(wild))


def _calibrator(path: Path, operators: Sequence[str], method: str, folder: Path, percentile: float) -> Any:
    from onnxruntime.quantization.calibrate import EntropyCalibrater, MinMaxCalibrater, PercentileCalibrater

    place = str(folder / "augmented.onnx")
    if method == "entropy":
        return EntropyCalibrater(path, operators, place, num_bins=_ENTROPY_BINS)
    if method == "percentile":
        return PercentileCalibrater(path, operators, place, percentile=percentile)
    return MinMaxCalibrater(path, operators, place)


def _session(path: Path, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _Once:
    """One run, as the calibrators read them."""

    def __init__(self, feed: Feed) -> None:
        self._left: Iterator[Feed] = iter((feed,))

    def get_next(self) -> Feed | None:
        return next(self._left, None)
