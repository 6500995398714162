"""Programs of torch.export with their operators made layers again, so that they can be trained and pruned. Uses torch.

A program computes with `aten.conv2d(x, weight, bias, …)`, where whatever trains or prunes looks for an nn.Conv2d. Each
operator whose weights are the program's own becomes the layer that it came from; everything else stays as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Node

_aten = torch.ops.aten
Arguments = dict[str, Any]


def rebuilt(program: Any) -> Any:
    """The same module with layers; changes it. Its weights can be trained, and it is in evaluation mode."""
    graph = program.graph
    made: dict[tuple[Any, ...], str] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _LAYERS:
            _as_layer(program, node, made)
        elif node.target in _RESHAPES:
            _as_flatten(graph, node)
    graph.eliminate_dead_code()
    graph.lint()
    program.delete_all_unused_submodules()
    program.recompile()
    for tensor in program.parameters():
        if tensor.is_floating_point():
            tensor.requires_grad_(True)
    for name in ("train", "eval"):  # a program's own only raise
        program.__dict__.pop(name, None)
    return program.eval()


def _as_layer(program: GraphModule, node: Node, made: dict[tuple[Any, ...], str]) -> None:
    """One layer in place of an operator; the same one where the program uses the same weights in the same way."""
    given = _named(node)
    fields, weights, build = _LAYERS[node.target]
    names = {name: _own(program, given.get(field)) for name, field in weights.items()}
    if names.get("weight") is None or any(given.get(weights[name]) is not None for name in names if not names[name]):
        return
    settings = {name: value for name, value in given.items() if name not in (*weights.values(), *fields)}
    if any(isinstance(value, Node) for value in settings.values()):
        return
    key = (node.target, *names.values(), repr(settings))
    if key not in made:
        tensors = {name: _get(program, where) for name, where in names.items() if where}
        layer = build(tensors, settings)
        if layer is None:
            return
        for name, tensor in tensors.items():
            if name in layer._buffers:
                layer._buffers[name] = tensor.detach().clone()
            elif name in layer._parameters:
                layer._parameters[name] = _parameter(tensor)
        made[key] = f"layer_{len(made)}_{str(node.target).split('.')[1].strip('_')}"
        program.add_submodule(made[key], layer.eval())
    with node.graph.inserting_before(node):
        call = node.graph.call_module(made[key], tuple(given[field] for field in fields))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)


def _parameter(tensor: Any) -> Any:
    # The very same one, where the program holds a parameter: weights may be shared between layers.
    return tensor if isinstance(tensor, torch.nn.Parameter) else torch.nn.Parameter(tensor.detach().clone())


def _named(node: Node) -> Arguments:
    """An operator's arguments by name, with its defaults."""
    found: Arguments = {}
    for place, argument in enumerate(node.target._schema.arguments):
        if place < len(node.args):
            found[argument.name] = node.args[place]
        else:
            default = argument.default_value if argument.has_default_value() else None
            found[argument.name] = node.kwargs.get(argument.name, default)
    return found


def _own(program: GraphModule, value: Any) -> str:
    """Where the program holds a tensor; empty for what it computes, or takes."""
    return str(value.target) if isinstance(value, Node) and value.op == "get_attr" else ""


def _get(program: Any, where: str) -> Any:
    found = program
    for part in where.split("."):
        found = getattr(found, part)
    return found


def _conv(kind: str) -> Callable[[Mapping[str, Any], Arguments], Any]:
    def build(tensors: Mapping[str, Any], given: Arguments) -> Any:
        weight = tensors["weight"]
        sides = weight.ndim - 2
        transposed = bool(given.get("transposed", kind.startswith("ConvTranspose")))
        groups = int(given["groups"])
        name = f"Conv{'Transpose' * transposed}{sides}d"
        channels = (weight.shape[0], weight.shape[1] * groups)
        padding = given["padding"]
        more: Arguments = {"output_padding": _sides(given["output_padding"], sides)} if transposed else {}
        return getattr(torch.nn, name)(
            *(channels if transposed else channels[::-1]),
            tuple(weight.shape[2:]),
            stride=_sides(given["stride"], sides),
            padding=padding if isinstance(padding, str) else _sides(padding, sides),
            dilation=_sides(given["dilation"], sides),
            groups=groups,
            bias="bias" in tensors,
            **more,
        )

    return build


def _sides(value: Any, count: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(int(one) for one in (values * count if len(values) == 1 else values))


def _linear(tensors: Mapping[str, Any], _given: Arguments) -> Any:
    out, into = tensors["weight"].shape
    return torch.nn.Linear(into, out, bias="bias" in tensors)


def _batch_norm(tensors: Mapping[str, Any], given: Arguments) -> Any:
    if "running_mean" not in tensors or "running_var" not in tensors or given["training"] or "bias" not in tensors:
        return None
    # The number of dimensions is only checked by the three kinds of this layer, and the middle one is used for all.
    layer = _AnyBatchNorm(tensors["weight"].numel(), eps=given["eps"], momentum=given["momentum"])
    return layer


class _AnyBatchNorm(torch.nn.BatchNorm2d):  # type: ignore[misc]  # PyTorch is read without its types
    """Batch normalisation of any number of dimensions."""

    def _check_input_dim(self, input: Any) -> None:
        pass


def _layer_norm(tensors: Mapping[str, Any], given: Arguments) -> Any:
    return torch.nn.LayerNorm(list(given["normalized_shape"]), eps=given["eps"], bias="bias" in tensors)


def _group_norm(tensors: Mapping[str, Any], given: Arguments) -> Any:
    if "bias" not in tensors:
        return None
    return torch.nn.GroupNorm(given["num_groups"], tensors["weight"].numel(), eps=given["eps"])


def _prelu(tensors: Mapping[str, Any], _given: Arguments) -> Any:
    return torch.nn.PReLU(tensors["weight"].numel())


_WB = {"weight": "weight", "bias": "bias"}
# By operator: the arguments that stay inputs of the layer, the tensors that it holds by their argument, how it is made.
_LAYERS: dict[Any, tuple[tuple[str, ...], dict[str, str], Callable[[Mapping[str, Any], Arguments], Any]]] = {
    _aten.conv1d.default: (("input",), _WB, _conv("Conv")),
    _aten.conv2d.default: (("input",), _WB, _conv("Conv")),
    _aten.conv3d.default: (("input",), _WB, _conv("Conv")),
    _aten.conv1d.padding: (("input",), _WB, _conv("Conv")),
    _aten.conv2d.padding: (("input",), _WB, _conv("Conv")),
    _aten.convolution.default: (("input",), _WB, _conv("Conv")),
    _aten.conv_transpose1d.default: (("input",), _WB, _conv("ConvTranspose")),
    _aten.conv_transpose2d.input: (("input",), _WB, _conv("ConvTranspose")),
    _aten.linear.default: (("input",), _WB, _linear),
    _aten.batch_norm.default: (
        ("input",),
        {**_WB, "running_mean": "running_mean", "running_var": "running_var"},
        _batch_norm,
    ),
    _aten.layer_norm.default: (("input",), _WB, _layer_norm),
    _aten.group_norm.default: (("input",), _WB, _group_norm),
    _aten.prelu.default: (("self",), {"weight": "weight"}, _prelu),
}
_RESHAPES = (_aten.view.default, _aten.reshape.default)


def _as_flatten(graph: Any, node: Node) -> None:
    """A reshape that only joins neighbouring dimensions as one that says so, in place of sizes that pruning changes."""
    source = node.args[0]
    if not isinstance(source, Node):
        return
    before, after = (getattr(one.meta.get("val"), "shape", None) for one in (source, node))
    if before is None or after is None:
        return
    joined = len(before) - len(after)
    if joined < 0:
        return
    with contextlib.suppress(Exception):  # symbols that can not be compared: it stays as it was
        first = next((axis for axis, (a, b) in enumerate(zip(before, after, strict=False)) if a is not b and a != b), 0)
        tail = len(after) - first - 1
        if joined and all(
            a == b for a, b in zip(before[len(before) - tail :], after[len(after) - tail :], strict=True)
        ):
            last = len(before) - tail - 1
            with graph.inserting_before(node):
                flat = graph.call_function(_aten.flatten.using_ints, (source, first, last))
            flat.meta = dict(node.meta)
            node.replace_all_uses_with(flat)
            graph.erase_node(node)
