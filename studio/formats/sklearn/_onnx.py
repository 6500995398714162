"""Estimators into ONNX through skl2onnx, and what has to be put right around it. Imports skl2onnx.

Tried with skl2onnx 1.20: it hands numpy scalars to protobuf, which refuses them; takes all columns in another order for
all columns as they are; asks for the locale en_US to lower-case texts; splits words at every letter that is not ASCII;
leaves several outputs as sequences, and declares some shapes that are not those it gives.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from studio.core.errors import Refused
from studio.formats.sklearn._adapt import estimators_in, last
from studio.formats.sklearn._columns import TEXT, WHOLE, Column
from studio.formats.sklearn._functions import convert_function_transformer, shape_of_function_transformer

OPSET, ML_OPSET, IR = 21, 3, 10
BATCH = "batch"
_DEFAULT_PATTERN = r"(?u)\b\w\w+\b"
_LETTER = r"\p{L}\p{N}_"
_CONTAINERS = ("Pipeline", "ColumnTransformer", "FeatureUnion")


def to_onnx(model: Any, inputs: Sequence[tuple[str, str, int | None]], locale: str) -> Any:
    """An onnx.ModelProto of an adapted estimator. `inputs`: name, datatype (FP32, FP64, INT64, BYTES) and columns each.

    Columns None: a list of texts. `locale`: see `locale_for`. Raises Refused naming what can not be converted.
    """
    import skl2onnx
    from skl2onnx.common import data_types as types

    kinds = {
        "FP32": types.FloatTensorType,
        "FP64": types.DoubleTensorType,
        "INT64": types.Int64TensorType,
        "BYTES": types.StringTensorType,
    }
    initial = [(name, kinds[kind]([None] if size is None else [None, size])) for name, kind, size in inputs]
    with _put_right(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = skl2onnx.convert_sklearn(
                model,
                name="model",
                initial_types=initial,
                options=_options(model, locale),
                target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
            )
        except (MemoryError, RecursionError, Refused):
            raise
        except Exception as error:  # converters raise whatever their estimator makes of them
            raise _can_not(model, error) from error
    made.ir_version = min(made.ir_version, IR)
    made.ClearField("doc_string")
    for entry in (*made.graph.input, *made.graph.output):
        shape = entry.type.tensor_type.shape
        if shape.dim and not shape.dim[0].dim_value:
            shape.dim[0].dim_param = BATCH
    return made


def _options(model: Any, locale: str) -> dict[int, dict[str, Any]]:
    """Options of the converters by estimator: no dictionaries, raw scores where there are no probabilities, words."""
    found: dict[int, dict[str, Any]] = {}
    final = last(model)
    for one in estimators_in(model):
        allowed = {} if type(one).__name__ in _CONTAINERS else _allowed(type(one))
        own: dict[str, Any] = {}
        if "zipmap" in allowed:
            own["zipmap"] = False
        if "raw_scores" in allowed and one is final and not hasattr(one, "predict_proba"):
            own["raw_scores"] = True
        if "tokenexp" in allowed and hasattr(one, "analyzer"):
            own["locale"] = locale
            own["tokenexp"] = _pattern(one) if one.analyzer == "word" else "(?s:.)"
        if own:
            found[id(one)] = own
    return found


def _allowed(kind: type) -> Any:
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common._registration import _converter_pool

    converter = _converter_pool.get(sklearn_operator_name_map.get(kind))
    return (converter.get_allowed_options() if converter else None) or {}


def _pattern(vectorizer: Any) -> str:
    """A vectorizer's token pattern for RE2, which knows no Unicode in \\w and \\b."""
    pattern = vectorizer.token_pattern or _DEFAULT_PATTERN
    if vectorizer.ngram_range[1] > 1 and vectorizer.get_stop_words():
        raise Refused(
            f"The {type(vectorizer).__name__} leaves out stop words and takes groups of words.",
            "ONNX has no way to leave out words before words are grouped.",
            "Train it with stop_words=None, or with ngram_range=(1, 1).",
        )
    if pattern in (_DEFAULT_PATTERN, _DEFAULT_PATTERN[4:]):
        return f"[{_LETTER}]{{2,}}"
    # \b around whole runs of letters says nothing that taking the longest run does not.
    runs = re.sub(r"^(\(\?u\))?(\\b)?|(\\b)?$", "", pattern)
    runs = re.sub(r"\[([^]]*)\\w([^]]*)\]", lambda found: f"[{found[1]}{_LETTER}{found[2]}]", runs).replace(
        "\\w", f"[{_LETTER}]"
    )
    if re.search(r"\\b|\(\?|\\[1-9]|\\[dsDSW]", runs):
        raise Refused(
            f"The {type(vectorizer).__name__} splits texts with the pattern {pattern!r}.",
            "The expressions of ONNX Runtime (RE2) do not have all that it uses.",
            "Train it with the default token_pattern.",
        )
    return runs


def locale_for(model: Any) -> str:
    """A locale for lower-casing texts that ONNX Runtime has here: "C" where all words are ASCII, which is anywhere.

    Empty where nothing lower-cases. Raises Refused when there is none that knows other letters.
    """
    vectorizers = [one for one in estimators_in(model) if getattr(one, "lowercase", False) and _words(one)]
    if not vectorizers:
        return ""
    if all(word.isascii() for one in vectorizers for word in _words(one)):
        return "C"
    for name in ("C.UTF-8", "en_US.UTF-8"):
        if _lowers(name):
            return name
    raise Refused(
        "Lower-casing its texts needs a locale that this machine does not have.",
        "Some of its words have letters outside of ASCII; ONNX Runtime finds neither C.UTF-8 nor en_US.UTF-8.",
        "Install one (Debian, Ubuntu: apt install locales, then locale-gen en_US.UTF-8), or train with lowercase=False "
        "on texts in lower case.",
    )


def _words(one: Any) -> Any:
    return getattr(one, "vocabulary_", None) or ()


def _lowers(locale: str) -> bool:
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale=locale)
    text = [helper.make_tensor_value_info(name, TensorProto.STRING, [None]) for name in ("x", "y")]
    graph = helper.make_graph([node], "lower", text[:1], text[1:])
    made: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="studio"
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, {"x": np.asarray(["É"], dtype=object)})[0]) == ["é"]
    except Exception:  # onnxruntime's exceptions share no base class
        return False


@contextmanager
def _put_right() -> Iterator[None]:
    """While it holds, skl2onnx writes attributes that protobuf takes, picks columns in order, and knows functions."""
    from skl2onnx import _parse
    from skl2onnx.algebra.onnx_operator import OnnxOperator
    from skl2onnx.common import _container, _registration

    converters, shapes = _registration._converter_pool, _registration._shape_calculator_pool
    function = "SklearnFunctionTransformer"
    converter, shape_of = converters[function], shapes[function]
    make_node, fetch, verify = _container.make_node, _parse._fetch_input_slice, OnnxOperator._verify_add_to_

    def make(*args: Any, **attributes: Any) -> Any:
        return make_node(*args, **{name: _plain(value) for name, value in attributes.items()})

    def fetch_in_order(scope: Any, inputs: Any, places: Any) -> Any:
        shape = getattr(inputs[0].type, "shape", None) if len(inputs) == 1 else None
        if not shape or len(shape) != 2 or shape[1] != len(places) or list(places) == list(range(len(places))):
            return fetch(scope, inputs, places)
        shape[1], whole = None, shape[1]  # as many columns as there are, in another order
        try:
            return fetch(scope, inputs, places)
        finally:
            shape[1] = whole

    _container.make_node, _parse._fetch_input_slice = make, fetch_in_order
    # It looks through all nodes before a node again and again: seconds for a QuantileTransformer of six columns.
    OnnxOperator._verify_add_to_ = lambda _self: None
    converters[function] = _registration.RegisteredConverter(convert_function_transformer, None)
    shapes[function] = shape_of_function_transformer
    try:
        yield
    finally:
        _container.make_node, _parse._fetch_input_slice, OnnxOperator._verify_add_to_ = make_node, fetch, verify
        converters[function], shapes[function] = converter, shape_of


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return int(value) if isinstance(value, np.bool_) else value.item()
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (np.generic, bool)):
        return [int(one) if isinstance(one, (bool, np.bool_)) else one.item() if isinstance(one, np.generic) else one
                for one in value]  # fmt: skip
    return value


def _can_not(model: Any, error: Exception) -> Refused:
    inner = [one for one in estimators_in(model) if isinstance(one, BaseEstimator)]
    kinds = [type(one).__name__ for one in inner]
    unknown = [one for one in inner if not _known(type(one))]
    text = str(error).partition("You may raise an issue")[0]
    said = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if unknown:
        name = type(unknown[0]).__name__
        where = f"a step of this {kinds[0]}, {name}," if name != kinds[0] else f"{name}"
        return Refused(
            f"{where[:1].upper()}{where[1:]} has no ONNX form.",
            "skl2onnx, which converts scikit-learn, does not know it.",
            "Replace it by an estimator from https://onnx.ai/sklearn-onnx/supported.html and train again.",
        )
    return Refused(
        f"This {kinds[0] if kinds else 'model'} can not be converted to ONNX.",
        f"skl2onnx says: {said[:400]}",
        "Change the setting that it names and train again; the job's log has its whole report.",
    )


def _known(kind: type) -> bool:
    from skl2onnx._supported_operators import sklearn_operator_name_map

    return kind in sklearn_operator_name_map or kind.__name__ in _CONTAINERS


def datatype(column: Column, doubles: bool) -> str:
    return "BYTES" if column.kind == TEXT else "INT64" if column.kind == WHOLE else "FP64" if doubles else "FP32"
