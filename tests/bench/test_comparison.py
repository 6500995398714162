"""Whole comparisons: the real load process against a real, small HTTP server."""

import asyncio
import itertools
import json
import os
import time

import numpy as np
import psutil
import pytest

from studio.bench.comparison import run_comparison
from studio.bench.driver import Driver
from studio.bench.load import slice_length
from studio.bench.plan import LoadArm, LoadPlan, infer_path
from studio.bench.requests import bodies_for, http_request, infer_body
from studio.core.comparison import Arm, Comparison, Plan
from studio.core.routing import Target
from studio.core.tensors import Signature, TensorSpec
from tests.bench.stub import stub_server

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", ("batch", 4)),), (TensorSpec("y", "FP32", ("batch", 2)),), batchable=True
)


def target(version, variant="fp32", signature=SIGNATURE):
    return Target(model="m", version=version, variant=variant, path="", sha256="", signature=signature)


def comparison_of(targets, **plan):
    names = tuple(one.name for one in targets)
    arms = tuple(Arm(label="ABCD"[place], target=name) for place, name in enumerate(names))
    return Comparison(id="1", state="queued", plan=Plan(references=names, **plan), created=0.0, arms=arms)


async def run(url, targets, samples=None, told=None, **plan):
    updates = [] if told is None else told
    return await run_comparison(comparison_of(targets, **plan), url, targets, samples or {}, updates.append)


def children():
    return [one for one in psutil.Process().children(recursive=True) if "studio.bench.load" in " ".join(one.cmdline())]


async def test_a_planted_difference_is_found_through_http():
    updates = []
    slow, fast = target(1), target(1, "int8")
    async with stub_server(lambda path, _: (0.012 if path == infer_path(slow) else 0.004, 200)) as stub:
        done = await run(stub.url, [slow, fast], told=updates, seconds=4.0, slice_seconds=0.25)
    assert done.state == "done" and done.problem is None
    assert done.arms[0].p50 >= 12 and 4 <= done.arms[1].p50 < done.arms[0].p50
    row = {row.metric: row for row in done.rows}["p50"]
    assert row.better == "B" and row.ratio.low > 1.2
    assert done.verdict.startswith("B is faster than A")
    assert done.inputs == "synthetic" and done.samples == 64
    assert sum(arm.requests for arm in done.arms) > 100 and not any(arm.errors for arm in done.arms)
    assert done.elapsed >= 4.0
    assert 1 <= len(updates) <= 2 * done.elapsed + 3
    assert all(update.state == "running" and not update.rows for update in updates)
    assert any(update.arms[0].series for update in updates), "series grow while it runs"
    for arm in done.arms:
        assert len(arm.series) >= 3 and [p.at for p in arm.series] == sorted({p.at for p in arm.series})
        assert all(point.p50 > 0 and point.requests > 0 for point in arm.series)
    assert set(stub.counts) == {infer_path(slow), infer_path(fast)}


async def test_the_arms_get_the_same_samples(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.arange(12, dtype=np.float32).reshape(3, 4), labels=np.array([0, 1, 0]))
    one, two = target(1), target(2)
    async with stub_server(lambda *_: (0.001, 200)) as stub:
        done = await run(stub.url, [one, two], {one.name: tmp_path / "s.npz"}, seconds=1.0)
    assert (done.inputs, done.samples) == ("labelled", 3)
    sent = {path: set(bodies) for path, bodies in stub.bodies.items()}
    assert sent[infer_path(one)] == sent[infer_path(two)] and len(sent[infer_path(one)]) == 3
    for body, cut in sent[infer_path(one)]:
        head = json.loads(body[:cut])
        assert head["inputs"][0]["shape"] == [1, 4] and head["parameters"] == {"binary_data_output": True}
        assert np.frombuffer(body[cut:], "<f4")[0] in (0, 4, 8)


async def test_a_load_test_of_one_arm():
    async with stub_server(lambda *_: (0.002, 200)) as stub:
        done = await run(stub.url, [target(1)], seconds=1.0, clients=4)
    assert done.state == "done" and done.rows == ()
    assert done.arms[0].throughput > 100 and "4 clients" in done.verdict
    assert stub.connections == 4, "connections are kept alive"


async def test_an_arm_that_never_answers_well_is_a_problem_with_words():
    async with stub_server(lambda path, _: (0, 200 if "1-fp32" in path else 500)) as stub:
        done = await run(stub.url, [target(1), target(2)], seconds=1.0)
    assert done.state == "failed" and done.problem.code == "unavailable"
    assert "m:2-fp32" in done.problem.what and "HTTP 500" in done.problem.why and "planted" in done.problem.why
    assert done.problem.fix


async def test_no_server_is_a_problem_with_words():
    done = await run("http://127.0.0.1:9", [target(1)], seconds=1.0)
    assert done.state == "failed" and "refused" in done.problem.why


async def test_some_failures_are_counted_and_told():
    async with stub_server(lambda path, count: (0.001, 503 if "2-fp32" in path and count % 10 == 0 else 200)) as stub:
        done = await run(stub.url, [target(1), target(2)], seconds=2.0)
    assert done.state == "done" and done.arms[0].errors == 0 < done.arms[1].errors
    assert "B failed" in done.verdict


async def test_cancelling_kills_the_load_process():
    async with stub_server(lambda *_: (0.001, 200)) as stub:
        task = asyncio.create_task(run(stub.url, [target(1), target(2)], seconds=600.0))
        async with asyncio.timeout(30):
            while not stub.counts:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        [process] = children()
        assert os.getpgid(process.pid) == process.pid, "a group of its own"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        assert not children()


async def test_a_load_process_that_dies_is_a_problem_with_words():
    async with stub_server(lambda *_: (0.001, 200)) as stub:
        task = asyncio.create_task(run(stub.url, [target(1)], seconds=600.0))
        async with asyncio.timeout(30):
            while not stub.counts:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        children()[0].kill()
        done = await task
    assert done.state == "failed" and done.problem.code == "step_failed"
    assert done.problem.fix


async def drive(url, requests, clients=1, seconds=0.5, patience=5.0):
    def work():
        driver = Driver(url, clients, patience)
        try:
            return driver.run(itertools.cycle(requests), seconds)
        finally:
            driver.close()

    return await asyncio.to_thread(work)


def some_request(url, rows=1):
    body = infer_body(SIGNATURE, {"x": np.zeros((rows, 4), np.float32)})
    return http_request(url, "/v2/models/m/infer", body)


async def test_answers_in_pieces_are_put_together():
    async with stub_server(lambda *_: (0, 200)) as stub:
        stub.split = True
        turn = await drive(stub.url, [some_request(stub.url)], clients=3)
    assert turn.errors == 0 and len(turn.latencies) == turn.requests >= 3


async def test_large_bodies_are_sent_whole():
    async with stub_server(lambda *_: (0.001, 200)) as stub:
        turn = await drive(stub.url, [some_request(stub.url, rows=500_000)], clients=2, seconds=0.3)
    assert turn.errors == 0 and turn.requests >= 2
    assert {len(body) for body, _ in stub.bodies["/v2/models/m/infer"]} == {
        len(infer_body(SIGNATURE, {"x": np.zeros((500_000, 4), np.float32)}).data)
    }


async def test_a_server_that_hangs_up_costs_one_request_each_time():
    async with stub_server(lambda *_: (0.001, 200)) as stub:
        stub.hang_up = {3, 7}
        turn = await drive(stub.url, [some_request(stub.url)])
    assert turn.errors == 2 and len(turn.latencies) == turn.requests - 2 > 5
    assert "closed" in turn.error and stub.connections == 3


async def test_a_request_that_hangs_is_given_up():
    async with stub_server(lambda _, count: (3600 if count == 2 else 0.001, 200)) as stub:
        began = time.monotonic()
        turn = await drive(stub.url, [some_request(stub.url)], seconds=2.0, patience=0.3)
        assert time.monotonic() - began < 60
    assert turn.errors == 1 and "no answer" in turn.error and len(turn.latencies) > 5


def test_requests_carry_every_datatype_as_the_protocol_says():
    signature = Signature(
        (
            TensorSpec("b", "BOOL", ("batch",)),
            TensorSpec("s", "BYTES", ("batch", 2)),
            TensorSpec("i", "INT64", ("batch", 2)),
            TensorSpec("h", "FP16", ("batch",)),
        ),
        (),
    )
    feed = {
        "b": np.array([True]),
        "s": np.array([["a", b"\xff\0"]], dtype=object),
        "i": np.array([[1, -1]], dtype=">i8"),
        "h": np.array([1.0], np.float16),
    }
    body = infer_body(signature, feed)
    head = json.loads(body.data[: body.json_bytes])
    assert [one["parameters"]["binary_data_size"] for one in head["inputs"]] == [1, 11, 16, 2]
    assert body.data[body.json_bytes :] == (
        b"\x01" + b"\x01\0\0\0a" + b"\x02\0\0\0\xff\0" + b"\x01" + bytes(7) + b"\xff" * 8 + b"\x00\x3c"
    )


def test_samples_that_do_not_fit_are_passed_over_for_ones_that_do(tmp_path):
    np.savez(tmp_path / "wrong.npz", x=np.zeros((3, 9), np.float32))
    np.savez(tmp_path / "right.npz", x=np.ones((3, 4), np.float32))
    found = bodies_for(SIGNATURE, (str(tmp_path / "wrong.npz"), str(tmp_path / "right.npz")))
    assert (found.kind, len(found.bodies)) == ("samples", 3)
    assert bodies_for(SIGNATURE, (str(tmp_path / "wrong.npz"),)).kind == "synthetic"
    assert bodies_for(SIGNATURE, (), 1) == bodies_for(SIGNATURE, (), 1) != bodies_for(SIGNATURE, (), 2)


@pytest.mark.parametrize(("seconds", "arms", "expected"), [(20, 2, 0.5), (4, 2, 0.1), (1, 4, 0.05)])
def test_short_comparisons_still_get_rounds_enough(seconds, arms, expected):
    arm = LoadArm(label="", path="", signature=SIGNATURE)
    assert slice_length(LoadPlan(url="", arms=(arm,) * arms, seconds=seconds, slice_seconds=0.5)) == expected
