"""Turns: few at a time, the first to come first, and no place is lost."""

from __future__ import annotations

import asyncio

from studio.engine.turns import Turns


async def test_who_came_first_goes_first_however_late_it_asks() -> None:
    turns = Turns(2)
    order: list[float] = []
    inside = most = 0

    async def work(came: float) -> None:
        nonlocal inside, most
        async with turns.turn(came):
            order.append(came)
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    tasks = []
    for came in (5.0, 4.0, 9.0, 3.0, 7.0, 1.0):
        tasks.append(asyncio.create_task(work(came)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == [5.0, 4.0, 1.0, 3.0, 7.0, 9.0]
    assert most == 2


async def test_places_of_the_cancelled_are_not_lost() -> None:
    turns = Turns(1)

    async def pass_through(came: float) -> float:
        async with turns.turn(came):
            return came

    async with turns.turn(0):
        waiting = [asyncio.create_task(pass_through(came)) for came in (1.0, 2.0, 3.0)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # while it waits
        await asyncio.sleep(0)
    waiting[1].cancel()  # in the moment in which it is given its place
    async with asyncio.timeout(5):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] == 3.0
    async with asyncio.timeout(5):
        assert await pass_through(4.0) == 4.0
