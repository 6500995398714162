"""Waiting jobs in the client: waiting ends with the question, and answers carry what was shown and who says it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.client import Client
from studio.client.client import raise_failure
from studio.core.errors import CodeFile, Conflict, NeedsSettings, NeedsTrust, NotFound
from studio.core.journal import TrustedCode
from studio.core.tensors import TensorSpec
from studio.core.views import TrustAnswer
from tests.client import values
from tests.client.fake_engine import TOKEN, FakeEngine

FILE = CodeFile(name="net.pt", sha256="a" * 64, imports=("os.system",))
TRUSTED = TrustedCode(sha256="a" * 64, name="net.pt", imports="os.system", actor="cli", at="2026-11-21T04:10:00.000Z")
HINT = TensorSpec("image", "FP32", ("batch", 3, "?"))


def test_waiting_for_a_job_ends_with_its_question(engine: FakeEngine, client: Client) -> None:
    trust, shapes = NeedsTrust((FILE,)).problem, NeedsSettings("It has no shapes.", ("image",), hints=(HINT,)).problem
    course = [values.job(), values.job(state="waiting", problem=trust)]
    engine.on("GET", "/api/jobs/j1", lambda _: course.pop(0) if len(course) > 1 else course[0])
    job = client.wait_job("j1", timeout=20)
    assert (job.state, job.standing) == ("waiting", "needs trust")
    with pytest.raises(NeedsTrust) as asked:
        raise_failure(job)
    assert asked.value.code_files == (FILE,)
    course[0] = values.job(state="waiting", problem=shapes)
    with pytest.raises(NeedsSettings) as missing:
        raise_failure(client.wait_job("j1", timeout=20))
    assert (missing.value.missing_inputs, missing.value.hints) == (("image",), (HINT,))


def test_a_yes_names_what_was_shown_and_who_says_it(engine: FakeEngine) -> None:
    answer = TrustAnswer(code=(TRUSTED,), jobs=(replace(values.job(), state="queued"),))
    engine.on("POST", "/api/trust", answer)
    engine.on("POST", "/api/distrust", TRUSTED)
    engine.on("GET", "/api/trust", [TRUSTED])
    client = Client(engine.url, TOKEN, actor="cli")
    assert client.trust(FILE.sha256, "b" * 64) == answer
    assert engine.asked("POST", "/api/trust") == [{"sha256": [FILE.sha256, "b" * 64], "actor": "cli"}]
    assert client.trusted() == (TRUSTED,)
    assert client.distrust(FILE.sha256) == TRUSTED
    assert engine.asked("POST", "/api/distrust") == [{"sha256": FILE.sha256, "actor": "cli"}]
    engine.on("POST", "/api/trust", NotFound("No job asks to run it."))
    with pytest.raises(NotFound, match="No job asks"):
        client.trust("c" * 64)


def test_inputs_travel_as_they_are(engine: FakeEngine, client: Client) -> None:
    engine.on("POST", "/api/jobs/j1/inputs", {"file": "/w/inbox/net.toml"})
    assert client.describe_inputs("j1", [TensorSpec("image", "FP32", ("batch", 3))]) == "/w/inbox/net.toml"
    (body,) = engine.asked("POST", "/api/jobs/j1/inputs")
    assert body == {"inputs": [{"name": "image", "datatype": "FP32", "shape": ["batch", 3]}]}
    engine.on("POST", "/api/jobs/j1/inputs", Conflict("It asks nothing."))
    with pytest.raises(Conflict):
        client.describe_inputs("j1", [])
