"""`make formats`: run the tests that convert, and write what they saw into the table of docs/formats.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "formats.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
_HEAD = "| Format | Tried | Worst relative error | Same top answer | Free batch | Batches compared | Seconds |\n"
_RULE = "|---|---|---|---|---|---|---|\n"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, by format and then in the order of their names."""
    lines = [_line(row) for row in sorted(rows, key=lambda row: (row["format"].lower(), row["tried"].lower()))]
    return _HEAD + _RULE + "".join(lines)


def _line(row: dict[str, Any]) -> str:
    agreement = "–" if row["agreement"] is None else f"{100 * row['agreement']:.4g} %"
    batches = ", ".join(map(str, row["batches"])) or "–"
    error = "equal" if row["parity"] == 0 else f"{row['parity']:.1e}"
    free = "yes" if row["free_batch"] else "no"
    return f"| {row['format']} | {row['tried']} | {error} | {agreement} | {free} | {batches} | {row['seconds']:.2g} |\n"


def main() -> None:
    """Raises SystemExit with pytest's status when a test fails: a table is written from passing tests alone."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "tests/pipeline", "-q", "-m", "not slow or environment"]
        done = subprocess.run(command, env={**os.environ, "STUDIO_FORMAT_ROWS": folder}, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
        rows = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    text = PAGE.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}{END}{after}")
    print(f"{len(rows)} rows in {PAGE.name}")


if __name__ == "__main__":
    main()
