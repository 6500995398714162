"""What every protocol shares: the parts of the server, and how one request is run and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from studio.core.routing import Target
from studio.core.settings import ServingSettings
from studio.serving.executor import Executor, Ticket
from studio.serving.http import Connection, Disconnected
from studio.serving.router import Router
from studio.serving.sessions import Array, LoadedModel
from studio.serving.statistics import Phases, Statistics


@dataclass(slots=True)
class Service:
    """`ready` tells whether the first routing table is in force and the server is not draining.

    `touch` is called whenever there is something new to report to the owner of the server.
    """

    settings: ServingSettings
    router: Router
    executor: Executor
    statistics: Statistics
    touch: Callable[[], None]
    ready: bool = False


async def run(
    service: Service,
    connection: Connection,
    model: LoadedModel,
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    timeout_us: int = 0,
) -> tuple[list[Array], Ticket]:
    """The outputs in that order, and the ticket with its times.

    Raises Busy, Expired, InvalidInput, ModelFailed; Disconnected when the client went away before the run began.
    """
    ticket = service.executor.submit(model, inputs, outputs, timeout_us)
    connection.on_lost.append(ticket.cancel)
    try:
        return await ticket.future, ticket
    except asyncio.CancelledError:
        if ticket.cancelled:
            raise Disconnected from None
        ticket.cancel()
        raise
    finally:
        connection.on_lost.remove(ticket.cancel)


def count_success(
    service: Service, target: Target, protocol: str, rows: int, started_ns: int, parsing_ns: int, ticket: Ticket
) -> None:
    """Count a request that is answered now. It arrived at `started_ns`, and parsing it took `parsing_ns`."""
    now = time.perf_counter_ns()
    phases = Phases(
        compute_input=parsing_ns,
        queue=ticket.started_ns - ticket.queued_ns,
        compute_infer=ticket.ended_ns - ticket.started_ns,
        compute_output=now - ticket.ended_ns,
    )
    service.statistics.success(target.name, protocol, rows, now - started_ns, phases)
    service.touch()


def count_failure(
    service: Service, target: Target | None, protocol: str, status: int, started_ns: int, error: str
) -> None:
    """Count a request that failed; `target` is None where none was found."""
    elapsed = time.perf_counter_ns() - started_ns
    service.statistics.failure(target.name if target else "", protocol, status, elapsed, error)
    service.touch()


def batch_rows(target: Target, inputs: Mapping[str, Array]) -> int:
    """Rows of the batch: the first dimension of the first input where the target was seen to take batches, else 1."""
    if not target.signature.batchable or not target.signature.inputs:
        return 1
    shape = inputs[target.signature.inputs[0].name].shape
    return shape[0] if shape else 1
