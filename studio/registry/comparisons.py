"""Finished comparisons, kept as they were."""

from __future__ import annotations

from studio.core import codec
from studio.core.comparison import Comparison
from studio.core.errors import NotFound
from studio.registry.registry import Registry


def save_comparison(registry: Registry, comparison: Comparison) -> None:
    """Keeps a comparison, in place of an earlier one with the same id. Raises Unavailable."""
    with registry.database.transaction():
        registry.database.run("DELETE FROM comparisons WHERE id = ?", [comparison.id])
        registry.database.run(
            "INSERT INTO comparisons VALUES (?, ?, ?, ?)",
            [comparison.id, comparison.created, comparison.state, codec.encode(comparison).decode()],
        )


def list_comparisons(registry: Registry, limit: int = 100) -> list[Comparison]:
    """The newest, newest first. Raises Unavailable."""
    rows = registry.database.rows("SELECT document FROM comparisons ORDER BY created DESC, id DESC LIMIT ?", [limit])
    return [codec.decode(document, Comparison, "comparison") for (document,) in rows]


def get_comparison(registry: Registry, key: str) -> Comparison:
    """Raises NotFound."""
    rows = registry.database.rows("SELECT document FROM comparisons WHERE id = ?", [key])
    if not rows:
        raise NotFound(f"There is no comparison {key[:80]!r}.", "It was never run, or the registry was replaced since.")
    return codec.decode(rows[0][0], Comparison, "comparison")
