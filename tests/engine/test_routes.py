"""Changing how requests are spread: nothing that can not be loaded takes any, and all of it can be taken back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from studio.core.errors import Conflict, InvalidInput, NotFound, Refused
from studio.core.metrics import ShadowFigures
from studio.core.route import Arm, Route, chosen
from studio.engine.shadows import MOST, Shadows
from tests.engine.conftest import Parts
from tests.engine.test_supervisor import FOUR, Pair, ask, server_of
from tests.serving import graphs

SPLIT = Route(split={"production": 90, "2": 10})


async def two_versions(parts: Parts) -> None:
    await parts.registered("a")
    await parts.registered("b")
    await parts.keep.move_alias("digits", "production", "1", "", "cli")


async def test_a_route_is_in_force_once_what_it_names_is_loaded(parts: Parts) -> None:
    await two_versions(parts)
    assert [arm.target for arm in parts.keep.route_detail("digits").arms] == ["digits:1-fp32"]
    assert parts.keep.route_details() == []
    await parts.keep.change_route("digits", lambda _: replace(SPLIT, shadow="2", share=0.5), "try", "cli")
    detail = parts.keep.route_detail("digits")
    assert [(arm.name, arm.target, arm.share) for arm in detail.arms] == [
        ("production", "digits:1-fp32", 0.9),
        ("2", "digits:2-fp32", 0.1),
    ]
    assert (detail.shadow, detail.shadow_name, detail.share) == ("digits:2-fp32", "2", 0.5)
    assert parts.keep.route_details() == [detail]
    await parts.keep.undo("cli")
    assert parts.keep.route_details() == []
    await parts.keep.rollback_route("digits", "", "cli")
    assert parts.keep.route_details() == [detail]


async def test_what_can_not_be_loaded_takes_no_request(parts: Parts) -> None:
    await two_versions(parts)
    parts.server.broken = {"digits:2-fp32": "It is damaged."}
    with pytest.raises(Refused, match="digits:2-fp32 could not be loaded"):
        await parts.keep.change_route("digits", lambda _: SPLIT, "", "cli")
    assert parts.keep.route_details() == []


async def test_what_is_wrong_is_told_before_anything_is_loaded(parts: Parts) -> None:
    await two_versions(parts)
    for route, error in (
        (Route(split={"nobody": 1}), NotFound),
        (Route(split={"1": 0}), InvalidInput),
        (Route(), Conflict),
    ):
        with pytest.raises(error):
            await parts.keep.change_route("digits", lambda _, route=route: route, "", "cli")  # type: ignore[misc]
    with pytest.raises(NotFound):
        await parts.keep.change_route("other", lambda _: SPLIT, "", "cli")
    with pytest.raises(NotFound):
        parts.keep.route_detail("other")


def test_figures_of_shadows_add_up_and_stay_few() -> None:
    shadows = Shadows()
    for cosine in (0.9, 0.7, 0.8):
        one = ShadowFigures(model="m", target="m:1-fp32", shadow="m:2-fp32", compared=1, rows=2, ranked=2, same=1)
        one.cosines, one.cosine_sum, one.cosine_min, one.max_abs = 1, cosine, cosine, 1 - cosine
        one.shadow_us.add(1000)
        shadows.add(one)
    (seen,) = shadows.of("m")
    assert (seen.compared, seen.rows, seen.agreement) == (3, 6, 0.5)
    assert seen.cosine_min == 0.7
    assert seen.cosine_sum / seen.cosines == pytest.approx(0.8)
    assert seen.max_abs == pytest.approx(0.3)
    assert seen.shadow_us.total == 3
    for number in range(MOST):
        shadows.add(ShadowFigures(model="n", target="n:1-fp32", shadow=f"n:{number}-fp32"))
    assert shadows.of("m") == ()
    assert len(shadows.of("n")) == MOST


async def test_two_processes_send_a_key_to_one_version_and_count_their_shadows_together(tmp_path: Path) -> None:
    split = (Arm(name="1", key="1-fp32", weight=50), Arm(name="2", key="2-fp32", weight=50))
    targets = [graphs.scaled(tmp_path, float(number), version=number) for number in (1, 2, 3)]
    table = graphs.table(*targets, generation=2)
    shadow = Arm(name="3", key="3-fp32", weight=1)
    table = replace(table, models={"m": replace(table.models["m"], split=split, shadow=shadow)})
    pair = Pair(tmp_path)
    await pair.supervisor.start()
    try:
        await pair.all_ready()
        assert await pair.supervisor.apply(table) == {}
        connections = await asyncio.to_thread(pair.connections)
        assert len({server_of(connection, pair.pids) for connection in connections}) == 2

        def answered(key: str) -> set[str]:
            """By whom, from both processes."""
            found = set()
            for connection in connections:
                connection.request("POST", "/v2/models/m/infer", json.dumps(FOUR), {"X-Studio-Key": key})
                response = connection.getresponse()
                response.read()
                found.add(response.headers["x-studio-reference"])
            return found

        def copies() -> int:
            document = json.loads(ask(connections[0], "GET", "/v2/models/m/stats")[1])
            return sum(one["compared"] + one["dropped"] for one in document.get("shadow_stats", ()))

        keys = [f"user-{number}" for number in range(12)]
        for key in keys:
            assert await asyncio.to_thread(answered, key) == {f"m:{chosen(split, 'm', key.encode()).key}"}
        for _ in range(1000):
            if await asyncio.to_thread(copies) == 2 * len(keys):
                break
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(copies) == 2 * len(keys)
    finally:
        await pair.supervisor.stop()
