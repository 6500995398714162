"""Words that a graph compares its string inputs with: made-up inputs of others would only show what is unknown."""

from __future__ import annotations

from typing import Any

_MOST = 64
# Attributes of ai.onnx.ml operators that hold what strings are looked up in. Source: onnx, docs/Operators-ml.md.
_LOOKED_UP = ("cats_strings", "keys_strings", "classes_strings", "pool_strings", "string_vocabulary")
_STRING = 8  # onnx.TensorProto.STRING


def vocabulary(model: Any) -> dict[str, tuple[str, ...]]:
    """Words by string input, at most 64 each; inputs whose words can not be told are left out.

    Follows each string input through the graph, over every operator that is not a look-up itself.
    """
    inputs = [
        entry.name
        for entry in model.graph.input
        if entry.type.WhichOneof("value") == "tensor_type" and entry.type.tensor_type.elem_type == _STRING
    ]
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node if inputs else ():
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == _STRING}
    found = {name: _words(name, readers, constants) for name in inputs}
    return {name: words for name, words in found.items() if words}


def _words(start: str, readers: dict[str, list[Any]], constants: dict[str, Any]) -> tuple[str, ...]:
    words: dict[str, None] = {}
    seen, stack = {start}, [start]
    while stack and len(words) < _MOST:
        for node in readers.get(stack.pop(), ()):
            texts = [text for entry in node.attribute if entry.name.startswith(_LOOKED_UP) for text in entry.strings]
            texts += [text for entry in node.attribute if entry.name == "keys_tensor" for text in entry.t.string_data]
            if node.op_type == "Equal":
                texts += [text for name in node.input if name in constants for text in constants[name].string_data]
            words |= dict.fromkeys(text.decode("utf-8", "replace") for text in texts)
            if not texts:
                new = [name for name in node.output if name and name not in seen]
                seen.update(new)
                stack += new
    return tuple(words)[:_MOST]
