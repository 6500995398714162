"""What figures of parity do not tell of a graph: answers that change from run to run, values that are no numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from studio.core.manifest import Fidelity
from studio.verify.session import Array, Feed, Session, run


def unsteady(session: Session, feed: Feed, answer: Feed) -> tuple[str, ...]:
    """Outputs that differ when the inputs that gave `answer` are run once more: the graph draws random numbers."""
    again = run(session, feed)
    return tuple(name for name in answer if not _same(np.asarray(answer[name]), np.asarray(again[name])))


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "fV":
        one, other = one.astype(np.float64), other.astype(np.float64)
        # Threads may sum in another order from run to run.
        scale = float(np.max(np.abs(one[np.isfinite(one)]), initial=0.0))
        return bool(np.allclose(one, other, rtol=1e-5, atol=1e-5 * scale, equal_nan=True))
    return bool(np.array_equal(one, other))


def unsteady_note(names: Sequence[str]) -> tuple[str, ...]:
    """The note on unsteady outputs; none without any."""
    if not names:
        return ()
    quoted = ", ".join(f"'{name}'" for name in names)
    verb = "differs" if len(names) == 1 else "differ"
    return (
        f"Its answer {quoted} {verb} from run to run on the same inputs: it draws random numbers, or was exported in "
        "training mode (dropout). Only its shape and type were compared with the original, and requests are not put "
        "together into batches.",
    )


def non_finite_notes(answers: Sequence[Feed], parity: Fidelity) -> tuple[str, ...]:
    """A note for each output of the original that held NaN or infinity: whether it does so here is in `parity`."""
    changed = {out.name: out.changed_non_finite for out in parity.outputs}
    notes = []
    for name in answers[0] if answers else ():
        arrays = [np.asarray(answer[name]) for answer in answers]
        if any(array.dtype.kind not in "fV" for array in arrays):
            continue
        total = sum(array.size for array in arrays)
        bad = sum(int(np.count_nonzero(~np.isfinite(array.astype(np.float64)))) for array in arrays)
        if bad:
            of_what = "made-up inputs" if parity.inputs == "synthetic" else "the sample inputs"
            here = f"here {changed[name]} of them are something else" if changed.get(name) else "here too"
            notes.append(
                f"'{name}' holds NaN or infinity in {bad} of {total} values on {of_what} in the original, and {here}."
            )
    return tuple(notes)
