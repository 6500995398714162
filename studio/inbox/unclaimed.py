"""What lies in the inbox and waits for a model: told once patience is over. Pure: looks and the time go in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from studio.core.errors import NeedsModel, Problem
from studio.inbox.groups import (
    FACTORY_SUFFIX,
    SAMPLES_SUFFIX,
    SETTINGS_SUFFIX,
    TOKENIZER_SUFFIX,
    Group,
)

_ROLES = {
    SETTINGS_SUFFIX: "settings",
    SAMPLES_SUFFIX: "sample inputs",
    FACTORY_SUFFIX: "code that makes a model of weights",
    TOKENIZER_SUFFIX: "a tokenizer",
}


@dataclass
class _Seen:
    group: Group
    since: float
    told: bool = False


class Lonely:
    """Follows groups that no model claims. Times are seconds of any clock that only goes forward."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._seen: dict[str, _Seen] = {}

    def observe(self, groups: Mapping[str, Group], now: float) -> tuple[list[Group], list[Group]]:
        """What to tell now, because it has been alone and unchanged for all patience; and what was told and is alone no
        longer. Every change starts the wait anew. O(n).
        """
        over = [seen.group for key, seen in self._seen.items() if key not in groups and seen.told]
        self._seen = {key: seen for key, seen in self._seen.items() if key in groups}
        due = []
        for key, group in groups.items():
            seen = self._seen.get(key)
            if seen is None:
                self._seen[key] = _Seen(group, now)
            elif seen.group.files != group.files:
                # Told once, it stays told: should it leave now, that has to be said too.
                self._seen[key] = _Seen(group, now, seen.told)
                if seen.told:
                    due.append(group)
            elif not seen.told and now >= seen.since + self._patience:
                seen.told = True
                due.append(group)
        return due, over

    def next_wake(self) -> float | None:
        """When patience with the next one is over; None when there is none."""
        return min((seen.since + self._patience for seen in self._seen.values() if not seen.told), default=None)


def needs_model(group: Group) -> Problem:
    """What to say of a group that no model claims."""
    names = [stamp.name for stamp in group.files]
    if group.folder:
        return NeedsModel(
            f"The folder '{group.folder}' is empty.",
            "Nothing in it counts: hidden and temporary files do not.",
            "Copy a model into it, or take the folder out of the inbox.",
        ).problem
    quoted = [f"'{name}'" for name in names]
    listed = " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
    roles = "; ".join(f"{name} holds {_role(name)}" for name in names)
    one = len(names) == 1
    return NeedsModel(
        f"{listed} wait{'s' if one else ''} for {'its' if one else 'their'} model.",
        f"{roles}. No model file of the same stem ('{group.stem}') lies in the inbox.",
        f"Drop the model as {group.stem}.onnx, {group.stem}.pt2 or in another format; or, should it lie there under "
        f"another name, rename {'this file' if one else 'these files'} after it.",
    ).problem


def _role(name: str) -> str:
    found = next((role for suffix, role in _ROLES.items() if name.lower().endswith(suffix)), "")
    return found or "weights that an ONNX file keeps outside"
