"""Putting weights into a network: finding them in a checkpoint, and what its trainer wrote before their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from studio.core.errors import InvalidInput, Refused

State = dict[str, torch.Tensor]

# Under which names trainers keep the weights, likeliest first; those of an average come last.
_PLACES = ("state_dict", "model_state_dict", "model", "net", "module", "network", "weights", "params")
_SHOWN = 5
_COUNTERS = ("num_batches_tracked", "position_ids", "_extra_state")  # they change nothing of what a network answers


@dataclass(frozen=True)
class _Fit:
    """A way to read a state: `names` of the network by those of the file, those left over, and what was taken off."""

    place: str
    state: State
    names: dict[str, str]
    prefix: str
    left: tuple[str, ...]


def states(loaded: Any) -> dict[str, State]:
    """All sets of weights in what was loaded, by the place that they have in it."""
    found: dict[str, State] = {}
    for place, table in _tables(loaded, ""):
        tensors = {str(key): value for key, value in table.items() if isinstance(value, torch.Tensor)}
        if tensors and len(tensors) >= len(table) / 2:
            found[place] = tensors
    ranked = {place: rank for rank, place in enumerate(_PLACES)}
    return dict(
        sorted(found.items(), key=lambda item: ranked.get(item[0].rpartition(".")[2], len(ranked) * bool(item[0])))
    )


def _tables(value: Any, place: str, depth: int = 0) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    if not isinstance(value, Mapping) or depth > 3:
        return
    yield place, value
    for key, inner in value.items():
        if "optim" not in str(key):
            yield from _tables(inner, f"{place}.{key}".lstrip("."), depth + 1)


def put(module: Any, found: Mapping[str, State], file: str, factory: str) -> tuple[str, ...]:
    """Load the set of weights that fits best, and tell what was done to it.

    Raises InvalidInput naming weights that are missing, left over, or of another shape.
    """
    expected: State = dict(module.state_dict())
    if not expected:
        return ("Its network has no weights of its own; those of the file are not used.",)
    fits = [fit for place, state in found.items() for fit in _fits(place, state, expected)]
    best = max(fits, key=lambda fit: len(fit.names), default=None)
    if best is None:
        raise Refused(f"There are no weights in '{file}'.", "Neither it nor what it contains is a state_dict.")
    _check(best, module, expected, file, factory)
    loaded = {own: best.state[name] for own, name in best.names.items()}
    hollow = any(tensor.is_meta for tensor in expected.values())
    with torch.no_grad():
        module.load_state_dict(loaded, strict=False, assign=hollow)
    return tuple(_notes(best, expected))


def _fits(place: str, state: State, expected: State) -> Iterator[_Fit]:
    """A state under every prefix with which one of its names becomes one of the network's, or the other way round."""
    probes = [name for name in expected if not name.endswith(_COUNTERS)][:3] or list(expected)[:1]
    prefixes = {""}
    for probe in probes:
        prefixes.update(name[: -len(probe)] for name in state if name.endswith(f".{probe}"))
        prefixes.update(f"+{probe[: -len(name)]}" for name in state if probe.endswith(f".{name}"))
    for prefix in sorted(prefixes, key=len):
        if prefix.startswith("+"):
            names = {f"{prefix[1:]}{name}": name for name in state}
        else:
            names = {name[len(prefix) :]: name for name in state if name.startswith(prefix)}
        known = {own: name for own, name in names.items() if own in expected}
        left = tuple(name for own, name in names.items() if own not in expected)
        yield _Fit(place, state, known, prefix, left)


def _check(fit: _Fit, module: Any, expected: State, file: str, factory: str) -> None:
    faults: list[str] = []
    missing = [name for name in expected if name not in fit.names and not name.endswith(_COUNTERS)]
    missing = [name for name in missing if not _tied(module, name, fit.names)]
    if missing:
        faults.append(f"Missing in the file ({len(missing)}): {_some(missing)}.")
    left = [name for name in fit.left if not name.endswith(_COUNTERS) and fit.state[name].is_floating_point()]
    if left:
        faults.append(f"Left over ({len(left)}): {_some(left)}.")
    for own, name in fit.names.items():
        have, want = fit.state[name], expected[own]
        if have.shape != want.shape:
            faults.append(f"{own} is {_sized(have)} in the file, and {_sized(want)} in the network.")
        elif want.is_floating_point() and not have.is_floating_point():
            faults.append(f"{own} is quantized in the file ({str(have.dtype).removeprefix('torch.')}).")
    if faults:
        more = [f"And {len(faults) - _SHOWN} more differ."] if len(faults) > _SHOWN else []
        raise InvalidInput(
            f"The weights of '{file}' do not fit the network that {factory} makes.",
            " ".join(faults[:_SHOWN] + more),
            "Let model() build the network from which these weights were saved, with the same sizes.",
        )


def _tied(module: Any, name: str, names: Mapping[str, str]) -> bool:
    """Whether a weight is the same memory as one that is there: safetensors keep shared ones once."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    own = parameters.get(name)
    return own is not None and any(parameters.get(other) is own for other in names)


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:100] for name in names[:_SHOWN]) + more


def _sized(tensor: torch.Tensor) -> str:
    return f"[{' × '.join(map(str, tensor.shape))}]"


def _notes(fit: _Fit, expected: State) -> Iterator[str]:
    if fit.place:
        yield f"The weights are those under '{fit.place[:100]}'."
    if fit.prefix and not fit.prefix.startswith("+"):
        yield f"'{fit.prefix[:100]}' was taken off their names."
        outside = len(fit.state) - len(fit.names) - len(fit.left)
        if outside:
            yield f"Weights without it were not used: {outside}."
    kinds = {fit.state[name].dtype for own, name in fit.names.items() if expected[own].dtype == torch.float32}
    small = sorted(str(kind).removeprefix("torch.") for kind in kinds - {torch.float32} if kind.is_floating_point)
    if small:
        yield f"Weights in {' and '.join(small)} are computed with in 32 bits."
