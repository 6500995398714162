"""TensorFlow Serving's Classify, Regress and MultiInference: rows come as `tf.Example`, features named like the inputs.

Sources: TensorFlow Serving, apis/input.proto, classification.proto, regression.proto, inference.proto,
servables/tensorflow/multi_inference.cc; TensorFlow, example/feature.proto. A feature is a flat list; it takes the shape
of the input's row. Which output is meant is chosen as over REST.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, StudioError
from studio.core.routing import Target
from studio.core.tensors import FLOATS, TensorSpec
from studio.serving.grpc.calls import Call, Caller, run_call
from studio.serving.grpc.tfs import NAME, fill_spec, routed
from studio.serving.grpc.tfs_messages import messages
from studio.serving.grpc.values import flat
from studio.serving.http import Response
from studio.serving.loaded import Array, LoadedModel
from studio.serving.protocols.oip_infer import MAX_BATCH
from studio.serving.protocols.tfs_json import number_of, scores_of
from studio.serving.service import Service, turned_away

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class _Examples(Call):
    """A call whose rows are examples."""

    __slots__ = ()
    protocol = NAME

    def check(self, request: Any) -> None:
        """Raises InvalidInput for what the model has no output for."""

    def begin_call(self, model: LoadedModel, request: Any) -> None:
        parsing = time.perf_counter_ns()
        self.check(request)
        inputs = read_input(request.input, self.target)
        self.parsing_ns = time.perf_counter_ns() - parsing
        self.submit(model, inputs, None)


class Classify(_Examples):
    """One Classify."""

    __slots__ = ()

    def check(self, request: Any) -> None:
        scores_of(self.target)

    def format(self, arrays: list[Array]) -> Response:
        response = messages()["ClassificationResponse"]()
        fill_spec(response.model_spec, self.target)
        _classes(response.result, arrays, self.target)
        return Response(200, response.SerializeToString())


class Regress(_Examples):
    """One Regress."""

    __slots__ = ()

    def check(self, request: Any) -> None:
        number_of(self.target)

    def format(self, arrays: list[Array]) -> Response:
        response = messages()["RegressionResponse"]()
        fill_spec(response.model_spec, self.target)
        _numbers(response.result, arrays, self.target)
        return Response(200, response.SerializeToString())


class Multi(_Examples):
    """One MultiInference: several questions about the same rows, answered by one run."""

    __slots__ = ("methods",)

    def check(self, request: Any) -> None:
        self.methods = [task.method_name for task in request.tasks]
        for method in self.methods:
            if method not in (CLASSIFY, REGRESS):
                raise InvalidInput(f"Unrecognized signature method_name: {method[:100]}")
            (scores_of if method == CLASSIFY else number_of)(self.target)
        if len(set(self.methods)) != len(self.methods):
            raise InvalidInput("Duplicate evaluation of a method in the tasks.")

    def format(self, arrays: list[Array]) -> Response:
        response = messages()["MultiInferenceResponse"]()
        for method in self.methods:
            result = response.results.add()
            fill_spec(result.model_spec, self.target)
            if method == CLASSIFY:
                _classes(result.classification_result, arrays, self.target)
            else:
                _numbers(result.regression_result, arrays, self.target)
        return Response(200, response.SerializeToString())


def _classes(result: Any, arrays: list[Array], target: Target) -> None:
    scores = arrays[scores_of(target)]
    labels = target.class_labels if len(target.class_labels) == scores.shape[1] else ()
    for row in scores:
        classes = result.classifications.add().classes
        for place, score in enumerate(row):
            classes.add(label=labels[place] if labels else str(place), score=float(score))


def _numbers(result: Any, arrays: list[Array], target: Target) -> None:
    for value in arrays[number_of(target)].reshape(-1):
        result.regressions.add(value=float(value))


def read_input(given: Any, target: Target) -> dict[str, Array]:
    """The tensors of an Input. Raises InvalidInput."""
    kind = given.WhichOneof("kind")
    rows = list(getattr(given, kind).examples) if kind else []
    if not rows:
        raise InvalidInput("Input is empty.")
    if len(rows) > MAX_BATCH:
        raise InvalidInput(f"A batch of more than {MAX_BATCH} rows for '{target.model}'.", "", "Send less at once.")
    common = given.example_list_with_context.context.features.feature if kind == "example_list_with_context" else {}
    features = [row.features.feature for row in rows]
    return {spec.name: _column(spec, features, common, target) for spec in target.signature.inputs}


def _column(spec: TensorSpec, rows: list[Any], common: Mapping[str, Any], target: Target) -> Array:
    if not spec.shape or isinstance(spec.shape[0], int):
        raise InvalidInput(f"'{target.model}' does not take rows.", "", "Use Predict.")
    arrays = []
    for number, features in enumerate(rows):
        feature = features.get(spec.name) or common.get(spec.name)
        if feature is None:
            raise InvalidInput(f"Example {number} has no feature '{spec.name}', which '{target.model}' takes.")
        arrays.append(_row(spec, feature, number))
    if any(array.shape != arrays[0].shape for array in arrays):
        raise InvalidInput(f"The feature '{spec.name}' is not of the same length in every example.")
    return np.stack(arrays)


def _row(spec: TensorSpec, feature: Any, number: int) -> Array:
    """One row of an input from its feature, in the shape of the input without its batch."""
    values = _values(spec, feature, number)
    free = [place for place, dim in enumerate(spec.shape[1:]) if not isinstance(dim, int)]
    shape = [dim if isinstance(dim, int) else 1 for dim in spec.shape[1:]]
    known = prod(shape)
    if len(free) == 1 and known and values.size % known == 0:
        shape[free[0]] = values.size // known
    if len(free) > 1 or prod(shape) != values.size or not values.size:
        raise InvalidInput(
            f"The feature '{spec.name}' of example {number} has {values.size} values, and a row of the input is"
            f" {spec.wire_shape[1:]}."
        )
    return values.reshape(shape)


def _values(spec: TensorSpec, feature: Any, number: int) -> Array:
    kind = feature.WhichOneof("kind")
    what = f"the feature '{spec.name}' of example {number}"
    takes = ["bytes_list" if spec.datatype == "BYTES" else "int64_list"]
    if spec.datatype in FLOATS:
        takes.append("float_list")
    if kind not in takes:
        raise InvalidInput(f"{what} is a {kind or 'list of nothing'}, and the input is {spec.datatype}.")
    return flat(getattr(feature, kind), "value", spec.datatype, what)


async def classify(service: Service, request: Any, caller: Caller) -> bytes:
    """PredictionService.Classify: the serialised answer. Raises StudioError."""
    return await _run(service, Classify, request.model_spec, request, caller)


async def regress(service: Service, request: Any, caller: Caller) -> bytes:
    """PredictionService.Regress."""
    return await _run(service, Regress, request.model_spec, request, caller)


async def multi(service: Service, request: Any, caller: Caller) -> bytes:
    """PredictionService.MultiInference: all tasks about one model."""
    if not request.tasks:
        raise InvalidInput("Inference request must have at least one task.")
    spec = request.tasks[0].model_spec
    if any(task.model_spec.SerializeToString() != spec.SerializeToString() for task in request.tasks):
        raise InvalidInput("All ModelSpecs in a MultiInferenceRequest must access the same model name and version.")
    return await _run(service, Multi, spec, request, caller)


async def _run(service: Service, kind: type[_Examples], spec: Any, request: Any, caller: Caller) -> bytes:
    started_ns = time.perf_counter_ns()
    target: Target | None = None
    try:
        target, shadow = routed(service, spec, caller)
        model = service.router.model(target) or await service.router.loaded_model(target)
    except StudioError as error:
        turned_away(service, target, NAME, error, started_ns, caller.headers)
        raise
    return await run_call(service, kind, target, model, request, caller, started_ns, shadow)
