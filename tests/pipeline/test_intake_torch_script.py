"""TorchScript files, traced and scripted, become checked ONNX."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from studio.core.errors import InvalidInput, NeedsSettings, NeedsTrust, Refused, StudioError
from tests.formats.networks import Cnn, Encoder, Fixed, Mlp, Pair, Recurrent, Stepping, seeded
from tests.formats.programs import Payload
from tests.formats.test_torch_files import replace_member
from tests.pipeline.torch_intake import check, inputs, outputs, recorded, take

Row = Callable[..., None]
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def traced(network: nn.Module, path: Path, *example: torch.Tensor) -> Path:
    torch.jit.trace(network, example, strict=False, check_trace=False).save(path)
    return path


def scripted(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(path)
    return path


def test_a_traced_network_tells_its_inputs_itself(tmp_path: Path, format_row: Row) -> None:
    network = seeded(Cnn)
    path = traced(network, tmp_path / "net.pt", torch.randn(1, 3, 32, 24))
    result = recorded(format_row, "TorchScript", "CNN (traced)", path)
    assert result.format == "torchscript"
    assert inputs(result) == ["image FP32 [batch × 3 × 32 × 24]"]
    assert outputs(result) == ["output FP32 [batch × 4]"]
    assert result.signature.batchable
    check(result, network, torch.randn(4, 3, 32, 24))


def test_settings_come_before_what_was_traced(tmp_path: Path) -> None:
    network = seeded(Cnn)
    path = traced(network, tmp_path / "net.pt", torch.randn(1, 3, 32, 24))
    (tmp_path / "net.toml").write_text('[inputs.image]\nshape = ["batch", 3, "height", "width"]\n')
    result = take(path, tmp_path / "net.toml")
    assert inputs(result) == ["image FP32 [batch × 3 × height × width]"]
    check(result, network, torch.randn(2, 3, 50, 33))


def test_a_traced_transformer_keeps_its_length_free(tmp_path: Path, format_row: Row) -> None:
    """Traced outside of no_grad, as most are: through nn.MultiheadAttention's plain path, whose rank PyTorch loses."""
    network = seeded(Encoder)
    example = torch.randint(0, 50, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    path = traced(network, tmp_path / "net.pt", *example)
    result = recorded(format_row, "TorchScript", "Transformer with a mask (traced)", path)
    assert inputs(result) == ["tokens INT64 [batch × sequence]", "mask INT64 [batch × sequence]"]
    mask = torch.ones(3, 12, dtype=torch.int64)
    mask[2, 3:] = 0
    check(result, network, torch.randint(0, 50, (3, 12)), mask)


def test_a_transformer_traced_on_its_fast_path_says_what_to_change(tmp_path: Path) -> None:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    try:
        with torch.no_grad():
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
            path = traced(layer, tmp_path / "net.pt", torch.randn(2, 5, 16))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    with pytest.raises(Refused, match="fused transformer kernels") as caught:
        take(path)
    assert "set_fastpath_enabled(False)" in caught.value.fix


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_traced_recurrent_networks(tmp_path: Path, format_row: Row, kind: str) -> None:
    network = seeded(Recurrent, kind)
    path = traced(network, tmp_path / "net.pt", torch.randn(2, 5, 6))
    result = recorded(format_row, "TorchScript", f"{kind} (traced)", path)
    assert inputs(result) == ["steps FP32 [batch × sequence × 6]"]
    check(result, network, torch.randn(3, 11, 6))


def test_a_recurrent_network_that_takes_steps_first(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 6), Steps())
    path = traced(network.eval(), tmp_path / "net.pt", torch.randn(5, 2, 6))
    result = take(path)
    assert inputs(result) == ["input FP32 [sequence × batch × 6]"]
    check(result, network, torch.randn(9, 3, 6))


class Steps(nn.Module):
    """[steps, batch, 6] to one row for each of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(6, 4)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        return self.cells(steps)[0][-1]


def test_a_script_without_a_word_on_its_input(tmp_path: Path, format_row: Row) -> None:
    network = seeded(Mlp)
    result = recorded(format_row, "TorchScript", "MLP (scripted)", scripted(network, tmp_path / "net.pt"))
    assert inputs(result) == ["x FP32 [batch × 20]"]
    check(result, network, torch.randn(3, 20))
    fixed = seeded(Fixed)
    result = recorded(
        format_row, "TorchScript", "CNN of one size, dictionary (scripted)", scripted(fixed, tmp_path / "f")
    )
    assert inputs(result) == ["image FP32 [batch × 1 × 28 × 28]"]
    assert outputs(result) == ["scores FP32 [batch × 3]", "probabilities FP32 [batch × 3]"]


def test_loops_branches_and_numbers(tmp_path: Path, format_row: Row) -> None:
    network = seeded(Stepping)
    path = scripted(network, tmp_path / "net.pt")
    with pytest.raises(NeedsSettings) as caught:
        take(path)
    assert caught.value.missing_inputs == ("x",)
    assert 'shape = ["batch", 4]' in caught.value.fix
    (tmp_path / "net.toml").write_text('[inputs.x]\nshape = ["batch", 4]\n')
    result = recorded(format_row, "TorchScript", "Loop and branch (scripted)", path, tmp_path / "net.toml")
    assert inputs(result) == ["x FP32 [batch × 4]", "steps INT64 [scalar]"]
    assert not result.signature.batchable  # the branch looks at all rows
    for count in (0, 1, 4):
        for sign in (1, -1):
            x = sign * torch.rand(2, 4)
            check(result, lambda x, steps: network(x, int(steps)), x, torch.tensor(count))


def test_optional_inputs_are_taken_when_they_are_described(tmp_path: Path) -> None:
    network = seeded(Stepping)
    path = scripted(network, tmp_path / "net.pt")
    (tmp_path / "net.toml").write_text('[inputs.x]\nshape = ["batch", 4]\n[inputs.shift]\nshape = ["batch", 4]\n')
    result = take(path, tmp_path / "net.toml")
    assert [text.split()[0] for text in inputs(result)] == ["x", "steps", "shift"]
    x = torch.rand(2, 4)
    check(result, lambda x, steps, shift: network(x, int(steps), shift), x, torch.tensor(2), x)


def test_samples_tell_the_inputs(tmp_path: Path) -> None:
    class Scaled(Pair):
        def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
            return (self.user(user) * self.item(item)).sum(-1)

    network = seeded(Scaled)
    path = scripted(network, tmp_path / "net.pt")
    with pytest.raises(NeedsSettings) as caught:
        take(path)
    assert caught.value.missing_inputs == ("user", "item")
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "net.npz", user=generator.normal(size=(9, 4)), item=generator.normal(size=(9, 6)))
    result = take(path, tmp_path / "net.npz")
    assert inputs(result) == ["user FP32 [batch × 4]", "item FP32 [batch × 6]"]
    np.savez(tmp_path / "net.npz", users=np.ones((9, 4)))
    with pytest.raises(InvalidInput, match="do not have the model's inputs"):
        take(path, tmp_path / "net.npz")


def test_a_wrong_shape_of_tokens_is_told_of_tokens_and_sizes_nobody_knows_are_free(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 4)
            self.head = nn.Linear(8 * 4, 2)

        def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return self.head((self.table(ids) * weights.unsqueeze(-1)).flatten(1))

    path = scripted(seeded(Words), tmp_path / "words.pt")
    settings = tmp_path / "words.toml"
    settings.write_text('[inputs.ids]\nshape = ["batch", 5]\n[inputs.weights]\nshape = ["batch", 5]\n')
    with pytest.raises(InvalidInput, match=r"does not take the shapes in words\.toml") as caught:
        take(path, settings)
    assert "shapes cannot be multiplied" in caught.value.why, "and not that an index must be whole"

    class Sum(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    with pytest.raises(NeedsSettings) as asked:
        take(scripted(Sum(), tmp_path / "sum.pt"))
    assert 'shape = ["batch", "features"]' in asked.value.fix and "16" not in asked.value.fix


def test_weights_of_16_bits_and_frozen_modules(tmp_path: Path) -> None:
    network = seeded(Mlp).half()
    result = take(traced(network, tmp_path / "half.pt", torch.randn(2, 20).half()))
    assert result.signature.inputs[0].datatype == "FP32"
    assert "Its weights in float16 are computed with in 32 bits." in result.notes
    check(result, network.float(), torch.randn(3, 20))
    frozen = torch.jit.freeze(torch.jit.script(seeded(Mlp)))
    frozen.save(tmp_path / "frozen.pt")
    with pytest.raises(NeedsSettings, match="does not tell the shapes"):
        take(tmp_path / "frozen.pt")
    (tmp_path / "frozen.toml").write_text('[inputs.features]\nshape = ["batch", 20]\n')
    result = take(tmp_path / "frozen.pt", tmp_path / "frozen.toml")
    assert inputs(result) == ["features FP32 [batch × 20]"]  # the user's name, where none of the file's is used


def test_inputs_that_can_not_be_served_are_refused(tmp_path: Path) -> None:
    class Listed(nn.Module):
        def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
            return parts[0] + parts[1]

    with pytest.raises(Refused, match=r"'parts' of this TorchScript module is a List\[Tensor\]") as caught:
        take(scripted(Listed(), tmp_path / "net.pt"))
    assert caught.value.fix


@pytest.mark.parametrize("ending", ["/data.pkl", "/constants.pkl", "/traced_inputs.pkl", ".debug_pkl"])
def test_payloads_in_any_member_do_not_run(tmp_path: Path, ending: str) -> None:
    good = traced(nn.Linear(4, 2), tmp_path / "good.pt", torch.randn(2, 4))
    mark, evil = tmp_path / "ran", tmp_path / "evil.pt"
    with zipfile.ZipFile(good) as archive:
        member = next(name.partition("/")[2] for name in archive.namelist() if name.endswith(ending))
    replace_member(good, evil, {member: pickle.dumps(Payload(mark), protocol=2)})
    if ending == ".debug_pkl":
        take(evil)  # says where errors are, and is read by no Python
    else:
        with pytest.raises(NeedsTrust) as caught:
            take(evil)
        assert caught.value.code_files[0].imports == ("io.open",)
        with contextlib.nullcontext() if ending == "/traced_inputs.pkl" else pytest.raises(StudioError):
            take(evil, trusted=True)
    assert not mark.exists()


def test_damaged_scripts_are_told_in_words(tmp_path: Path) -> None:
    good = scripted(seeded(Mlp), tmp_path / "good.pt")
    spoiled = {
        "data.pkl": b"\x80\x02}.",
        "constants.pkl": b"nonsense",
        "code/__torch__/tests/formats/networks.py": b"class Mlp(Module):\n  def forward(self: nothing",
    }
    for number, (member, data) in enumerate(spoiled.items()):
        path = tmp_path / f"bad{number}.pt"
        replace_member(good, path, {member: data})
        with pytest.raises(StudioError) as caught:
            take(path)
        assert "bad" in caught.value.what and caught.value.why


def test_names_that_lead_out_of_the_archive_lead_nowhere(tmp_path: Path) -> None:
    good, path = scripted(seeded(Mlp), tmp_path / "good.pt"), tmp_path / "net.pt"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for name in (str(tmp_path / "absolute"), "../outside", "good/../../outside"):
            new.writestr(name, b"x")
    take(path)
    assert not (tmp_path / "absolute").exists()
    assert not list(tmp_path.parent.glob("outside"))
