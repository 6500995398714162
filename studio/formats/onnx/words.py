"""Why ONNX Runtime does not load a graph, in words that name the operator; and words for inputs it does not run on."""

from __future__ import annotations

import re
from typing import Any

from studio.core.errors import Refused, StepFailed, StudioError
from studio.core.names import keyword_arguments
from studio.formats.onnx.upgrade import limits, opset_of

_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_RUNTIME = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.preview.training")
_NOT_REGISTERED = re.compile(r"Fatal error: ([\w.]+):(\w+)\(")
_NO_KERNEL = re.compile(r"Could not find an implementation for (\w+)\((\d+)\)")


def explained(error: StudioError, model: Any) -> StudioError:
    """The error of a graph that ONNX Runtime does not load, with the operator at fault where one can be told."""
    if error.__cause__ is None:  # not the runtime's word: what can not be served, for example
        return error
    nodes = [node for nodes in _all_nodes(model) for node in nodes]
    own = {(function.domain, function.name) for function in model.functions}
    runtime = f"ONNX Runtime {limits().runtime}"
    for node in nodes:
        if node.domain not in (*_STANDARD, *_RUNTIME) and (node.domain, node.op_type) not in own:
            return Refused(
                f"The model uses the operator '{node.op_type}' of the domain '{node.domain}', "
                f"which {runtime} does not have.",
                "It belongs to a library of its own. Studio loads none, since a library runs any code it likes.",
                "Export the model with standard operators, or move that step into your app.",
            )
    unknown = _unknown_standard(nodes, model)
    if unknown is not None:
        return unknown
    text = str(error.__cause__)
    missing = _NOT_REGISTERED.search(text)
    if missing:
        return Refused(
            f"The model uses the operator '{missing[2]}' of the domain '{missing[1]}', which {runtime} does not have.",
            "Another version, or a build for another device, may have it.",
            "Export the model with standard operators, without optimising it for a device beforehand.",
        )
    kernel = _NO_KERNEL.search(text)
    if kernel:
        return Refused(
            f"{runtime} can not run the operator '{kernel[1]}' (of opset {kernel[2]}) on the CPU with the types "
            "that the model uses there.",
            "It has none for these types, or none of that version.",
            "Export it with 32-bit floats, or with a newer opset.",
        )
    return error


def _unknown_standard(nodes: list[Any], model: Any) -> Refused | None:
    import onnx

    for node in nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in _STANDARD:
            continue
        version = opset_of(model, ("", "ai.onnx") if domain == "" else (domain,))
        if onnx.defs.has(node.op_type, version, domain):
            continue
        name = f"opset {version}" if domain == "" else f"{domain} {version}"
        if onnx.defs.has(node.op_type, domain):
            first = onnx.defs.get_schema(node.op_type, domain).since_version
            return Refused(
                f"The model uses the operator '{node.op_type}', which {name} does not have.",
                f"It is defined in version {first}; the model says that it uses {version}.",
                "Export it again; whatever wrote this file gave it the wrong opset.",
            )
        return Refused(
            f"The model uses the operator '{node.op_type}', which is no operator of ONNX.",
            f"onnx {onnx.__version__} does not know it in any version.",
            "Export the model with standard operators; check the name if you built the graph by hand.",
        )
    return None


def _all_nodes(model: Any) -> list[Any]:
    found, stack = [], [model.graph, *model.functions]
    while stack:
        here = stack.pop()
        found.append(here.node)
        for node in here.node:
            for attribute in node.attribute:
                stack += [attribute.g] if attribute.HasField("g") else []
                stack += attribute.graphs
    return found


def did_not_run(first: StudioError, sets: int, stem: str, names: list[str]) -> StudioError:
    """The error of a model that runs on none of the made-up inputs. `first`: what it said of the likeliest ones."""
    if sets < 2:
        return first
    call = f"np.savez('{stem}.npz', {keyword_arguments(names[:3])})"
    return StepFailed(
        f"The model did not run on any of {sets} kinds of made-up inputs.",
        f"On the likeliest: {first.what} {first.why}",
        f"Drop typical inputs with it: {call}; or say what it takes in {stem}.toml: "
        f'[inputs."{names[0]}"] with shape = […] and range = [low, high].',
    )
