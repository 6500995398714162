"""An error that nobody foresaw is answered all the same: a client that waits for ever is the worst answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from studio.serving.direct import Direct, DirectCall
from studio.serving.http import Response
from studio.serving.service import Exchange


class _Broken(Exchange):
    """Its parser fails in a way of its own."""

    protocol = "test"

    def begin(self, model: Any, body: Any, headers: Any) -> None:
        raise KeyError("nothing like it")

    def format(self, arrays: Any) -> Response:
        raise KeyError("nothing like it")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("studio.serving.service.count_failure", lambda *_: None)
    return SimpleNamespace(access=None, cache=None)


def test_a_parser_that_fails_is_answered(service: Any) -> None:
    answers: list[Response] = []
    found: Any = (_Broken, SimpleNamespace(name="m:1-fp32"), object(), None)
    call = DirectCall(object(), found, {}, 0, object())  # type: ignore[arg-type]
    Direct.begin(SimpleNamespace(_service=service), call, b"", answers.append)  # type: ignore[arg-type]
    assert [answer.status for answer in answers] == [500]
    assert b"Internal error (request " in answers[0].body


def test_an_answer_that_can_not_be_put_is_answered_and_harms_no_other(service: Any) -> None:
    answers: list[Response] = []
    connection = SimpleNamespace(on_lost=[])
    exchange = _Broken(service, object(), connection, 0, answers.append)  # type: ignore[arg-type]
    connection.on_lost.append(exchange._lost)
    exchange._done(SimpleNamespace(answer=list, cached=False))  # type: ignore[arg-type]
    assert [answer.status for answer in answers] == [500]
