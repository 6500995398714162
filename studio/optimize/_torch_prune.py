"""Taking whole channels out of a torch module, together with all that is coupled to them. Imports torch.

A channel of one layer is an input of the next, and where branches are added, a channel of both. torch-pruning follows
these couplings through one run of the module (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023); what
is chosen, and whether the module still runs afterwards, is seen to here.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from studio.core.errors import Refused

_PRUNABLE = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
_ROUND = 4  # channels are left in multiples of it: processors compute on four or eight numbers at once
_FEWEST = 8  # a layer with fewer channels is left alone

Tensors = tuple[torch.Tensor, ...]
Loss = Callable[[Any], torch.Tensor]
"""The loss of a module on rows to train with: what 'taylor' asks which channels matter to."""


@dataclass(frozen=True)
class Pruned:
    """A smaller module, as it is before any training. `channels`: before and after, over the layers that were pruned.

    `macs`: multiplications and additions for one row, before and after; `parameters` likewise. `left`: layers with
    channels that had to stay.
    """

    module: Any
    layers: int
    left: int
    channels: tuple[int, int]
    macs: tuple[int, int]
    parameters: tuple[int, int]


@dataclass
class _Done:
    layers: int = 0
    before: int = 0
    after: int = 0


def prune(module: Any, example: Tensors, amount: float, importance: str, loss: Loss) -> Pruned:
    """A copy of `module` without the share `amount` of the channels of each layer, those that matter least.

    `importance`: 'l1' or 'l2', the size of a channel's weights over all layers that compute it; 'taylor', how much the
    loss would change, |Σ weight · gradient| (Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR
    2019). Layers whose channels are outputs of the module stay, and so does what the module does not run without.
    Raises Refused when nothing can be taken out.
    """
    module = _copy(module)
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    shapes = [tuple(tensor.shape) for tensor in _run(module, example)]
    if importance == "taylor":
        module.zero_grad()
        loss(module).backward()
    score = _SCORES[importance]
    try:
        with _quiet():
            names = _roots(module, example)
            macs, size = _counted(module, example)
    except Exception as error:  # it follows what it knows, and says of the rest whatever Python says
        raise Refused(
            "Which of its channels belong together could not be found out.",
            f"{type(error).__name__}: {_first_line(error)}.",
            "The distilled and pruned recipes are for networks of convolutions and linear layers.",
        ) from error
    # Most often it is the layer that ran last whose channels are the outputs; else each layer is tried alone.
    smaller, done = _without(module, example, names[1:], amount, score)
    if smaller is None or not _still(smaller, example, shapes):
        names = [name for name in names if _can_go(module, example, name, amount, score, shapes)]
        smaller, done = _without(module, example, names, amount, score)
        if smaller is None or not _still(smaller, example, shapes):
            raise Refused(
                "Channels of several of its layers can not go together.",
                "It runs without those of any one layer, and not without all of them.",
            )
    if not done.layers:
        raise Refused(
            "None of its layers can lose channels.",
            f"Layers with fewer than {_FEWEST} channels stay, and so do those whose channels are outputs, are cut into "
            "heads or groups, or have their number written into the model.",
        )
    smaller.zero_grad()
    with _quiet():
        macs_after, size_after = _counted(smaller, example)
    every = sum(isinstance(part, _PRUNABLE) for part in module.modules())
    return Pruned(
        module=smaller,
        layers=done.layers,
        left=every - done.layers,
        channels=(done.before, done.after),
        macs=(macs, macs_after),
        parameters=(size, size_after),
    )


def _copy(module: Any) -> Any:
    with _quiet():
        return copy.deepcopy(module)


def _run(module: Any, example: Tensors) -> Tensors:
    answer = module(*example)
    return (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)


def _graph(module: Any, example: Tensors) -> Any:
    import torch_pruning

    return torch_pruning.DependencyGraph().build_dependency(module, example, verbose=False)


def _roots(module: Any, example: Tensors) -> list[str]:
    """One layer of each set whose channels go together, by name, those that run last first."""
    names = {part: name for name, part in module.named_modules()}
    graph = _graph(module, example)
    ran: list[str] = []
    hooks = [
        part.register_forward_hook(lambda part, _in, _out: ran.append(names[part]))
        for part in module.modules()
        if isinstance(part, _PRUNABLE)
    ]
    try:
        with torch.no_grad():
            _run(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    last = {name: place for place, name in enumerate(ran)}
    found = []
    for group in graph.get_all_groups(root_module_types=list(_PRUNABLE)):
        members = [names[part] for part in _outputs_of(graph, group) if part in names]
        found.append((max((last.get(name, -1) for name in members), default=-1), names[group[0].dep.target.module]))
    return [name for _, name in sorted(found, reverse=True)]


def _outputs_of(graph: Any, group: Any) -> Iterator[Any]:
    """The layers that lose outputs with a group."""
    for dep, _ in group:
        if graph.is_out_channel_pruning_fn(dep.handler) and isinstance(dep.target.module, _PRUNABLE):
            yield dep.target.module


def _can_go(module: Any, example: Tensors, name: str, amount: float, score: Any, shapes: list[tuple[int, ...]]) -> bool:
    smaller, done = _without(module, example, [name], amount, score)
    return smaller is not None and done.layers > 0 and _still(smaller, example, shapes)


def _without(module: Any, example: Tensors, names: Sequence[str], amount: float, score: Any) -> tuple[Any, _Done]:
    """A copy without channels of these layers, and of those that they are coupled to. None where that fails."""
    smaller, done = _copy(module), _Done()
    for own, other in zip(smaller.parameters(), module.parameters(), strict=True):
        own.grad = other.grad
    try:
        with _quiet():
            graph = _graph(smaller, example)
            parts = dict(smaller.named_modules())
            for name in names:
                _shrink(graph, parts[name], amount, score, done)
    except Exception:  # torch-pruning and the module itself raise anything where a size does not fit
        return None, done
    return smaller, done


def _shrink(graph: Any, layer: Any, amount: float, score: Any, done: _Done) -> None:
    """Take channels out of one layer and all that is coupled to it."""
    remove = graph.get_pruner_of_module(layer).prune_out_channels
    count = graph.get_out_channels(layer)
    whole = graph.get_pruning_group(layer, remove, list(range(count)))
    if count < _FEWEST or any(_grouped(dep.target.module) for dep, _ in whole):
        return
    kept = count - int(count * amount)
    kept = min(count, -(-kept // _ROUND) * _ROUND)
    if kept == count:
        return
    scores = _scores(graph, whole, count, score)
    group = graph.get_pruning_group(layer, remove, torch.argsort(scores)[: count - kept].tolist())
    if not graph.check_pruning_group(group):
        return
    coupled = sum(1 for _ in _outputs_of(graph, group))
    group.prune()
    done.layers += coupled
    done.before += coupled * count
    done.after += coupled * kept


def _grouped(part: Any) -> bool:
    """Whether channels of a layer are computed in groups of several, which would have to stay of equal size."""
    if isinstance(part, torch.nn.modules.conv._ConvNd):
        return bool(1 < part.groups < part.out_channels)
    return isinstance(part, torch.nn.GroupNorm) and part.num_groups > 1


def _scores(graph: Any, group: Any, count: int, score: Any) -> torch.Tensor:
    """How much each channel matters, summed over the layers that compute it."""
    total = torch.zeros(count)
    for item in group:
        part = item.dep.target.module
        if not isinstance(part, _PRUNABLE) or not graph.is_out_channel_pruning_fn(item.dep.handler):
            continue
        weight = part.weight
        first = 1 if getattr(part, "transposed", False) else 0
        if weight.shape[first] < len(item.idxs) or len(item.root_idxs) != len(item.idxs):
            continue
        each = score(weight, first).detach()
        total.index_add_(0, torch.as_tensor(item.root_idxs), each[torch.as_tensor(item.idxs)] / max(each.mean(), 1e-12))
    return total


def _size(power: int) -> Any:
    def score(weight: torch.Tensor, axis: int) -> torch.Tensor:
        return weight.detach().transpose(0, axis).flatten(1).norm(power, dim=1)

    return score


def _taylor(weight: torch.Tensor, axis: int) -> torch.Tensor:
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
    return (weight.detach() * gradient).transpose(0, axis).flatten(1).sum(dim=1).abs()


_SCORES: dict[str, Any] = {"l1": _size(1), "l2": _size(2), "taylor": _taylor}


def _still(module: Any, example: Tensors, shapes: list[tuple[int, ...]]) -> bool:
    """Whether it runs, and gives what it gave before."""
    try:
        with torch.no_grad():
            answers = _run(module, example)
    except Exception:  # a size that the module has from elsewhere than its weights
        return False
    return [tuple(tensor.shape) for tensor in answers] == shapes


def _counted(module: Any, example: Tensors) -> tuple[int, int]:
    """Multiply-accumulates of one row, and the number of weights."""
    from torch_pruning.utils import count_ops_and_params

    macs, _ = count_ops_and_params(module, example)
    rows = max(1, example[0].shape[0]) if example[0].ndim else 1
    return int(macs) // rows, sum(parameter.numel() for parameter in module.parameters())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
