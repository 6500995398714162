"""Weights with the Python that makes their network, and pickled networks, become checked ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from studio.core.errors import InvalidInput, NeedsSettings, NeedsTrust, Refused
from tests.formats.networks import Bag, Cnn, Deciding, Encoder, Fixed, Mlp, Pair, Recurrent, code, seeded
from tests.pipeline.torch_intake import check, inputs, outputs, recorded, sha256, take

TOKENS = """
def example_inputs():
    return {"tokens": torch.randint(0, 50, (2, 7)), "mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
"""
Row = Callable[..., None]


def weights(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def test_weights_alone_say_what_to_write(tmp_path: Path) -> None:
    for path in (weights(seeded(Mlp), tmp_path / "net.pt"), tmp_path / "net.safetensors"):
        if path.suffix == ".safetensors":
            save_file(seeded(Mlp).state_dict(), path)
        with pytest.raises(Refused, match="and not the network that they belong to") as caught:
            take(path)
        assert "layers.0.weight [32 × 20]" in caught.value.why
        assert "Write net.py" in caught.value.fix and "def model():" in caught.value.fix


def test_the_python_beside_weights_is_asked_about_by_hash_and_not_run(tmp_path: Path) -> None:
    path = weights(seeded(Mlp), tmp_path / "net.pt")
    factory = code(Mlp, tmp_path / "net.py", f"import subprocess\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(NeedsTrust, match=r"net\.py") as caught:
        take(path, factory)
    asked = caught.value.code_files
    assert [(file.name, file.sha256) for file in asked] == [("net.py", sha256(factory))]
    assert asked[0].imports == ("builtins.open", "subprocess", "torch", "torch.nn")
    assert not (tmp_path / "ran").exists()


def test_weights_without_a_word_on_their_inputs(tmp_path: Path, format_row: Row) -> None:
    network = seeded(Mlp)
    files = weights(network, tmp_path / "net.pt"), code(Mlp, tmp_path / "net.py")
    result = recorded(format_row, "PyTorch weights and NAME.py", "MLP (state_dict)", *files, trusted=True)
    assert (inputs(result), outputs(result)) == (["x FP32 [batch × 20]"], ["output FP32 [batch × 5]"])
    assert result.signature.batchable
    assert result.parity.batch_sizes == (1, 2, 3, 5)
    assert any("found by trying what fits a linear layer of 20 features" in note for note in result.notes)
    assert result.tools["torch"] == torch.__version__
    assert {Path(source).name for source in result.sources} == {"net.pt", "net.py"}
    check(result, network, torch.randn(7, 20))


def test_a_convolution_on_images_of_any_size(tmp_path: Path, format_row: Row) -> None:
    network = seeded(Cnn)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    files = tmp_path / "net.safetensors", code(Cnn, tmp_path / "net.py")
    result = recorded(format_row, "PyTorch weights and NAME.py", "CNN (safetensors)", *files, trusted=True)
    assert inputs(result) == ["image FP32 [batch × 3 × height × width]"]
    assert result.tools["safetensors"]
    check(result, network, torch.randn(3, 3, 41, 29))


def test_a_convolution_that_takes_one_size(tmp_path: Path, format_row: Row) -> None:
    network = seeded(Fixed)
    files = weights(network, tmp_path / "net.pt"), code(Fixed, tmp_path / "net.py")
    result = recorded(format_row, "PyTorch weights and NAME.py", "CNN of one size, two outputs", *files, trusted=True)
    assert inputs(result) == ["image FP32 [batch × 1 × 28 × 28]"]
    assert outputs(result) == ["scores FP32 [batch × 3]", "probabilities FP32 [batch × 3]"]
    check(result, network, torch.randn(4, 1, 28, 28))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_networks_take_any_length(tmp_path: Path, format_row: Row, kind: str) -> None:
    network = seeded(Recurrent, kind)
    factory = code(Recurrent, tmp_path / "net.py", f"def model():\n    return Recurrent({kind!r})\n")
    files = weights(network, tmp_path / "net.pt"), factory
    result = recorded(format_row, "PyTorch weights and NAME.py", f"{kind}, 2 layers, both ways", *files, trusted=True)
    assert inputs(result) == ["steps FP32 [batch × sequence × 6]"]
    check(result, network, torch.randn(3, 17, 6))


def test_a_transformer_with_a_mask_takes_any_length_by_the_better_exporter(tmp_path: Path, format_row: Row) -> None:
    """The one network here that both exporters convert, so that they are compared."""
    network = seeded(Encoder)
    torch.save({"epoch": 3, "state_dict": {f"model.{name}": one for name, one in network.state_dict().items()}},
               tmp_path / "net.ckpt")  # fmt: skip
    files = tmp_path / "net.ckpt", code(Encoder, tmp_path / "net.py", TOKENS)
    result = recorded(
        format_row, "PyTorch weights and NAME.py", "Transformer with a mask (Lightning)", *files, trusted=True
    )
    assert inputs(result) == ["tokens INT64 [batch × sequence]", "mask INT64 [batch × sequence]"]
    assert outputs(result) == ["output FP32 [batch × 3]"]
    compared = next(note for note in result.notes if note.startswith("Both of PyTorch's exporters"))
    assert "a run against" in compared and "of 2 attention layers" in compared
    assert "'model.' was taken off their names." in result.notes
    mask = torch.ones(3, 12, dtype=torch.int64)
    mask[1, 5:] = 0
    check(result, network, torch.randint(0, 50, (3, 12)), mask)


def test_several_inputs_and_nested_outputs(tmp_path: Path, format_row: Row) -> None:
    network = seeded(Pair)
    more = "def example_inputs():\n    return torch.randn(2, 4), torch.randn(2, 6)\n"
    files = weights(network, tmp_path / "net.pt"), code(Pair, tmp_path / "net.py", more)
    result = recorded(format_row, "PyTorch weights and NAME.py", "Two inputs, nested outputs", *files, trusted=True)
    assert inputs(result) == ["user FP32 [batch × 4]", "item FP32 [batch × 6]"]
    assert outputs(result) == [
        "output_0 FP32 [batch]",
        "output_1_left FP32 [batch × 8]",
        "output_1_right FP32 [batch × 8]",
    ]
    check(result, network, torch.randn(5, 4), torch.randn(5, 6))


def test_inputs_that_nobody_tells_are_asked_for(tmp_path: Path) -> None:
    files = weights(seeded(Bag), tmp_path / "net.pt"), code(Bag, tmp_path / "net.py")
    with pytest.raises(NeedsSettings) as caught:
        take(*files, trusted=True)
    assert caught.value.missing_inputs == ("tokens", "mask")
    assert "a table of 50 entries" in caught.value.why
    snippet = caught.value.fix.partition(":\n\n")[2].partition("\nOr drop")[0]
    settings = tmp_path / "net.toml"
    settings.write_text(snippet)  # what it says to drop is right as it stands
    result = take(*files, settings, trusted=True)
    assert inputs(result) == ["tokens INT64 [batch × sequence]", "mask INT64 [batch × sequence]"]


def test_settings_name_free_sizes_and_fix_others(tmp_path: Path) -> None:
    network = seeded(Cnn)
    files = weights(network, tmp_path / "net.pt"), code(Cnn, tmp_path / "net.py")
    settings = tmp_path / "net.toml"
    settings.write_text('[inputs.image]\nshape = [1, 3, "rows", 40]\ndatatype = "FP32"\n')
    result = take(*files, settings, trusted=True)
    assert inputs(result) == ["image FP32 [1 × 3 × rows × 40]"]
    check(result, network, torch.randn(1, 3, 33, 40))
    for shape, words in ('["batch", 4, 32, 32]', "does not take the shapes"), ('["batch", 3, 8]', "does not take"):
        settings.write_text(f"[inputs.image]\nshape = {shape}\n")
        with pytest.raises(InvalidInput, match=words) as caught:
            take(*files, settings, trusted=True)
        assert caught.value.why and caught.value.fix
    settings.write_text('[inputs.image]\nshape = ["batch", 3, 32, 32]\n[inputs.other]\nshape = [1]\n')
    with pytest.raises(InvalidInput, match="an input 'other', which the model does not have"):
        take(*files, settings, trusted=True)


def test_samples_tell_the_inputs_and_are_what_it_is_judged_on(tmp_path: Path) -> None:
    network = seeded(Pair)
    files = weights(network, tmp_path / "net.pt"), code(Pair, tmp_path / "net.py")
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "net.npz", user=generator.normal(size=(40, 4)), item=generator.normal(size=(40, 6)))
    result = take(*files, tmp_path / "net.npz", trusted=True)
    assert inputs(result) == ["user FP32 [batch × 4]", "item FP32 [batch × 6]"]
    assert (result.samples_kind, result.samples_count) == ("samples", 40)
    assert result.parity.batch_sizes == (1, 2, 5, 32)


def test_dynamic_shapes_of_the_factory_decide_what_is_free(tmp_path: Path) -> None:
    more = (
        "def example_inputs():\n    return torch.zeros(2, 3, 32, 24)\n\n"
        "side = torch.export.Dim('side', min=8)\ndynamic_shapes = {'image': {2: side, 3: torch.export.Dim.AUTO}}\n"
    )
    files = weights(seeded(Cnn), tmp_path / "net.pt"), code(Cnn, tmp_path / "net.py", more)
    assert inputs(take(*files, trusted=True)) == ["image FP32 [2 × 3 × side × image_3]"]


def test_a_decision_by_values_is_traced_and_told(tmp_path: Path) -> None:
    network = seeded(Deciding)
    result = take(weights(network, tmp_path / "net.pt"), code(Deciding, tmp_path / "net.py"), trusted=True)
    assert any("older exporter was used" in note and "decides something by values" in note for note in result.notes)
    check(result, network, torch.randn(3, 4))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_computed_with_in_32(tmp_path: Path, format_row: Row, kind: torch.dtype) -> None:
    network = seeded(Mlp)
    save_file({name: tensor.to(kind) for name, tensor in network.state_dict().items()}, tmp_path / "net.safetensors")
    word = str(kind).removeprefix("torch.")
    files = tmp_path / "net.safetensors", code(Mlp, tmp_path / "net.py")
    result = recorded(format_row, "PyTorch weights and NAME.py", f"MLP ({word} safetensors)", *files, trusted=True)
    assert result.signature.inputs[0].datatype == "FP32"
    assert f"Weights in {word} are computed with in 32 bits." in result.notes
    check(result, network.to(kind).float(), torch.randn(2, 20))


def test_weights_in_two_files_and_shared_ones(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    save_file({"0.weight": torch.ones(4, 4), "0.bias": torch.zeros(4)}, folder / "a.safetensors")
    save_file({"1.bias": torch.ones(4)}, folder / "b.safetensors")  # 1.weight is 0.weight
    factory = (
        "from torch import nn\ndef model():\n    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))\n"
        "    net[1].weight = net[0].weight\n    return net\n"
    )
    (folder / "net.py").write_text(factory)
    with pytest.raises(NeedsTrust) as caught:
        take(folder, stem="net")
    assert [file.name for file in caught.value.code_files] == ["net.py"]
    result = take(*sorted(folder.iterdir()), stem="net", trusted=True)
    session_input = torch.randn(3, 4)
    first = nn.Linear(4, 4)
    with torch.no_grad():
        first.weight.fill_(1), first.bias.zero_()
    check(result, lambda x: first(first(x)) + 1, session_input)
    save_file({"1.bias": torch.ones(4), "0.bias": torch.ones(4)}, folder / "b.safetensors")
    with pytest.raises(InvalidInput, match=r"hold the weight '0\.bias'"):
        take(folder, stem="net")


def test_a_network_as_a_value_and_python_in_several_files(tmp_path: Path) -> None:
    code(Mlp, tmp_path / "layers.py", "class_alone = True\n")
    (tmp_path / "net.py").write_text("from layers import Mlp\nmodel = Mlp()\n")
    path = weights(seeded(Mlp), tmp_path / "net.pt")
    with pytest.raises(NeedsTrust) as caught:
        take(path, tmp_path / "net.py", tmp_path / "layers.py")
    assert {file.name for file in caught.value.code_files} == {"net.py", "layers.py"}
    result = take(path, tmp_path / "net.py", tmp_path / "layers.py", trusted=True)
    check(result, seeded(Mlp), torch.randn(2, 20))


PREFIXES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "DDP": lambda state: {"epoch": 1, "model_state_dict": {f"module.{name}": one for name, one in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{name}": one for name, one in state.items()},
    "with the trainer's own weights": lambda state: {
        "state_dict": {**{f"net.{name}": one for name, one in state.items()}, "loss.weight": torch.ones(5)}
    },
    "beside its average": lambda state: {
        "ema": {name: torch.zeros_like(one) for name, one in state.items()},
        "model": state,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
    },
}


@pytest.mark.parametrize("kind", PREFIXES)
def test_checkpoints_of_trainers_fit(tmp_path: Path, kind: str) -> None:
    network = seeded(Mlp)
    torch.save(PREFIXES[kind](network.state_dict()), tmp_path / "net.pth")
    result = take(tmp_path / "net.pth", code(Mlp, tmp_path / "net.py"), trusted=True)
    check(result, network, torch.randn(2, 20))


def test_the_old_layout_is_read(tmp_path: Path, format_row: Row) -> None:
    network = seeded(Mlp)
    torch.save(network.state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    files = tmp_path / "net.pth", code(Mlp, tmp_path / "net.py")
    result = recorded(format_row, "PyTorch weights and NAME.py", "MLP (.pth before PyTorch 1.6)", *files, trusted=True)
    check(result, network, torch.randn(2, 20))


def test_weights_that_do_not_fit_are_told_by_name(tmp_path: Path) -> None:
    state = dict(seeded(Mlp).state_dict())
    state["layers.0.weight"] = torch.zeros(32, 21)
    state["extra.weight"] = torch.zeros(2)
    del state["layers.3.bias"]
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(InvalidInput, match=r"do not fit the network that net\.py makes") as caught:
        take(tmp_path / "net.pt", code(Mlp, tmp_path / "net.py"), trusted=True)
    for words in ("Missing in the file (1): layers.3.bias", "Left over (1): extra.weight", "[32 × 21] in the file"):
        assert words in caught.value.why


FACTORIES = {
    "def model():\n    return undefined\n": (Refused, "'net.py' failed in line 2"),
    "import sys\ndef model():\n    sys.exit(3)\n": (Refused, "'net.py' failed in line 3"),
    "import no_such_package\nmodel = None\n": (Refused, "'net.py' failed in line 1"),
    "def model():\n    pass\n": (Refused, "gives nothing, and no network"),
    "def model(:\n": (InvalidInput, "no valid Python in line 1"),
    "def build():\n    pass\n": (Refused, "not the network that they belong to"),
}


@pytest.mark.parametrize("text", FACTORIES)
def test_a_factory_that_fails_says_where(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.py").write_text(text)
    kind, words = FACTORIES[text]
    with pytest.raises(kind, match=words) as caught:
        take(weights(seeded(Mlp), tmp_path / "net.pt"), tmp_path / "net.py", trusted=True)
    assert caught.value.why and caught.value.fix


def test_compiled_python_beside_a_factory_is_never_run(tmp_path: Path) -> None:
    """A .pyc is nothing that anybody was asked about, and nothing that can be read."""
    mark = tmp_path / "ran"
    hidden = tmp_path / "hidden.py"
    hidden.write_text(f"open({str(mark)!r}, 'w')\n")
    import py_compile

    py_compile.compile(str(hidden), str(tmp_path / "hidden.pyc"))
    hidden.unlink()
    (tmp_path / "net.py").write_text("import hidden\nfrom torch import nn\nmodel = nn.Linear(4, 2)\n")
    with pytest.raises(Refused, match="failed in line 1"):
        take(weights(nn.Linear(4, 2), tmp_path / "net.pt"), tmp_path / "net.py", tmp_path / "hidden.pyc", trusted=True)
    assert not mark.exists()


def test_an_older_graph_keeps_what_onnx_runtime_can_fuse(tmp_path: Path) -> None:
    """Attention written out, as in BERT: the newer exporter's graph has none that can be fused."""
    from studio.formats.torch._choice import _fused_attention
    from studio.formats.torch._exporters import capture, trace
    from studio.formats.torch._model import of_module

    model = of_module(seeded(Attention), (torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.int64)), {}, real=True)
    model.free = ({0: "batch", 1: "sequence"}, {0: "batch", 1: "sequence"})
    counts = {}
    for made in (trace(model), capture(model)):
        onnx.save(made.model, tmp_path / f"{made.exporter}.onnx")
        counts[made.exporter] = _fused_attention(tmp_path / f"{made.exporter}.onnx")
    assert counts == {"older": (1, 1), "newer": (0, 1)}


class Attention(nn.Module):
    """A layer of BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.norm = nn.LayerNorm(32)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        def heads(rows: torch.Tensor) -> torch.Tensor:
            return rows.view((*rows.size()[:-1], 4, 8)).permute(0, 2, 1, 3)

        far = (1.0 - mask[:, None, None, :].to(torch.float32)) * -10000.0
        scores = heads(self.query(states)) @ heads(self.key(states)).transpose(-1, -2) / 8**0.5 + far
        mixed = (scores.softmax(-1) @ heads(self.value(states))).permute(0, 2, 1, 3).contiguous()
        return self.norm(self.out(mixed.view((*mixed.size()[:-2], 32))) + states)
