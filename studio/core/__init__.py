"""The words of Studio as plain typed values, errors and events. No I/O, no heavy imports.

Everything here is a frozen dataclass or a pure function, cheap to import (`studio ls` pays for it),
and travels between processes as JSON through `studio.core.codec`.
"""
