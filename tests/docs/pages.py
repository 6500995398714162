"""The pages of the documentation, and the one that is generated: `python -m tests.docs.pages` writes it again."""

from __future__ import annotations

from pathlib import Path

from studio.tui.keys import keys_markdown

ROOT = Path(__file__).resolve().parents[2]
KEYS = ROOT / "docs" / "reference" / "keys.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "sample_models" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]

_HEAD = """# Keys

The keys of the terminal. This page is made from the table of actions: `python -m tests.docs.pages` writes it again.

Other keys go into `keys.toml` at the top of the workspace, by the action's name. A key is a character or a name as in
the table; a list gives several; an empty list takes the keys away. A clash is named when the terminal starts.

    [keys]
    promote = "P"
    "pane.zoom" = ["z", "f11"]

"""


def keys_page() -> str:
    return _HEAD + keys_markdown().rstrip() + "\n"


if __name__ == "__main__":
    KEYS.write_text(keys_page(), encoding="utf-8")
