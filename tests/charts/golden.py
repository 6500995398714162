"""Golden plain text. `STUDIO_WRITE_GOLDENS=1` writes what is drawn now; look at the difference before committing it."""

from __future__ import annotations

import os
from pathlib import Path


def check(folder: Path, name: str, drawn: str) -> None:
    path = folder / "goldens" / f"{name}.txt"
    if os.environ.get("STUDIO_WRITE_GOLDENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(drawn + "\n", encoding="utf-8")
    assert drawn + "\n" == path.read_text(encoding="utf-8"), f"{path.name} differs; now it is:\n{drawn}"
