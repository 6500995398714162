"""An arrival that needs a converter environment has it made, once, outside of the sandbox. Offline: the framework is a
stand-in of the same name, and a format of a third party asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.core.errors import Conflict, NotFound
from tests.journeys.conftest import running
from tests.journeys.engines import RunningEngine, until
from tests.pipeline.wheels import wheel

FORMAT = """
from pathlib import Path
import numpy as np
from studio.core.errors import NeedsEnvironment
from studio.formats.base import Case, Converted, Recognition

class Odd:
    name, title, extra = "odd", "Odd (.odd)", None

    def recognise(self, files):
        found = [file for file in files.content if file.read_bytes()[:4] == b"ODD1"]
        return Recognition(model=found[0], detail="odd") if found else None

    def convert(self, files, recognition, out_dir, kit):
        try:
            import tf2onnx
        except ModuleNotFoundError:
            raise NeedsEnvironment(f"{recognition.model.name} is odd.", "tensorflow")
        from onnx import TensorProto, helper
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy"]
        node = helper.make_node("Identity", ["x"], ["y"])
        graph = helper.make_graph([node], "g", values[:1], values[1:])
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
        path = out_dir / "model.onnx"
        path.write_bytes(model.SerializeToString())
        x = np.ones((2, 2), np.float32)
        return Converted(graph=path, cases=(Case(inputs={"x": x}, outputs={"y": x}),), sources=(recognition.model,),
                         notes=(f"made with {tf2onnx.__version__}",))

ODD = Odd()
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningEngine]:
    packages = tmp_path / "packages"
    info = packages / "odd-1.dist-info"
    info.mkdir(parents=True)
    (packages / "odd_package.py").write_text(FORMAT)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[studio.formats]\nodd = odd_package:ODD\n")
    wheel(tmp_path / "wheels", "tensorflow", "2.21.0")
    wheel(tmp_path / "wheels", "tensorflow_cpu", "2.21.0", requires=("tensorflow",))
    wheel(tmp_path / "wheels", "tf2onnx", "1.17.0")
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("STUDIO_ENVIRONMENTS", str(tmp_path / "environments"))
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "studio.toml").write_text(
        "[serving]\nport = 0\n[workers]\nrecipes = []\nmeasure_seconds = 0.4\n"
    )
    yield from running(tmp_path / "workspace")


def test_arrivals_that_need_an_environment_share_one_that_is_made(engine: RunningEngine, tmp_path: Path) -> None:
    client = engine.client
    (row,) = [row for row in client.environments() if row.name == "tensorflow"]
    assert row.state == "absent" and row.download > 10**8
    for number in range(2):
        (engine.inbox / f"model{number}.odd").write_bytes(b"ODD1%d" % number)
    told: set[str] = set()

    def done() -> bool:
        jobs = client.jobs()
        told.update(step.detail for job in jobs for step in job.steps if step.name == "converted")
        return len(jobs) == 2 and all(job.finished for job in jobs)

    until(done, "both jobs to end")
    assert [(job.state, job.problem) for job in client.jobs()] == [("done", None)] * 2
    assert any("environment 'tensorflow', once, about 290 MB" in text for text in told)
    assert client.version("model0", 1).manifest.notes[0] == "made with 1.17.0"
    log = (engine.workspace / "logs" / "environment-tensorflow.log").read_text()
    assert log.count("Successfully installed") == 1
    row = client.environment("tensorflow")
    assert row.state == "ready" and row.size > 0 and Path(row.folder).is_dir()
    with pytest.raises(Conflict, match="there already"):
        client.make_environment("tensorflow")
    assert client.remove_environment("tensorflow") == row.size
    assert client.environment("tensorflow").state == "absent"
    with pytest.raises(NotFound, match="no converter environment"):
        client.make_environment("other")


def test_where_none_may_be_made_by_itself_the_user_makes_it(engine: RunningEngine, tmp_path: Path) -> None:
    engine.stop()
    settings = engine.workspace / "studio.toml"
    settings.write_text(settings.read_text() + 'environments = "never"\n')
    client = engine.start()
    (engine.inbox / "model.odd").write_bytes(b"ODD1")
    job = until(lambda: next((job for job in client.jobs() if job.finished), None), "the job to end")
    assert job.problem is not None and "studio environments make tensorflow" in job.problem.fix
    # The first try fails with pip's words, and nothing is left in the way of the second.
    (tmp_path / "wheels" / "tf2onnx-1.17.0-py3-none-any.whl").rename(tmp_path / "away")
    assert client.make_environment("tensorflow").state == "making"
    row = until(lambda: (row := client.environment("tensorflow")).state != "making" and row, "the try to end")
    assert row.state == "failed" and row.problem is not None
    assert "could not be installed" in row.problem.what and "tf2onnx" in row.problem.why
    (tmp_path / "away").rename(tmp_path / "wheels" / "tf2onnx-1.17.0-py3-none-any.whl")
    client.make_environment("tensorflow")
    until(lambda: client.environment("tensorflow").state == "ready", "the environment")
    client.retry_job(job.id)
    assert until(lambda: client.job(job.id).finished and client.job(job.id), "the job to end").state == "done"
