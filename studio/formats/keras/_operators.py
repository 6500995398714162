"""Layers of Keras written as the one operator that ONNX has for them, while a model is being exported. Imports keras.

On PyTorch, Keras computes recurrent layers step by step: a trace of it holds as many steps as the example had, for
ever. Batch normalisation it writes as four operations, which ONNX Runtime can not fold into the convolution before
them: a MobileNet answered in 2.0 ms, and in 1.0 ms as written here. Outside of an export nothing is changed, so that
graphs are compared with the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from keras import activations
from keras.src import backend
from torch.nn import functional


@contextmanager
def as_operators() -> Iterator[None]:
    """Inside, recurrent layers, batch and layer normalisation go through PyTorch's own functions."""
    places = [
        (backend, "lstm", _lstm),
        (backend, "gru", _gru),
        (backend.nn, "batch_normalization", _fused(backend.nn.batch_normalization)),
        (functional, "layer_norm", _with_numbers(functional.layer_norm)),
    ]
    kept = [(home, name, getattr(home, name)) for home, name, _ in places if hasattr(home, name)]
    try:
        for home, name, replacement in places:
            if hasattr(home, name):
                setattr(home, name, replacement)
        yield
    finally:
        for home, name, original in kept:
            setattr(home, name, original)


def _lstm(
    inputs: Any,
    initial_state_h: Any,
    initial_state_c: Any,
    mask: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    activation: Any,
    recurrent_activation: Any,
    return_sequences: bool = False,
    go_backwards: bool = False,
    **_: Any,
) -> Any:
    """Keras calls this for the loop of an LSTM, and does it step by step when NotImplementedError is raised."""
    _check_usual(mask, activation, recurrent_activation)
    rows = _steps(inputs, go_backwards)
    # Both order the gates as input, forget, cell, output.
    weights = _tensor(kernel).T.contiguous(), _tensor(recurrent_kernel).T.contiguous()
    offset = torch.zeros(weights[0].shape[0], dtype=weights[0].dtype) if bias is None else _tensor(bias)
    state = _tensor(initial_state_h)[None], _tensor(initial_state_c)[None]
    outputs, last, cell = torch.lstm(
        rows, state, [*weights, offset, torch.zeros_like(offset)], True, 1, 0.0, False, False, True
    )
    return last[0], outputs if return_sequences else last[0][:, None], [last[0], cell[0]]


def _gru(
    inputs: Any,
    initial_state: Any,
    mask: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    activation: Any,
    recurrent_activation: Any,
    return_sequences: bool = False,
    go_backwards: bool = False,
    unroll: bool = False,
    reset_after: bool = True,
    **_: Any,
) -> Any:
    """The same for a GRU. PyTorch has the variant that resets after the product alone."""
    if not reset_after:
        raise NotImplementedError
    _check_usual(mask, activation, recurrent_activation)
    rows = _steps(inputs, go_backwards)
    weights = _reset_first(kernel).T.contiguous(), _reset_first(recurrent_kernel).T.contiguous()
    zeros = torch.zeros(weights[0].shape[0], dtype=weights[0].dtype)
    offsets = (zeros, zeros) if bias is None else tuple(_reset_first(bias))
    outputs, last = torch.gru(
        rows, _tensor(initial_state)[None], [*weights, *offsets], True, 1, 0.0, False, False, True
    )
    return last[0], outputs if return_sequences else last[0][:, None], [last[0]]


def _reset_first(weight: Any) -> Any:
    update, reset, new = torch.chunk(_tensor(weight), 3, dim=-1)
    return torch.cat([reset, update, new], dim=-1)


def _check_usual(mask: Any, activation: Any, recurrent_activation: Any) -> None:
    if mask is not None or activation is not activations.tanh or recurrent_activation is not activations.sigmoid:
        raise NotImplementedError


def _steps(inputs: Any, backwards: bool) -> Any:
    rows = _tensor(inputs)
    return torch.flip(rows, dims=[1]) if backwards else rows


def _tensor(value: Any) -> Any:
    return backend.convert_to_tensor(value)


def _fused(original: Any) -> Any:
    def batch_normalization(
        x: Any, mean: Any, variance: Any, axis: int, offset: Any = None, scale: Any = None, epsilon: float = 1e-3
    ) -> Any:
        rows = _tensor(x)
        axis %= rows.ndim
        if axis == 0:  # the operator knows channels, and no other rows
            return original(x, mean, variance, axis, offset, scale, epsilon)
        order = [0, axis, *(place for place in range(1, rows.ndim) if place != axis)]
        normalised = functional.batch_norm(
            rows.permute(order),
            _tensor(mean),
            _tensor(variance),
            None if scale is None else _tensor(scale),
            None if offset is None else _tensor(offset),
            False,
            0.0,
            epsilon,
        )
        return normalised.permute([order.index(place) for place in range(rows.ndim)])

    return batch_normalization


def _with_numbers(layer_norm: Any) -> Any:
    """Keras reads the sizes off the traced input, which the exporter takes for unknown; they are always numbers."""

    def call(rows: Any, sizes: Any, *arguments: Any, **more: Any) -> Any:
        return layer_norm(rows, tuple(int(size) for size in sizes), *arguments, **more)

    return call
