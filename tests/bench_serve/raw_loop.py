"""`python -m tests.bench_serve.raw_loop MODEL ROWS.npy`: ONNX Runtime in a loop, batch 1, one process, no server.

Reads "THREADS SECONDS" lines and answers each with a line of JSON. The threads share one session.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime


def main(model: str, rows: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {"x": np.load(rows)}
    for _ in range(3):
        session.run(["y"], feeds)
    print("{}", flush=True)
    for line in sys.stdin:
        threads, seconds = int(line.split()[0]), float(line.split()[1])
        times: list[list[float]] = [[] for _ in range(threads)]
        began = time.perf_counter()

        def loop(mine: list[float], until: float) -> None:
            before = time.perf_counter()
            while before < until:
                session.run(["y"], feeds)
                now = time.perf_counter()
                mine.append(now - before)
                before = now

        runners = [threading.Thread(target=loop, args=(mine, began + seconds)) for mine in times[1:]]
        for runner in runners:
            runner.start()
        loop(times[0], began + seconds)
        for runner in runners:
            runner.join()
        spent = time.perf_counter() - began
        p50, p99 = 1e6 * np.percentile(np.concatenate(times), (50, 99))
        said = {"requests": sum(map(len, times)), "seconds": spent, "p50": float(p50), "p99": float(p99)}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
