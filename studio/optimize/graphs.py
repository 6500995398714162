"""Reading, tidying and writing ONNX graphs: what every recipe needs around its own step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.core.errors import Refused

# The newest that ONNX Runtime 1.31 reads; newer tools write newer ones unasked.
MAX_IR_VERSION = 13
_MAX_BYTES = 2**31 - 1  # protobuf's limit for one message
_DEFAULT_DOMAINS = ("", "ai.onnx")


def load(path: Path) -> Any:
    """The onnx.ModelProto with all weights in memory and local functions inlined. Raises Refused."""
    import onnx
    import onnx.inliner

    try:
        model = onnx.load(path)
        # Recipes look at nodes of the graph; those in functions would be passed over.
        return onnx.inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:
        raise Refused("The graph can not be read.", first_line(error), "Export it again.") from error


def save(model: Any, out: Path) -> None:
    """Write one self-contained file. Raises Refused above protobuf's 2 GB, and leaves none then."""
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    _drop_unused_imports(model)
    if _bytes(model) > _MAX_BYTES:
        out.unlink(missing_ok=True)
        raise Refused(
            "The variant would be larger than 2 GB.",
            "A self-contained ONNX file can not be.",
            "The reference with its external weights serves as it is.",
        )
    out.write_bytes(model.SerializeToString())


def _bytes(model: Any) -> int:
    """Bytes of the file; more than there can be where protobuf does not get as far as counting them."""
    from google.protobuf.message import EncodeError

    try:
        return int(model.ByteSize())
    except EncodeError:
        return _MAX_BYTES + 1


def tidied(src: Path, out: Path) -> Any:
    """The graph with constants folded, batch normalisation in its convolutions, and every node named; also in `out`.

    ONNX Runtime's own basic optimisations, which hold on every processor: what quantisers need beforehand. Their
    pre-processing does the same after a symbolic shape inference that fails on transformers. Raises Refused.
    """
    import onnx

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    try:
        ort.InferenceSession(str(src), options, providers=["CPUExecutionProvider"])
        model = onnx.load(out)
    except Exception as error:
        raise Refused("The graph can not be prepared.", first_line(error), "Export it again.") from error
    constants_to_initialisers(model)
    fix_weights(model)
    _flatten_biases(model)
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}_of_graph"
        taken.add(node.name)
    _drop_unused_imports(model)
    out.write_bytes(model.SerializeToString())
    return model


def _flatten_biases(model: Any) -> None:
    """Write biases of [1, n] as [n], which quantisers know. They come from additions behind products, as scikit-learn's
    networks have them, that the runtime has made one operator of."""
    import onnx

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        bias = tensors.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is None or len(bias.dims) != 2 or bias.dims[0] != 1 or bias.dims[1] == 1:
            continue
        flat = onnx.TensorProto()
        flat.CopyFrom(bias)
        flat.name = f"{bias.name}_flat"
        del flat.dims[:]
        flat.dims.append(bias.dims[1])
        if flat.name not in tensors:
            tensors[flat.name] = flat
            model.graph.initializer.append(flat)
        node.input[2] = flat.name


def check_loads(out: Path, src: Path) -> None:
    """Load both in ONNX Runtime: the variant must take and give what the source does. Removes it and raises Refused."""
    try:
        got, wanted = _interface(out), _interface(src)
    except Exception as error:
        out.unlink(missing_ok=True)
        raise Refused("The variant does not load in ONNX Runtime.", first_line(error)) from error
    if got != wanted:
        out.unlink(missing_ok=True)
        raise Refused("The variant has other inputs or outputs than the reference.", f"{got} instead of {wanted}.")


def _interface(path: Path) -> list[tuple[str, str]]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [(arg.name, arg.type) for arg in (*session.get_inputs(), *session.get_outputs())]


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:400]


def operator_counts(model: Any) -> dict[str, int]:
    """Nodes of the graph by operator, bodies of branches and loops included, most frequent first."""
    counts: dict[str, int] = {}
    for node in all_nodes(model.graph):
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def operator_words(model: Any, most: int = 4) -> str:
    """'Scaler, LinearClassifier': the most frequent operators, for a sentence."""
    names = list(operator_counts(model))
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def all_nodes(graph: Any) -> Iterator[Any]:
    """Nodes of a graph and of the graphs within."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from all_nodes(body)


def bodies(node: Any) -> list[Any]:
    """The graphs that a node carries: branches and loop bodies."""
    return [
        body
        for attribute in node.attribute
        for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs)
    ]


QUANTISED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv"}
    | {"QLinearMatMul", "QAttention", "DynamicQuantizeLSTM", "MatMulNBits", "GatherBlockQuantized"}
)


def already_quantised(model: Any) -> str:
    """The first operator of an already quantised graph, or ''."""
    return next((name for name in operator_counts(model) if name in QUANTISED), "")


def weights(model: Any) -> dict[str, Any]:
    """The graph's constant tensors by name: initialisers, and the values of Constant nodes."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.domain in _DEFAULT_DOMAINS:
            found |= {output: entry.t for output in node.output for entry in node.attribute if entry.name == "value"}
    return found


def constants_to_initialisers(model: Any) -> None:
    """Make the tensors of Constant nodes initialisers: the quantiser looks for weights only there."""
    kept = []
    for node in model.graph.node:
        value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if node.op_type == "Constant" and node.domain in _DEFAULT_DOMAINS and value is not None:
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def fix_weights(model: Any) -> None:
    """Take initialisers off the list of inputs, where IR version 3 demanded them, so that they count as constant."""
    names = {tensor.name for tensor in model.graph.initializer}
    kept = [entry for entry in model.graph.input if entry.name not in names]
    if len(kept) < len(model.graph.input):
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
        del model.graph.input[:]
        model.graph.input.extend(copies)
    model.ir_version = max(model.ir_version, 4)


def number(node: Any, name: str, default: float) -> float:
    """An attribute of a node that is a number."""
    for entry in node.attribute:
        if entry.name == name:
            return float(entry.f if entry.type == 1 else entry.i)  # 1: onnx.AttributeProto.FLOAT
    return default


def drop_unused_weights(model: Any) -> None:
    """Forget initialisers that nothing reads."""
    used = {name for node in all_nodes(model.graph) for name in node.input}
    used |= {entry.name for entry in model.graph.output}
    used |= {entry.name for node in all_nodes(model.graph) for body in bodies(node) for entry in body.output}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)


def import_domain(model: Any, domain: str, version: int = 1) -> None:
    """Name an operator set that the graph uses, where it does not yet."""
    if all(entry.domain != domain for entry in model.opset_import):
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, version


def sort_nodes(graph: Any) -> None:
    """Order nodes so that each follows what it reads, as the standard demands. Stable; cycles keep their order."""
    made = {name for node in graph.node for name in node.output if name}
    ready: set[str] = set()
    waiting = list(graph.node)
    ordered: list[Any] = []
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready or name not in made for name in _reads(node)):
                ordered.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            ordered += later
            break
        waiting = later
    copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def _reads(node: Any) -> set[str]:
    names = {name for name in node.input if name}
    for body in bodies(node):
        names |= reads_of(body)
    return names


def reads_of(body: Any) -> set[str]:
    """Names that a branch or loop body reads from outside."""
    inner = {name for node in body.node for name in node.output}
    inner |= {entry.name for entry in body.input} | {tensor.name for tensor in body.initializer}
    names = {name for node in body.node for name in _reads(node)} | {entry.name for entry in body.output}
    return names - inner


def _drop_unused_imports(model: Any) -> None:
    """Forget operator sets that no node uses: quantisers import all they know, and not every runtime has them."""
    used = {node.domain for node in all_nodes(model.graph)} | {"", "ai.onnx"}
    used |= {node.domain for function in model.functions for node in function.node}
    used |= {entry.domain for function in model.functions for entry in function.opset_import}
    kept = [(entry.domain, entry.version) for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    for domain, version in kept:
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, version
