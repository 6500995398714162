"""Functions of numpy that estimators apply, as ONNX operators: FunctionTransformer, TransformedTargetRegressor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from studio.core.errors import Refused

_SAME = {
    "absolute": "Abs",
    "arccos": "Acos",
    "arcsin": "Asin",
    "arctan": "Atan",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "exp": "Exp",
    "fabs": "Abs",
    "floor": "Floor",
    "log": "Log",
    "negative": "Neg",
    "positive": "Identity",
    "reciprocal": "Reciprocal",
    "rint": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}
# Operators with a constant on their right; "self" is the input itself.
_CHAINS: dict[str, tuple[tuple[str, float | str | None], ...]] = {
    "log1p": (("Add", 1.0), ("Log", None)),
    "expm1": (("Exp", None), ("Sub", 1.0)),
    "log2": (("Log", None), ("Div", math.log(2))),
    "log10": (("Log", None), ("Div", math.log(10))),
    "exp2": (("Mul", math.log(2)), ("Exp", None)),
    "square": (("Mul", "self"),),
    "deg2rad": (("Mul", math.pi / 180),),
    "rad2deg": (("Mul", 180 / math.pi),),
}

Add = Callable[[str, list[str], Any], str]
"""Adds a node of a kind with inputs, and a constant as its last one where that is not None; gives the output's name."""


def name_of(function: Any) -> str | None:
    """The name of a function that has an ONNX form; "" for one that changes nothing; None for any other."""
    if function is None or _checks(function):
        return ""
    name = function.__name__ if isinstance(function, np.ufunc) else ""
    return name if name in _SAME or name in _CHAINS else None


def _checks(function: Any) -> bool:
    """HistGradientBoosting looks its columns over with check_array, which changes nothing."""
    inner = getattr(function, "func", None)
    return getattr(inner, "__name__", "") == "check_array" and getattr(inner, "__module__", "").startswith("sklearn.")


def apply(name: str, value: str, add: Add) -> str:
    """Add the nodes of a function by its name. Gives the name of its value."""
    if name in _SAME:
        return add(_SAME[name], [value], None)
    result = value
    for kind, right in _CHAINS.get(name, ()):
        result = add(kind, [result, value], None) if right == "self" else add(kind, [result], right)
    return result


def unknown(what: str, function: Any) -> Refused:
    """What to say of a function without an ONNX form."""
    known = ", ".join(f"numpy.{name}" for name in ("log1p", "expm1", "log", "exp", "sqrt", "square"))
    said = getattr(function, "__name__", None) or type(function).__name__
    return Refused(
        f"The {what} applies the function '{said}', which has no ONNX form.",
        f"Functions that have one are numpy's own, such as {known}.",
        "Use one of these, or apply the function before the model.",
    )


def convert_function_transformer(scope: Any, operator: Any, container: Any) -> None:
    """A converter for skl2onnx: FunctionTransformer with a function of numpy."""
    from skl2onnx.common._apply_operation import apply_concat, apply_identity

    function = operator.raw_operator.func
    name = name_of(function)
    if name is None:
        raise unknown("FunctionTransformer", function)
    value = operator.inputs[0].full_name
    if len(operator.inputs) > 1:
        value = scope.get_unique_variable_name("columns")
        apply_concat(scope, [one.full_name for one in operator.inputs], value, container, axis=1)
    double = type(operator.inputs[0].type).__name__.startswith("Double")

    def add(kind: str, inputs: list[str], right: Any) -> str:
        if right is not None:
            constant = scope.get_unique_variable_name("constant")
            container.add_initializer(constant, 11 if double else 1, [1], [float(right)])
            inputs = [*inputs, constant]
        out: str = scope.get_unique_variable_name(kind.lower())
        container.add_node(kind, inputs, out, name=scope.get_unique_operator_name(kind))
        return out

    apply_identity(scope, apply(name, value, add), operator.outputs[0].full_name, container)


def shape_of_function_transformer(operator: Any) -> None:
    """Its shape calculator: as many columns as all inputs have together."""
    widths = [one.type.shape[1] for one in operator.inputs]
    count = None if None in widths else sum(widths)
    operator.outputs[0].type = type(operator.inputs[0].type)([operator.inputs[0].type.shape[0], count])


def undo_target(graph: Any, transformer: Any, output: str) -> None:
    """What TransformedTargetRegressor does to predictions: the inverse of how the target was transformed.

    Changes the graph in place, whose output of that name is the inner regressor's. Raises Refused for other functions.
    """
    from studio.formats.onnx.names import rename_outputs

    kind = type(transformer).__name__
    element = next(one for one in graph.graph.output if one.name == output)
    numbers: Any = np.float64 if element.type.tensor_type.elem_type == 11 else np.float32
    rename_outputs(graph, {output: f"{output}_inner"})
    count = 0

    def add(operator: str, inputs: list[str], right: Any) -> str:
        nonlocal count
        count += 1
        if right is not None:
            constant = f"{output}_constant_{count}"
            graph.graph.initializer.append(numpy_helper.from_array(np.asarray(right, numbers), constant))
            inputs = [*inputs, constant]
        out = f"{output}_step_{count}"
        graph.graph.node.append(helper.make_node(operator, inputs, [out]))
        return out

    value = f"{output}_inner"
    if kind == "FunctionTransformer":
        name = name_of(transformer.inverse_func)
        if name is None:
            raise unknown("TransformedTargetRegressor", transformer.inverse_func)
        value = apply(name, value, add)
    elif kind in ("StandardScaler", "RobustScaler"):
        center = getattr(transformer, "mean_", None) if kind == "StandardScaler" else transformer.center_
        value = add("Mul", [value], transformer.scale_) if transformer.scale_ is not None else value
        value = add("Add", [value], center) if center is not None else value
    elif kind == "MinMaxScaler":
        value = add("Div", [add("Sub", [value], transformer.min_)], transformer.scale_)
    else:
        raise Refused(
            f"The TransformedTargetRegressor transforms its target with {kind}, whose inverse has no ONNX form.",
            "StandardScaler, RobustScaler, MinMaxScaler and functions such as numpy.log1p have one.",
            "Use one of these for the target and train again.",
        )
    graph.graph.node.append(helper.make_node("Identity", [value], [output]))
    element.name = output
