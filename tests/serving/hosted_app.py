"""What another server is told to host: `uvicorn tests.serving.hosted_app:app`. HOSTED is where the models are made."""

from __future__ import annotations

import os
from pathlib import Path

from studio.serving.hosted import application
from tests.serving import graphs

FOLDER = Path(os.environ["HOSTED"])
app = application(graphs.table(graphs.scaled(FOLDER, 3.0, model="m"), graphs.slow(FOLDER, model="slow")))
