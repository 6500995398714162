"""Tensor signatures. Datatype names are those of the Open Inference Protocol."""

from __future__ import annotations

from dataclasses import dataclass

# OIP datatype -> (numpy name, bytes an element; 0 where the size varies).
# Source: Open Inference Protocol, "Tensor Data Types"; BF16 is Triton's addition (ml_dtypes.bfloat16).
DATATYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 1),
    "UINT8": ("uint8", 1),
    "UINT16": ("uint16", 2),
    "UINT32": ("uint32", 4),
    "UINT64": ("uint64", 8),
    "INT8": ("int8", 1),
    "INT16": ("int16", 2),
    "INT32": ("int32", 4),
    "INT64": ("int64", 8),
    "FP16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "FP32": ("float32", 4),
    "FP64": ("float64", 8),
    "BYTES": ("object", 0),
}

FLOATS = ("FP16", "BF16", "FP32", "FP64")

# ONNX Runtime's type string -> OIP datatype.
ORT_TYPES: dict[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

NAMELESS = "?"
Dim = int | str
"""A fixed size, or the name of a size that the caller chooses (`batch`; `NAMELESS` where the model gives none)."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    datatype: str
    shape: tuple[Dim, ...]

    @property
    def wire_shape(self) -> list[int]:
        """The shape with -1 for every free dimension, as protocols print it."""
        return [dim if isinstance(dim, int) else -1 for dim in self.shape]

    def describe(self) -> str:
        dims = " × ".join(str(dim) for dim in self.shape) or "scalar"
        return f"{self.name} {self.datatype} [{dims}]"


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives.

    `batchable` is an observation, not a declaration: the rows of a batch were seen to equal single runs.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool = False
