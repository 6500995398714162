from __future__ import annotations

import threading
from itertools import islice

import pytest

from studio.client import Client
from studio.core.errors import Denied, Unavailable
from studio.core.events import Event
from tests.client.fake_engine import FakeEngine


def event(seq: int) -> Event:
    return Event(seq=seq, at=float(seq), kind="log", data={"text": f"line {seq} – größer", "level": "info"})


def test_events_arrive_in_order_and_whole(engine: FakeEngine, client: Client) -> None:
    engine.events = [event(1), event(2), event(3)]
    assert list(islice(client.events(since=1), 2)) == [event(2), event(3)]


def test_a_stream_that_ends_is_taken_up_where_it_was(engine: FakeEngine, client: Client) -> None:
    engine.events = [event(1), event(2)]
    source = client.events()
    assert [next(source), next(source)] == [event(1), event(2)]
    engine.events.append(event(3))
    assert next(source) == event(3)
    assert engine.since[0] == 0
    assert set(engine.since[1:]) == {2}


def test_stop_ends_a_stream_that_says_nothing(engine: FakeEngine, client: Client) -> None:
    engine.hold_stream.clear()
    engine.events = [event(1)]
    stop = threading.Event()
    got: list[Event] = []
    first = threading.Event()

    def listen() -> None:
        for one in client.events(stop=stop):
            got.append(one)
            first.set()

    thread = threading.Thread(target=listen)
    thread.start()
    assert first.wait(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert got == [event(1)]


def test_an_engine_that_stays_away_is_unavailable(engine: FakeEngine, client: Client) -> None:
    engine.events = [event(1)]
    source = client.events(patience=0.3)
    assert next(source) == event(1)
    engine.close()
    with pytest.raises(Unavailable):
        next(source)


def test_a_refusal_is_not_tried_again(engine: FakeEngine) -> None:
    with pytest.raises(Denied):
        next(Client(engine.url, "wrong").events())
    assert len(engine.requests) == 1
