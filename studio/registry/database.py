"""The DuckDB file: connecting, migrating, setting aside what can not be used."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from studio.core import codec
from studio.core.errors import Conflict, StudioError, Unavailable
from studio.registry.rows import COLUMNS, Row

Parameters = Sequence[Any] | dict[str, Any]

MEMORY_LIMIT = "512MB"
_MIGRATION = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql")


class NewerSchema(Conflict):
    """The file was made by a Studio that knows more migrations."""


class Database:
    """One connection. Errors of DuckDB become Unavailable, so that no caller sees a bare traceback."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file. Raises duckdb.Error for a file that can not be used, Conflict for one
        in use, Unavailable for one that is not ours."""
        self.path = path
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise Unavailable(f"{path} can not be opened.", "You may not read and write it.", f"Run: chmod 600 {path}")
        try:
            self._connection = duckdb.connect(
                str(path),
                config={
                    # Nothing phones home: no extension is ever fetched.
                    "autoinstall_known_extensions": "false",
                    "autoload_known_extensions": "false",
                    "memory_limit": MEMORY_LIMIT,
                    "threads": "2",
                },
            )
        except duckdb.Error as error:
            if "Could not set lock" in str(error):
                raise Conflict(
                    f"{path.name} is in use by another process.",
                    f"{str(error).splitlines()[0]}.",
                    "Close the program that has it open (a DuckDB shell?), then start Studio again.",
                ) from error
            raise

    def close(self) -> None:
        self._connection.close()

    def rows(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """All rows of a statement. Raises Unavailable."""
        with _in_words(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def records(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """All rows as dicts by column name. Raises Unavailable."""
        with _in_words(self.path):
            result = self._connection.execute(sql, parameters)
            names = [column[0] for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def run(self, sql: str, parameters: Parameters = ()) -> None:
        """A statement without rows. Raises Unavailable."""
        with _in_words(self.path):
            self._connection.execute(sql, parameters)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; committed to disk at the end. Raises Unavailable."""
        self.run("BEGIN")
        try:
            yield
        except BaseException:
            # It fails where DuckDB has rolled back by itself, or the connection is beyond use: the first error tells.
            with suppress(duckdb.Error):
                self._connection.execute("ROLLBACK")
            raise
        self.run("COMMIT")

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """A few rows in one statement. Raises Unavailable."""
        if not rows:
            return
        columns = list(COLUMNS[table])
        holes = ", ".join([f"({', '.join('?' * len(columns))})"] * len(rows))
        names = ", ".join(columns)
        self.run(f"INSERT INTO {table} ({names}) VALUES {holes}", [row[c] for row in rows for c in columns])  # noqa: S608

    def load(self, table: str, rows: Iterable[Row], scratch: Path) -> None:
        """Many rows: through newline-delimited JSON in the folder `scratch`. Raises Unavailable."""
        columns = COLUMNS[table]
        with tempfile.NamedTemporaryFile(dir=scratch, prefix=".tmp-", suffix=".ndjson") as file:
            for row in rows:
                file.write(codec.encode(row) + b"\n")
            file.flush()
            if os.fstat(file.fileno()).st_size == 0:
                return
            types = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
            names = ", ".join(columns)
            self.run(
                f"INSERT INTO {table} ({names}) SELECT {names} FROM "  # noqa: S608
                f"read_json(?, format = 'newline_delimited', columns = {{{types}}})",
                [file.name],
            )

    def migrate(self) -> None:
        """Brings the schema up to date. Raises duckdb.Error, or NewerSchema."""
        connection = self._connection
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER, name VARCHAR, applied VARCHAR)")
        done = {number for (number,) in connection.execute("SELECT number FROM migrations").fetchall()}
        known = migrations()
        if done - {number for number, _, _ in known}:
            raise NewerSchema(
                f"{self.path.name} was written by a newer Studio.",
                f"It has migration {max(done)}; this Studio knows {known[-1][0]}.",
                "Upgrade Studio.",
            )
        for number, name, sql in known:
            if number in done:
                continue
            connection.execute("BEGIN")
            connection.execute(sql)
            applied = datetime.now(UTC).isoformat(timespec="seconds")
            connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", [number, name, applied])
            connection.execute("COMMIT")


def migrations() -> list[tuple[int, str, str]]:
    """(number, file name, SQL) of every migration, in order."""
    found = []
    for file in resources.files("studio.registry").joinpath("migrations").iterdir():
        match = _MIGRATION.fullmatch(file.name)
        if match:
            found.append((int(match[1]), file.name, file.read_text(encoding="utf-8")))
    return sorted(found)


def set_aside(path: Path, write_ahead_log_only: bool = False) -> Path | None:
    """Renames the file and what DuckDB keeps next to it to `….broken-<time>`. Returns the new name of the first."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    moved: Path | None = None
    for name in sorted(entry.name for entry in path.parent.iterdir()):
        tail = name.removeprefix(path.name)
        own = name.startswith(path.name) and not tail.startswith((".broken-", ".opening"))
        if not own or (write_ahead_log_only and not tail):
            continue
        aside = path.with_name(f"{path.name}.broken-{stamp}{tail}")
        path.with_name(name).rename(aside)
        moved = moved or aside
    return moved


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise in_words(path, error) from error


def in_words(path: Path, error: duckdb.Error) -> StudioError:
    """DuckDB's error as one of ours."""
    reason = str(error).strip().splitlines()[0]
    return Unavailable(
        f"The registry {path.name} failed.",
        f"{type(error).__name__}: {reason}",
        "Restart the engine: it repairs the registry, or rebuilds it from the store.",
    )
