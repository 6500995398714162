"""Half-copied, corrupt, renamed, overwritten and deleted files: the right version, once, and an engine that goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from tests.journeys.engines import SAMPLES, RunningEngine, until

CANCER = SAMPLES / "3" / "cancer.onnx"


def versions(studio: RunningEngine, model: str) -> list[int]:
    return sorted(row.version for row in studio.client.versions(filter=model).rows if row.model == model)


def test_a_slow_copy_is_waited_for(studio: RunningEngine) -> None:
    content = CANCER.read_bytes()
    with (studio.inbox / "slow.onnx").open("wb") as file:
        for start in range(0, len(content), 200):
            file.write(content[start : start + 200])
            file.flush()
            time.sleep(0.3)  # the copy is slow: that is what is tested
    job = studio.registered("slow")
    assert (job.version, job.state in ("running", "done")) == (1, True), job.problem
    studio.finished_job("slow")
    assert versions(studio, "slow") == [1]
    assert len([job for job in studio.client.jobs() if job.stem == "slow"]) == 1


def test_a_copy_that_never_ends_fails_with_words_and_the_next_one_is_fine(tmp_path: Path) -> None:
    engine = RunningEngine(tmp_path / "workspace")
    engine.workspace.mkdir()
    (engine.workspace / "studio.toml").write_text(
        "[serving]\nport = 0\n[inbox]\npatience_seconds = 1.0\n[workers]\nrecipes = []\nmeasure_seconds = 0.4\n"
    )
    engine.start()
    try:
        (engine.inbox / "half.onnx").write_bytes(CANCER.read_bytes()[:600])
        job = engine.finished_job("half")
        assert job.state == "failed"
        assert job.problem is not None
        assert job.problem.what and job.problem.fix
        (engine.inbox / "half.onnx").write_bytes(CANCER.read_bytes())
        assert engine.registered_version("half") == 1
    finally:
        assert engine.stop() == 0


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """An engine that waits for the rest of a file for a second only."""
    engine = RunningEngine(tmp_path_factory.mktemp("impatient") / "workspace")
    engine.workspace.mkdir()
    (engine.workspace / "studio.toml").write_text(
        "[serving]\nport = 0\n[inbox]\npatience_seconds = 1.0\n[workers]\nrecipes = []\nmeasure_seconds = 0.4\n"
    )
    engine.start()
    yield engine
    assert engine.stop() == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.onnx", b""),
        ("text.onnx", b"this is no model\n" * 20),
        ("noise.pt2", bytes(range(256)) * 40),
        ("pickle.pkl", b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94."),
    ],
    ids=["empty", "text", "noise", "code"],
)
def test_a_file_that_can_not_work_says_what_why_and_what_to_do(
    impatient: RunningEngine, name: str, content: bytes
) -> None:
    studio, after = impatient, f"after-{Path(name).stem}"
    (studio.inbox / name).write_bytes(content)
    job = studio.finished_job(Path(name).stem)
    assert job.state == "failed"
    assert job.problem is not None
    assert job.problem.what and job.problem.fix, job.problem
    assert "Traceback" not in job.problem.sentence()
    (studio.inbox / f"{after}.onnx").write_bytes(CANCER.read_bytes())
    assert studio.registered_version(after) == 1
    assert (studio.inbox / name).read_bytes() == content


def test_identical_content_makes_no_second_version_and_new_content_does(studio: RunningEngine) -> None:
    (studio.inbox / "cancer.onnx").write_bytes(CANCER.read_bytes())
    studio.finished_job("cancer")
    (studio.inbox / "cancer.onnx").write_bytes(CANCER.read_bytes())
    again = studio.finished_job("cancer", count=2)
    assert again.note.startswith("identical to cancer:1")
    assert versions(studio, "cancer") == [1]
    # Overwritten by an atomic rename, as careful programs do.
    fresh = studio.inbox / ".cancer.tmp"
    fresh.write_bytes(CANCER.read_bytes() + b"\x12\x04test")  # another producer_name: other content, same graph
    fresh.rename(studio.inbox / "cancer.onnx")
    studio.finished_job("cancer", count=3)
    assert versions(studio, "cancer") == [1, 2]


def test_a_file_deleted_half_way_leaves_nothing(studio: RunningEngine) -> None:
    path = studio.inbox / "gone.onnx"
    path.write_bytes(CANCER.read_bytes()[:500])
    until(lambda: [job for job in studio.client.jobs() if job.stem == "gone"], "the arrival to be seen")
    path.unlink()
    job = studio.finished_job("gone")
    assert job.state == "cancelled"
    assert versions(studio, "gone") == []
    assert not list((studio.workspace / "run" / "work").glob("intake-*/in"))


def test_files_stay_as_the_user_left_them(studio: RunningEngine) -> None:
    studio.drop(SAMPLES / "3")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in studio.inbox.iterdir()}
    studio.finished_job("cancer")
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in studio.inbox.iterdir()} == before


def test_a_model_that_never_ends_is_stopped_and_others_go_on_meanwhile(tmp_path: Path) -> None:
    engine = RunningEngine(tmp_path / "workspace")
    engine.workspace.mkdir()
    (engine.workspace / "studio.toml").write_text(
        "[serving]\nport = 0\n[workers]\nfirst_run_seconds = 4.0\nrecipes = []\nmeasure_seconds = 0.4\n"
    )
    engine.start()
    try:
        onnx.save(endless(), engine.inbox / "forever.onnx")
        until(engine.worker, "its worker")
        (engine.inbox / "next.onnx").write_bytes(CANCER.read_bytes())
        assert engine.registered_version("next") == 1
        job = engine.finished_job("forever")
        assert job.state == "failed"
        assert job.problem is not None
        assert "longer than 4 s" in job.problem.what
        assert "first_run_seconds" in job.problem.fix
    finally:
        assert engine.stop() == 0


def endless() -> onnx.ModelProto:
    """A Loop of 2^62 rounds: it loads at once, and its first run never ends."""
    make, tensor = onnx.helper, onnx.TensorProto
    body = make.make_graph(
        [make.make_node("Identity", ["c"], ["c2"]), make.make_node("Add", ["v", "one"], ["v2"])],
        "body",
        [
            make.make_tensor_value_info("i", tensor.INT64, []),
            make.make_tensor_value_info("c", tensor.BOOL, []),
            make.make_tensor_value_info("v", tensor.FLOAT, [1]),
        ],
        [make.make_tensor_value_info("c2", tensor.BOOL, []), make.make_tensor_value_info("v2", tensor.FLOAT, [1])],
        [make.make_tensor("one", tensor.FLOAT, [1], [1.0])],
    )
    graph = make.make_graph(
        [make.make_node("Loop", ["n", "go", "x"], ["y"], body=body)],
        "forever",
        [make.make_tensor_value_info("x", tensor.FLOAT, [1])],
        [make.make_tensor_value_info("y", tensor.FLOAT, [1])],
        [make.make_tensor("n", tensor.INT64, [], [1 << 62]), make.make_tensor("go", tensor.BOOL, [], [True])],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=10)
