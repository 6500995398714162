"""The alias that a settings file asks for: moved once, after its target is warm, and never against a later decision."""

from __future__ import annotations

import asyncio

from studio.engine.wishes import move_alias
from tests.engine.conftest import Parts


async def alias_of(parts: Parts, alias: str = "production") -> str:
    return (await parts.keep.model_detail("digits")).aliases.get(alias, "")


async def test_it_names_the_new_version(parts: Parts) -> None:
    job, _ = await parts.registered("production")
    await move_alias(parts.keep, parts.jobs, job.id)
    assert await alias_of(parts) == "1-fp32"
    (move,) = await parts.keep.alias_moves("digits", "production")
    assert (move.actor, move.why) == ("engine", "asked for in its settings")
    assert parts.jobs.get(job.id).step("registered").detail == "digits:1 serves, and is digits:production"
    assert not parts.jobs.get(job.id).note


async def test_a_target_that_can_not_be_loaded_leaves_it_where_it_was(parts: Parts) -> None:
    first, _ = await parts.registered("production")
    await move_alias(parts.keep, parts.jobs, first.id)
    parts.server.broken = {"digits:2-fp32": "out of memory"}
    second, _ = await parts.registered("production")
    await move_alias(parts.keep, parts.jobs, second.id)
    assert await alias_of(parts) == "1-fp32"
    note = parts.jobs.get(second.id).note
    assert note.startswith("The alias 'production' stays where it was.")
    assert "out of memory" in note
    assert [line.text for line in parts.logs.read("job", "warning")] == [f"digits: {note}"]


async def test_a_name_that_is_none_is_told(parts: Parts) -> None:
    job, _ = await parts.registered("latest")
    await move_alias(parts.keep, parts.jobs, job.id)
    assert "'latest' can not be moved" in parts.jobs.get(job.id).note


async def test_again_after_a_crash_does_nothing(parts: Parts) -> None:
    job, _ = await parts.registered("production")
    await move_alias(parts.keep, parts.jobs, job.id)
    await move_alias(parts.keep, parts.jobs, job.id)
    assert len(await parts.keep.alias_moves("digits", "production")) == 1


async def test_what_a_user_decided_since_stands(parts: Parts) -> None:
    await parts.registered()
    job, _ = await parts.registered("production")
    await parts.keep.move_alias("digits", "production", "1", "", "tui")
    await move_alias(parts.keep, parts.jobs, job.id)
    assert await alias_of(parts) == "1-fp32"
    assert not parts.jobs.get(job.id).note


async def test_what_a_user_decided_before_does_not(parts: Parts) -> None:
    await parts.registered()
    await parts.keep.move_alias("digits", "production", "1", "", "tui")
    await asyncio.sleep(0.01)  # the journal's clock shows milliseconds
    job, _ = await parts.registered("production")
    await move_alias(parts.keep, parts.jobs, job.id)
    assert await alias_of(parts) == "2-fp32"


async def test_of_two_at_once_the_newer_version_gets_it(parts: Parts) -> None:
    older, _ = await parts.registered("production")
    newer, _ = await parts.registered("production")
    await move_alias(parts.keep, parts.jobs, newer.id)
    await move_alias(parts.keep, parts.jobs, older.id)
    assert await alias_of(parts) == "2-fp32"
    third, _ = await parts.registered("candidate")
    await move_alias(parts.keep, parts.jobs, third.id)
    assert (await alias_of(parts), await alias_of(parts, "candidate")) == ("2-fp32", "3-fp32")


async def test_the_older_one_first_loses_it_to_the_newer(parts: Parts) -> None:
    older, _ = await parts.registered("production")
    newer, _ = await parts.registered("production")
    await move_alias(parts.keep, parts.jobs, older.id)
    await move_alias(parts.keep, parts.jobs, newer.id)
    assert await alias_of(parts) == "2-fp32"


async def test_no_wish_and_no_version_move_nothing(parts: Parts) -> None:
    job, _ = await parts.registered()
    await move_alias(parts.keep, parts.jobs, job.id)
    await move_alias(parts.keep, parts.jobs, parts.job("other", "other.toy").id)
    assert await alias_of(parts) == ""
