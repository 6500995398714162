"""Jobs as text: nine steps as symbols, the step that runs, and a failure with what, why and the fix."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content

from studio.core.errors import CodeFile
from studio.core.jobs import LAB_STEPS, Job, Step
from studio.tui import text
from studio.tui.widgets.tables import Cell

SYMBOLS: dict[str, str] = {"pending": "○", "running": "◐", "done": "✓", "failed": "✗", "skipped": "–"}
ASKS = "?"
STYLES: dict[str, str] = {
    "pending": "$muted",
    "running": "$warning bold",
    "done": "$success",
    "failed": "$error bold",
    "skipped": "$muted",
}
NOW: dict[str, str] = {
    "queued": "muted",
    "running": "warning",
    "waiting": "accent bold",
    "done": "success",
    "failed": "error",
    "cancelled": "muted",
}
FEW_IMPORTS = 6


Part = str | tuple[str, str]


@dataclass(frozen=True)
class Keys:
    """The keys in force, as printed, for what can be done with a job."""

    open: str = "enter"
    answer: str = "a"
    cancel: str = "x"
    retry: str = "r"


def elapsed(job: Job, now: float) -> float:
    """Seconds from the arrival to its end, or until now; the time that it waits for the user does not count."""
    if job.state == "waiting":
        return max(0.0, job.updated - job.created)
    ends = [step.ended for step in job.steps if step.ended is not None]
    return max(0.0, (max(ends, default=job.updated or job.created) if job.finished else now) - job.created)


def asking_step(job: Job) -> Step | None:
    """The step that goes on once the user has answered."""
    return next((step for step in job.steps if step.state == "pending"), None) if job.state == "waiting" else None


def symbols(job: Job) -> str:
    """The nine steps: `✓ ✓ ✓ ? ○ ○ ○ ○ ○`."""
    asking = asking_step(job)
    return " ".join(ASKS if step is asking else SYMBOLS[step.state] for step in job.steps)


def doing(job: Job) -> str:
    """What happens now, in few words: `converted ━━╌╌ 50 %`."""
    if job.state == "queued" and not any(step.state == "running" for step in job.steps):
        return "waiting for its turn"
    if job.state in ("done", "cancelled"):
        return job.note or job.state
    if job.state == "waiting":
        return f"{ASKS} {job.standing}"
    step = job.current
    if step is None:
        return job.state
    if job.state == "failed":
        return f"failed: {step.name}"
    if step.progress is not None:
        return f"{step.name} {text.bar(step.progress, 8)} {100 * step.progress:.0f} %"
    return f"{step.name} …" if step.state == "running" else step.name


def became(job: Job) -> str:
    return f"{job.model}:{job.version}" if job.model and job.version is not None else job.model


def cells(job: Job, now: float) -> dict[str, Cell]:
    """The cells of a job in the inbox table."""
    return {
        "name": ("" if job.is_arrival else "lab: ") + job.stem + (f" (try {job.attempt})" if job.attempt > 1 else ""),
        "format": job.format or text.NONE,
        "steps": (symbols(job), NOW[job.state]),
        "now": (doing(job), NOW[job.state]),
        "elapsed": text.duration(elapsed(job, now)),
        "result": (became(job), "foreground bold"),
    }


def searched(job: Job) -> str:
    """What the filter looks at."""
    return " ".join((job.stem, job.format, job.standing, became(job))).lower()


def _step_line(step: Step, now: float, asks: bool = False) -> list[Part]:
    took = text.duration(step.elapsed(now)) if step.started is not None else ""
    bar = (
        f"{text.bar(step.progress, 16)} {100 * step.progress:3.0f} %  "
        if step.state == "running" and step.progress is not None
        else ""
    )
    return [
        (f" {ASKS} ", "$accent bold") if asks else (f" {SYMBOLS[step.state]} ", STYLES[step.state]),
        (f"{step.name:<11}", "$muted" if step.state in ("pending", "skipped") else "bold"),
        (f"{took:>12}  ", "$muted"),
        (bar, "$warning"),
        step.detail,
        "\n",
    ]


def question(job: Job, keys: Keys) -> list[Part]:
    """What a job asks: the question, of code its name, whole hash and what it would run, and the keys that answer."""
    problem = job.problem
    if problem is None:
        return []
    parts: list[Part] = [(f"{ASKS} {problem.what}\n", "$accent bold")]
    if job.asks_for("needs_model"):  # no dialog answers that: the model has to come
        parts += ["  ", (keys.cancel, "$accent bold"), " puts it out of mind.\n"]
    else:
        parts += ["  ", (keys.answer, "$accent bold"), " answers it, ", (keys.cancel, "$accent bold")]
        parts += [" cancels the job, ", (keys.open, "$accent bold"), " shows the log.\n"]
    if problem.why:
        parts += [("  why     ", "$muted"), problem.why + "\n"]
    for file in problem.code_files:
        parts += code(file, FEW_IMPORTS, "  ")
    for name in problem.missing_inputs:
        parts += [("  input   ", "$muted"), (f"{name}\n", "bold")]
    if not job.asks_for("needs_trust") and problem.fix:
        parts += [("  way     ", "$muted"), problem.fix.replace("\n", "\n          ") + "\n"]
    return [*parts, "\n"]


def code(file: CodeFile, most: int, indent: str = "") -> list[Part]:
    """A file that runs code: its name, its hash, and at most `most` of what it would import or call."""
    parts: list[Part] = [(f"{indent}file    ", "$muted"), (f"{file.name}\n", "bold")]
    parts += [(f"{indent}sha256  ", "$muted"), f"{file.sha256}\n"]
    label = f"{indent}runs    "
    for name in file.imports[:most] or ("code of its own",):
        parts += [(label, "$muted"), f"{name}\n"]
        label = " " * len(label)
    if len(file.imports) > most:
        parts.append((f"{label}… and {len(file.imports) - most} more\n", "$muted"))
    return parts


def steps(job: Job, now: float, keys: Keys) -> Content:
    """A question or a failure first, then the steps in order, then the files."""
    parts: list[Part] = []
    problem = job.problem
    asking = asking_step(job)
    if asking is not None:
        parts += question(job, keys)
    elif problem is not None:
        step = job.current
        if job.state == "cancelled":
            parts += [(f"– {problem.what}\n", "bold")]
        else:
            where = f" at step '{step.name}'" if step else ""
            parts += [(f"✗ {problem.what}", "$error bold"), (where + "\n", "$muted")]
        if problem.why:
            parts += [("  why  ", "$muted"), problem.why + "\n"]
        if problem.fix:
            parts += [("  fix  ", "$muted"), (problem.fix + "\n", "bold")]
        again: list[Part] = (
            [", ", (keys.retry, "$accent bold"), " runs it again"] if job.digest or not job.is_arrival else []
        )
        parts += ["       ", (keys.open, "$accent bold"), " shows the log", *again, ".\n\n"]
    for one in job.steps if job.is_arrival else job.steps[-len(LAB_STEPS) :]:
        parts += _step_line(one, now, one is asking)
    if job.note and job.state != "cancelled":
        parts += ["\n", job.note, "\n"]
    parts.append("\n")
    for path in job.files:
        parts += [(f" {path}\n", "$muted")]
    return Content.assemble(*parts)
