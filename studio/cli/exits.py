"""The exit codes: one table for `studio --help`, the reference page and the tests."""

from __future__ import annotations

INTERRUPTED = 130
PIPE_CLOSED = 141

EXITS: tuple[tuple[int, str], ...] = (
    (0, "done"),
    (1, "an error that Studio did not foresee; for doctor: there are problems"),
    (2, "bad usage, or a file or request that is not well formed"),
    (3, "no such model, version, alias, job or file"),
    (4, "it exists already, or is busy"),
    (5, "understood, and not done: unsafe, unsupported, or refused by a gate"),
    (6, "no engine or endpoint answers"),
    (7, "not allowed: token, owner, Host or Origin"),
    (8, "a step failed: a worker crashed, hung or hit a limit"),
    (9, "cancelled"),
    (INTERRUPTED, "ended by ctrl+c"),
    (PIPE_CLOSED, "whoever read the output went away"),
)
