"""Opening the registry: whatever state its file is in, what comes out fits the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from studio.core.errors import Unavailable
from studio.core.manifest import Machine
from studio.core.routing import ModelRoutes
from studio.registry.database import Database, NewerSchema, in_words, set_aside
from studio.registry.rebuild import difference, rebuild
from studio.registry.rows import Here
from studio.store.store import Store
from studio.store.workspace import Workspace

# An open that takes the process down with it leaves its mark; after so many the file is set aside unread.
_FATAL_OPENS = 3


@dataclass
class Registry:
    """The open registry with its store. `notices` say what was repaired or rebuilt; all calls from one thread."""

    store: Store
    database: Database
    notices: list[str] = field(default_factory=list)
    routes: dict[str, ModelRoutes] = field(default_factory=dict)
    """Routes by model as last built; `stale` names the models to build again, None = all."""
    stale: set[str] | None = None
    here: Here = field(default_factory=Here)

    @classmethod
    def open(cls, workspace: Workspace, store: Store | None = None, machine: Machine | None = None) -> Registry:
        """Opens store and registry. The caller holds the workspace's lock. Without `machine` no figure is called stale.

        Raises Conflict when another process has the DuckDB file open, Unavailable when the disk fails.
        """
        store = store or Store.open(workspace)
        notices = list(store.notices)
        notices.extend(problem.sentence() for problem in store.problems)
        database = _connect(workspace.registry, notices)
        try:
            here = Here(machine=machine, prefer=workspace.settings.workers.auto)
            registry = cls(store, database, notices, here=here)
            registry._fit()
        except BaseException:
            database.close()
            raise
        return registry

    def _fit(self) -> None:
        """Makes the index fit the store; a file that fails even now is replaced."""
        try:
            fresh = self._index()
        except Unavailable as error:
            path = self.database.path
            self.database.close()
            aside = set_aside(path)
            self.notices.append(_lost(path, aside, error.why))
            self.database = _create(path)
            fresh = self._index()
        if fresh:
            damaged = self.database.rows("SELECT what FROM unreadable ORDER BY ALL")
            self.notices.extend(what for (what,) in damaged)

    def _index(self) -> bool:
        _probe(self.database)
        why = difference(self.database, self.store, self.here)
        if why:
            rebuild(self.database, self.store, self.here)
            if self.store.journal.seq:
                self.notices.append(f"The registry was rebuilt from the store, because {why}.")
        return bool(why) or bool(self.database.rows("SELECT 1 FROM unreadable LIMIT 1"))

    def close(self) -> None:
        """Writes everything into the one file. A second call does nothing."""
        self.database.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _probe(database: Database) -> None:
    """Reads every value of every table, so that damage shows now and not in the middle of work."""
    for (table,) in database.rows("SELECT table_name FROM duckdb_tables() ORDER BY ALL"):
        database.rows(f"SELECT sum(hash({table})) FROM {table}")  # noqa: S608


def _connect(path: Path, notices: list[str]) -> Database:
    """The open, migrated database: as it is, else without its write-ahead log, else a new one."""
    mark = path.with_name(f"{path.name}.opening")
    opens = _count(mark)
    if opens >= _FATAL_OPENS:
        aside = set_aside(path)
        notices.append(_lost(path, aside, f"The last {opens} attempts to open it ended the process."))
        opens = 0
    mark.write_text(str(opens + 1))
    try:
        return _create(path)
    except NewerSchema as error:
        notices.append(_lost(path, set_aside(path), error.why))
    except duckdb.Error as error:
        reason = str(error).strip().splitlines()[0]
        database = _without_log(path, reason, notices)
        if database is not None:
            return database
        notices.append(_lost(path, set_aside(path), reason))
    finally:
        mark.unlink(missing_ok=True)
    try:
        return _create(path)
    except duckdb.Error as error:
        raise in_words(path, error) from error


def _without_log(path: Path, reason: str, notices: list[str]) -> Database | None:
    """The database as it was at its last checkpoint; None if that can not be opened either."""
    aside = set_aside(path, write_ahead_log_only=True)
    if aside is None:
        return None
    try:
        database = _create(path)
    except duckdb.Error:
        return None
    notices.append(
        f"The write-ahead log of {path.name} could not be replayed ({reason}); it was set aside as {aside.name}. "
        "The newest figures of charts may be missing."
    )
    return database


def _create(path: Path) -> Database:
    database = Database(path)
    try:
        database.migrate()
    except BaseException:
        database.close()
        raise
    return database


def _lost(path: Path, aside: Path | None, reason: str) -> str:
    kept = f"; it was set aside as {aside.name}" if aside else ""
    return (
        f"{path.name} could not be used ({reason}){kept}. Versions, aliases and history were rebuilt from the store; "
        "charts and past comparisons begin anew."
    )


def _count(mark: Path) -> int:
    try:
        return int(mark.read_text())
    except (OSError, ValueError):
        return 0
