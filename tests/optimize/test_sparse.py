"""Pruning by magnitude: what becomes zero, what is said of it, and where there is nothing to prune."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from studio.core.errors import Refused
from studio.core.settings import Settings
from studio.optimize.base import Given, Work, recipes


def make(name: str, src: Path, **options) -> tuple[Path, dict[str, str]]:
    out, told = src.with_name(f"{src.stem}-{name}.onnx"), []
    recipe = recipes()[name]
    work = Work(
        src=src,
        out=out,
        report=lambda share, text: told.append(share),
        options=recipe.settings(options),
    )
    parameters = recipe.apply(work)
    assert told == sorted(told) and told[-1] == 1.0
    return out, parameters


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("amount", [0.1, 0.3, 0.75])
def test_the_smallest_weights_of_each_layer_become_zero(amount: float, conv_net: Path) -> None:
    out, parameters = make("sparse", conv_net, amount=amount)
    before, after = arrays(conv_net), arrays(out)
    for name in ("k", "w1", "w2"):
        gone = after[name] == 0
        assert np.count_nonzero(gone) == int(before[name].size * amount)
        assert np.abs(before[name][gone]).max() <= np.abs(before[name][~gone]).min()
        assert np.array_equal(after[name][~gone], before[name][~gone])
    for name in ("b1", "b2"):  # a bias is no small change
        assert np.array_equal(before[name], after[name])
    assert parameters["zeros"].startswith(f"{amount:.1%} of ")
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_the_share_may_hold_for_the_whole_model(conv_net: Path) -> None:
    model = onnx.load(conv_net)
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1000, "w2"))
    onnx.save(model, conv_net)
    out, parameters = make("sparse", conv_net, scope="model", amount=0.5)
    after = arrays(out)
    assert not np.count_nonzero(after["w2"] == 0)  # the largest numbers of all
    assert parameters["zeros"].startswith("50.0% of ")


def test_what_it_gains_is_said_without_flattery(conv_net: Path) -> None:
    out, parameters = make("sparse", conv_net)
    assert out.stat().st_size == conv_net.stat().st_size
    small, large = len(zlib.compress(out.read_bytes())), len(zlib.compress(conv_net.read_bytes()))
    assert small < 0.9 * large
    assert parameters["compressed size"].startswith(f"{small} bytes instead of {large} (zlib)")
    assert parameters["speed"].startswith("the same")
    assert "no faster" in recipes()["sparse"].title


def test_the_compressed_size_counts_weights_in_other_files(conv_net: Path) -> None:
    apart = conv_net.with_name("apart.onnx")
    onnx.save(onnx.load(conv_net), apart, save_as_external_data=True, location="apart.bin", size_threshold=0)
    _, parameters = make("sparse", apart)
    sizes = [len(zlib.compress(path.read_bytes())) for path in (apart, conv_net.with_name("apart.bin"))]
    assert f"instead of {sum(sizes)} (zlib)" in parameters["compressed size"]


def test_pruning_is_in_nobody_s_default_list() -> None:
    assert "sparse" not in Settings().workers.recipes


def test_pruning_says_where_there_is_nothing_to_prune(trees: Path, conv_net: Path) -> None:
    recipe = recipes()["sparse"]
    assert (
        recipe.applies(onnx.load(trees), Given()) == "it has no layers with 32-bit weights, only TreeEnsembleRegressor"
    )
    assert recipe.applies(onnx.load(conv_net), Given()) == ""
    made = onnx.load(make("int8", conv_net)[0])
    assert "prune before quantising" in recipe.applies(made, Given())
    with pytest.raises(Refused, match="Nothing was pruned"):
        make("sparse", trees)
