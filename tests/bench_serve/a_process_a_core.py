"""`python -m tests.bench_serve.a_process_a_core PORT MODEL FOLDER`: Studio's server with `serving.workers` = cores.

The engine's own supervisor starts the processes, on one socket. Ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from studio.core.settings import ServingSettings
from studio.engine.supervisor import Supervisor
from tests.bench_serve import models
from tests.serving import graphs


async def main(port: int, model: str, folder: Path) -> None:
    settings = ServingSettings(port=port, workers=os.cpu_count() or 1)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    supervisor = Supervisor(
        settings,
        folder / "processes.log",
        folder / "cache",
        lambda status: None,
        lambda tick: None,
        lambda requests: None,
        lambda level, text: print(level, text, flush=True),
    )
    await supervisor.apply(graphs.table(models.make(model, folder).target))  # before the first of them listens
    await supervisor.start()
    await ended.wait()
    await supervisor.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
