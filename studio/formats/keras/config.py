"""Model configurations as Keras 2 and Keras 3 write them, changed where Keras 3 could not read them.

Keras 2 wrote arguments that Keras 3 no longer takes, counted the calls of a model inside another from 1, and wrote
calls with more than one tensor in a way that Keras 3 reads as data. Sources: tf_keras 2.21 `get_network_config` and
`Node.serialize`; keras 3.15 `deserialize_node`.
"""

from __future__ import annotations

from typing import Any

_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_RANDOM = (
    *("RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation"),
    *("RandomTranslation", "RandomZoom"),
)
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")
_UNGROUPED = (
    *("DepthwiseConv1D", "DepthwiseConv2D", *_SEPARABLE),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
)
_SPATIAL = ("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
_ANY = object()
# Arguments of Keras 2 that change no answer at this value, and the layers of Keras 3 that do not take them.
_DROPPED: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("groups", 1, _UNGROUPED),
    ("time_major", False, _RECURRENT),
    ("kernel_initializer", _ANY, _SEPARABLE),
    ("kernel_regularizer", _ANY, _SEPARABLE),
    ("kernel_constraint", _ANY, _SEPARABLE),
    ("query_shape", _ANY, ("MultiHeadAttention",)),
    ("key_shape", _ANY, ("MultiHeadAttention",)),
    ("value_shape", _ANY, ("MultiHeadAttention",)),
    ("softmax_robust_masking", False, ("MultiHeadAttention",)),
    ("score_mode", "dot", ("Attention",)),
    ("rng_type", _ANY, _RANDOM),
    ("noise_shape", _ANY, _SPATIAL),
    ("trainable", _ANY, (*_SPATIAL, "Discretization")),
)
_POLICIES = ("DTypePolicy", "Policy")
_MODELS = ("Functional", "Model", "Sequential")
_OLD_HOMES = ("tf_keras.", "keras.engine.", "keras.src.engine.", "tensorflow.python.keras.")


def without_training(config: Any) -> bool:
    """Take off how models inside the model were compiled; says whether there was any. What a loss needs stays unread.

    The outermost is left out by `load_model(compile=False)` itself, and taken off here uncounted.
    """
    found = False
    for value in _tables(config):
        if "class_name" in value and value.pop("compile_config", None) and value is not config:
            found = True
    return found


def in_single_precision(config: Any) -> bool:
    """Let layers that compute in half precision, with weights in single, compute in that; says whether there are any.

    That is how training on a GPU is made faster; on a CPU it only rounds.
    """
    found = False
    for value in _tables(config):
        for key, inner in value.items():
            policy = inner.get("config") if isinstance(inner, dict) and inner.get("class_name") in _POLICIES else None
            if isinstance(policy, dict) and str(policy.get("name", "")).startswith("mixed_"):
                value[key], found = "float32", True
    return found


def modernise(config: Any) -> None:
    """Change a configuration of Keras 2 in place so that Keras 3 reads it."""
    for value in _tables(config):
        kind, inner = value.get("class_name"), value.get("config")
        if not isinstance(inner, dict):
            continue
        value.pop("build_config", None)  # layers are built as they are called
        if "module" in value and kind != "InputLayer":
            inner.pop("batch_input_shape", None)  # an InputLayer before it says the same
        if kind in _MODELS and str(value.get("module", "")).startswith(_OLD_HOMES):
            home = "keras.src.models.functional" if kind == "Functional" else "keras"
            value["module"], value["registered_name"] = home, kind
        for key, empty, kinds in _DROPPED:
            if kind in kinds and key in inner and (empty is _ANY or inner[key] == empty):
                del inner[key]
        axis = inner.get("axis")
        if kind == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
            inner["axis"] = axis[0]
        if isinstance(inner.get("layers"), list) and "input_layers" in inner:
            layers = [layer for layer in inner["layers"] if isinstance(layer, dict)]
            _renumber(layers, inner.get("output_layers"))
            for place in ("input_layers", "output_layers"):  # one tensor, which Keras 3 would take for a list of one
                ends = inner.get(place)
                if isinstance(ends, list) and len(ends) == 1 and _is_use(ends[0]):
                    inner[place] = ends[0]
            _rewrite_calls(layers)


def _tables(config: Any) -> list[dict[str, Any]]:
    """Every JSON object in it, however deep."""
    found: list[dict[str, Any]] = []
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found.append(value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return found


def _renumber(layers: list[dict[str, Any]], outputs: Any) -> None:
    """A model's own first call was call 0 in Keras 2, so that its first use inside another one was call 1."""
    inner = {layer.get("name") for layer in layers if layer.get("class_name") in _MODELS}
    places = (*(layer.get("inbound_nodes") for layer in layers), outputs)
    uses = [use for place in places for use in _uses(place) if use[0] in inner]
    shifted = {use[0] for use in uses} - {use[0] for use in uses if use[1] < 1}
    for use in uses:
        if use[0] in shifted:
            use[1] -= 1


def _uses(value: Any) -> list[list[Any]]:
    """Every `[layer, call, tensor, …]`, however deep it lies."""
    found: list[list[Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
        elif _is_use(one):
            found.append(one)
            waiting += one[3:]
        elif isinstance(one, list):
            waiting += one
    return found


def _is_use(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is int


def _rewrite_calls(layers: list[dict[str, Any]]) -> None:
    """Calls with tensors among their keywords, and recurrent layers with initial states, in the form of Keras 3."""
    names = {layer.get("name") for layer in layers}
    for layer in layers:
        calls = layer.get("inbound_nodes")
        if isinstance(calls, list):
            recurrent = layer.get("class_name") in (*_RECURRENT, "Bidirectional")
            layer["inbound_nodes"] = [_rewritten(call, names, recurrent) for call in calls]


def _rewritten(call: Any, names: set[Any], recurrent: bool) -> Any:
    if not isinstance(call, list) or not call or not all(_is_use(use) and use[0] in names for use in call):
        return call
    keywords = next((use[3] for use in call if len(use) > 3 and isinstance(use[3], dict) and use[3]), {})
    states = call[1:] if recurrent else []
    if not states and not any(use[0] in names for use in _uses(list(keywords.values()))):
        return call
    tensors = [_tensor(use) for use in call]
    more: dict[str, Any] = {key: _with_tensors(value, names) for key, value in keywords.items()}
    if states:
        more["initial_state"] = tensors[1:]
    args = [tensors[0]] if states or len(tensors) == 1 else [tensors]
    return {"args": args, "kwargs": more}


def _with_tensors(value: Any, names: set[Any]) -> Any:
    if _is_use(value) and value[0] in names:
        return _tensor(value)
    if isinstance(value, list):
        return [_with_tensors(one, names) for one in value]
    return {key: _with_tensors(one, names) for key, one in value.items()} if isinstance(value, dict) else value


def _tensor(use: list[Any]) -> dict[str, Any]:
    # Keras looks at the history alone, and takes shape and type from there.
    history = {"shape": [1], "dtype": "float32", "keras_history": use[:3]}
    return {"class_name": "__keras_tensor__", "config": history}
