"""`python -m tests.bench_serve.grpc_load PORT BODY`: ModelInfer with the message in the file BODY, as it is.

Reads "CALLS_AT_ONCE SECONDS" lines and answers each with a line of JSON. Messages are neither built nor parsed here, so
that the client takes as little as it can from the cores that it shares with the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import uvloop

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CHANNELS = 4


async def load(port: int, body: bytes, at_once: int, seconds: float) -> dict[str, float]:
    """Calls of that many callers, each after its last was answered, over at most CHANNELS connections."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(min(CHANNELS, at_once))]
    times: list[float] = []
    failed = 0

    async def caller(number: int, until: float) -> None:
        nonlocal failed
        call = channels[number % len(channels)].unary_unary(METHOD)
        before = time.perf_counter()
        while before < until:
            try:
                await call(body)
            except grpc.RpcError:
                failed += 1
            now = time.perf_counter()
            times.append(now - before)
            before = now

    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    began = time.perf_counter()
    await asyncio.gather(*(caller(number, began + seconds) for number in range(at_once)))
    spent = time.perf_counter() - began
    for channel in channels:
        await channel.close()
    p50, p99 = 1e6 * np.percentile(times, (50, 99))
    return {"requests": len(times), "seconds": spent, "failed": failed, "p50": float(p50), "p99": float(p99)}


def main(port: str, body: str) -> None:
    message = Path(body).read_bytes()
    print("{}", flush=True)
    for line in sys.stdin:
        at_once, seconds = int(line.split()[0]), float(line.split()[1])
        print(json.dumps(uvloop.run(load(int(port), message, at_once, seconds))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
