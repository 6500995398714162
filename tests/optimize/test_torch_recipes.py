"""Pruning and distilling the network that a version came from: every kind of source, odd networks, and the reasons."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from sklearn.datasets import load_digits

from studio.core.errors import NeedsTrust, Refused
from studio.core.recipe import Plan, Step
from studio.core.settings import GateSettings
from studio.formats.torch._rebuilt import rebuilt
from studio.optimize import _torch_train as training
from studio.optimize._torch_prune import prune
from studio.optimize.base import Evidence, Given, recipes
from studio.pipeline.intake import run_intake
from studio.pipeline.lab import run_make
from studio.pipeline.messages import IntakeTask, SourceFiles, VariantTask
from studio.verify.verdict import judge

from . import networks
from .conftest import save, value

TAUGHT = 700
Save = Callable[[Any, Path], None]


@pytest.fixture(scope="module")
def digits() -> tuple[Any, np.ndarray, np.ndarray]:
    """A network that knows digits, and images with labels that it was not trained on."""
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]
    network = networks.trained(torch.tensor(images[:TAUGHT]), torch.tensor(labels[:TAUGHT]))
    return network, images[TAUGHT:], labels[TAUGHT:]


def program(network: Any, path: Path, free: bool = True) -> None:
    example = torch.zeros(networks.IMAGES)
    shapes = ({0: torch.export.Dim.DYNAMIC},) if free else None
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), path)


def fixed_program(network: Any, path: Path) -> None:
    program(network, path, free=False)


def traced(network: Any, path: Path) -> None:
    torch.jit.trace(network, torch.zeros(networks.IMAGES)).save(path)


def pickled(network: Any, path: Path) -> None:
    torch.save(network, path)


def weights(network: Any, path: Path) -> None:
    torch.save(network.state_dict(), path)
    path.with_suffix(".py").write_text(networks.FACTORY)


def take(folder: Path, samples: dict[str, np.ndarray], plan: Plan, trusted: bool = True) -> VariantTask:
    """The task to make a variant of what lies in a folder, which is taken in first."""
    np.savez(folder / "net.npz", **samples)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    yes = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    work = folder.with_name("work")
    result = run_intake(
        IntakeTask(files=(str(folder),), out=str(work / "intake"), stem="net", trusted=yes), lambda *_: None
    )
    return VariantTask(
        measure_seconds=1.0,
        plan=plan,
        reference=result.graph_path,
        out=str(work / "out"),
        samples=result.samples_path,
        kind=result.samples_kind,
        batchable=result.signature.batchable,
        reference_size=result.graph.size,
        source=SourceFiles(
            format=result.format,
            stem="net",
            files={str(path.relative_to(folder.parent)): str(path) for path in files},
            trusted=yes if trusted else (),
        ),
    )


def plan_of(recipe: str, **options: Any) -> Plan:
    return Plan(name=recipe, steps=(Step(recipe=recipe, options=options),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    place.mkdir()
    return place


def package(network: Any, path: Path) -> None:
    weights(network, path)
    inner = path.parent / "parts"
    inner.mkdir()
    path.with_suffix(".py").rename(inner / "blocks.py")
    path.with_suffix(".py").write_text("from parts.blocks import model as build\n\ndef model():\n    return build()\n")


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        ("net.pt2", program),
        ("net.pt2", fixed_program),
        ("net.pt", traced),
        ("net.pt", pickled),
        ("net.pt", weights),
        ("net.pt", package),
    ],
    ids=["program", "fixed program", "TorchScript", "pickled module", "weights with a factory", "a folder of code"],
)
def test_every_kind_of_source_can_be_pruned(
    digits: tuple[Any, np.ndarray, np.ndarray], folder: Path, name: str, keep: Save
) -> None:
    network, images, labels = digits
    keep(network, folder / name)
    task = take(folder, {"images": images, "labels": labels}, plan_of("pruned", epochs=6))
    made = run_make(task, lambda *_: None)
    assert made.reason == "" and made.graph is not None and made.fidelity is not None
    assert made.graph.size < 0.75 * task.reference_size
    assert made.fidelity.accuracy is not None and made.fidelity.accuracy > 0.95
    onnx.checker.check_model(onnx.load(made.graph_path), full_check=True)
    # Its layers are narrower, but for the one that gives the ten scores.
    shapes = [list(tensor.dims) for tensor in onnx.load(made.graph_path).graph.initializer if len(tensor.dims) == 4]
    assert [shape[0] for shape in shapes] == [24, 48]
    assert made.parameters["layers pruned"] == "3 of 4" and made.parameters["amount"] == "0.25"


def test_a_distilled_network_is_a_quarter_of_the_size_and_passes_the_gates(
    digits: tuple[Any, np.ndarray, np.ndarray], folder: Path
) -> None:
    network, images, labels = digits
    program(network, folder / "net.pt2")
    task = take(folder, {"images": images, "labels": labels}, plan_of("distilled"))
    told: list[tuple[float | None, str]] = []
    made = run_make(task, lambda _step, share, detail: told.append((share, detail)))
    assert made.graph is not None and made.fidelity is not None
    verdict = judge("distilled", made.fidelity, None, made.graph.size, task.reference_size, GateSettings())
    assert verdict.outcome == "keep", verdict.sentence
    assert made.graph.size < 0.3 * task.reference_size
    assert made.fidelity.accuracy is not None and made.fidelity.reference_accuracy is not None
    assert made.fidelity.accuracy >= made.fidelity.reference_accuracy - 0.01
    assert made.tools["torch-pruning"] and made.tools["torch"] == torch.__version__
    assert made.fidelity.layers is None  # layers of a network that was trained anew are not those of the original
    words = made.parameters
    assert words["channels"] == "160 → 80 (−50%)" and words["seed"] == "0"
    before, after = (int(text.replace(",", "")) for text in re.findall(r"[\d,]+\d", words["multiply-adds a row"])[:2])
    assert after < 0.35 * before
    first, best = map(float, words["loss on the rows held out"].split(" → "))
    assert best < 0.2 * first
    epochs = [detail for _, detail in told if detail.startswith("epoch ")]
    assert epochs[0].startswith("epoch 1 of 100: loss ") and f"{len(epochs)}, the weights" in words["epochs done"]
    shares = [share for share, detail in told if share is not None and detail in epochs]
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] < 1


def test_only_rows_set_apart_are_learnt_from_and_the_same_seed_gives_the_same(
    digits: tuple[Any, np.ndarray, np.ndarray], folder: Path
) -> None:
    network, images, labels = digits
    program(network, folder / "net.pt2")
    task = take(folder, {"images": images, "labels": labels}, plan_of("pruned", epochs=2))
    first = run_make(task, lambda *_: None)
    again = run_make(replace(task, out=f"{task.out}-again"), lambda *_: None)
    other = replace(task, out=f"{task.out}-other", plan=plan_of("pruned", epochs=2, seed=7))
    assert first.graph is not None and again.graph is not None
    assert first.graph.file.sha256 == again.graph.file.sha256
    differs = run_make(other, lambda *_: None).graph
    assert differs is not None and differs.file.sha256 != first.graph.file.sha256
    assert first.fidelity is not None
    counted = list(map(int, re.findall(r"\d+", first.parameters["rows"])))
    assert sum(counted) + first.fidelity.samples == len(images)


def test_code_that_nobody_trusted_does_not_run_in_the_lab_either(
    digits: tuple[Any, np.ndarray, np.ndarray], folder: Path
) -> None:
    network, images, labels = digits
    weights(network, folder / "net.pt")
    task = take(folder, {"images": images, "labels": labels}, plan_of("pruned"), trusted=False)
    with pytest.raises(NeedsTrust):
        run_make(task, lambda *_: None)
    assert not (Path(task.out) / "model.onnx").exists()


def test_only_the_first_step_of_a_plan_has_the_network(
    digits: tuple[Any, np.ndarray, np.ndarray], folder: Path
) -> None:
    network, images, labels = digits
    program(network, folder / "net.pt2")
    steps = (Step(recipe="pruned", options={"epochs": 4}), Step(recipe="int8"))
    task = take(folder, {"images": images, "labels": labels}, Plan(name="small", steps=steps))
    made = run_make(task, lambda *_: None)
    assert made.graph is not None and made.graph.size < 0.4 * task.reference_size
    assert made.parameters["pruned: epochs"] == "4"
    turned = Plan(name="small", steps=steps[::-1])
    refused = run_make(replace(task, plan=turned, out=f"{task.out}-turned"), lambda *_: None)
    assert refused.graph is None and refused.reason.startswith("pruned: it has no torch module to prune")


@pytest.mark.parametrize("name", ["pruned", "distilled"])
def test_what_can_not_be_trained_is_told_at_no_cost(name: str, conv_net: Path, tmp_path: Path) -> None:
    why = recipes()[name].applies
    model = onnx.load(conv_net)
    real = Given(kind="samples", rows=200, module=True)
    assert why(model, real) == ""
    assert why(model, replace(real, module=False)).startswith("it has no torch module to ")
    assert "made-up inputs teach nothing" in why(model, replace(real, kind="synthetic", rows=0))
    assert why(model, replace(real, rows=20)).startswith("it has 20 rows of samples to train with, and needs 64. ")
    weight = {"w": np.ones((4, 4), np.float32)}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    alone = save(tmp_path / "alone.onnx", [node], [value("x", "n", 4)], [value("y", "n", 4)], weight)
    assert why(onnx.load(alone), real) == "the channels of its only layer are its outputs"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert why(model, real) == "it takes exactly 4 rows at a time, and training needs batches of any size"


def test_a_version_that_came_as_onnx_has_no_network(conv_net: Path, folder: Path) -> None:
    (folder / "net.onnx").write_bytes(conv_net.read_bytes())
    images = np.random.default_rng(0).standard_normal((300, 1, 8, 8)).astype(np.float32)
    made = run_make(take(folder, {"x": images}, plan_of("distilled")), lambda *_: None)
    assert made.graph is None and made.reason.startswith("it has no torch module to distil: only a version that came")


def layered(network: Any) -> Any:
    example = torch.zeros(networks.IMAGES)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    return rebuilt(torch.export.export(network, (example,), dynamic_shapes=shapes).module(check_guards=False))


def answers(network: Any, images: Any) -> list[Any]:
    with torch.no_grad():
        found = network(images)
    return [found] if isinstance(found, torch.Tensor) else list(found)


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (networks.Residual, (3, 4)),
        (networks.Joined, (1, 6)),  # what is in groups stays, and what is joined with it
        (networks.Encoder, (1, 6)),  # of a transformer the wide layer, since heads are cut
        (networks.layered_network, (2, 3)),
        (networks.digits_network, (3, 4)),
    ],
)
@pytest.mark.parametrize("importance", ["l1", "l2", "taylor"])
def test_odd_networks_keep_their_outputs_and_lose_channels(make: Any, layers: tuple[int, int], importance: str) -> None:
    torch.manual_seed(0)
    network = make().eval()
    images = torch.randn(networks.IMAGES)
    whole = layered(network)
    for own, wanted in zip(answers(whole, images), answers(network, images), strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)

    def loss(module: Any) -> Any:
        found = module(images)
        return sum(one.square().sum() for one in ([found] if isinstance(found, torch.Tensor) else found))

    smaller = prune(whole, (images,), 0.5, importance, loss)
    assert (smaller.layers, smaller.layers + smaller.left) == layers
    assert smaller.channels[1] * 2 == smaller.channels[0]
    assert smaller.macs[1] < smaller.macs[0] and smaller.parameters[1] < smaller.parameters[0]
    more = torch.randn(5, *networks.IMAGES[1:])
    assert [one.shape for one in answers(smaller.module, more)] == [one.shape for one in answers(network, more)]
    # The original is what it was.
    for own, wanted in zip(answers(whole, images), answers(network, images), strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)


def test_the_channels_that_go_are_those_that_matter_least() -> None:
    torch.manual_seed(0)
    network = networks.layered_network().eval()
    with torch.no_grad():
        network[4].weight[::2] *= 1e-4
        network[4].bias[::2] = 0
    images = torch.randn(networks.IMAGES)
    smaller = prune(network, (images,), 0.5, "l2", lambda module: module(images).sum())
    kept = smaller.module[4].weight.abs().mean(dim=1)
    assert len(kept) == 16 and bool((kept > 1e-3).all())


def test_a_network_without_channels_to_spare_is_refused_in_words() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    images = torch.randn(networks.IMAGES)
    with pytest.raises(Refused, match="None of its layers can lose channels") as caught:
        prune(network.eval(), (images,), 0.5, "l2", lambda module: module(images).sum())
    assert "fewer than 8 channels" in caught.value.why


def lesson(**more: Any) -> training.Lesson:
    settings = {"epochs": 5, "rate": 1e-3, "labels": 0.5, "temperature": 2.0, "seconds": 60.0, "seed": 0, **more}
    return training.Lesson(**settings)


def rows_of(network: Any, images: np.ndarray, labels: np.ndarray | None = None) -> training.Rows:
    return training.Rows(network, ("x",), Evidence(kind="samples", inputs={"x": images}, labels=labels), 0)


def test_training_ends_with_its_time_and_keeps_the_best_weights(digits: tuple[Any, np.ndarray, np.ndarray]) -> None:
    network, images, labels = digits
    rows = rows_of(network, images[:128], labels[:128])
    student = networks.digits_network().eval()
    done = training.train(student, rows, lesson(epochs=50, seconds=0.0), lambda *_: None)
    assert (done.epochs, done.epoch) == (1, 1) and done.why == "stopped early: its 0 s were over"
    # A rate that only destroys: nothing is kept of it.
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    spoilt = training.train(student, rows, lesson(epochs=30, rate=1.0), lambda *_: None)
    assert spoilt.epoch == 0 and spoilt.epochs == 10 and spoilt.best == spoilt.first
    assert "no progress for 10 epochs" in spoilt.why
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_what_is_trained_towards_follows_the_outputs_and_the_labels(
    digits: tuple[Any, np.ndarray, np.ndarray],
) -> None:
    network, images, labels = digits
    assert rows_of(network, images[:64], labels[:64]).classes
    assert rows_of(network, images[:64]).labels is None
    assert rows_of(network, images[:64], labels[:64] + 10).labels is None  # classes that it does not have
    one = networks.layered_network().eval()
    values = rows_of(one, images[:64], labels[:64] / 3.7)
    assert values.labels is not None and not values.classes
    # The original itself, and one that ends in a softmax, are at no distance from themselves.
    for own in (network, torch.nn.Sequential(network, torch.nn.Softmax(dim=1)).eval()):
        rows = rows_of(own, images[:64], labels[:64])
        apart = training.loss_of(own, rows, np.arange(64), lesson(labels=0.0))
        assert float(apart.detach()) == pytest.approx(0.0, abs=1e-4)
    rows = rows_of(network, images[:64], labels[:64])
    away = training.loss_of(networks.digits_network().eval(), rows, np.arange(64), lesson(labels=0.0))
    assert float(away.detach()) > 1
    whole = torch.nn.Sequential(network)
    whole.forward = lambda x: network(x).argmax(dim=1)
    with pytest.raises(Refused, match="whole numbers alone"):
        rows_of(whole, images[:64])


def test_torchscript_that_can_not_be_taken_apart_is_refused_in_words(
    digits: tuple[Any, np.ndarray, np.ndarray], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("prim::Loop has no converter")

    network, images, labels = digits
    traced(network, folder / "net.pt")
    task = take(folder, {"images": images, "labels": labels}, plan_of("pruned"))
    monkeypatch.setattr("studio.formats.torch._network.unscripted", fail)
    with pytest.raises(Refused, match="TorchScript module can not be trained") as caught:
        run_make(task, lambda *_: None)
    assert caught.value.why == "prim::Loop has no converter."
    assert "torch.export.save" in caught.value.fix
