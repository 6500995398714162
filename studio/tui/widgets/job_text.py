"""Jobs as text: nine steps as symbols, the step that runs, and a failure with what, why and the fix."""

from __future__ import annotations

from textual.content import Content

from studio.core.jobs import Job, Step
from studio.tui import text
from studio.tui.widgets.tables import Cell

SYMBOLS: dict[str, str] = {"pending": "○", "running": "◐", "done": "✓", "failed": "✗", "skipped": "–"}
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
    "done": "success",
    "failed": "error",
    "cancelled": "muted",
}


def elapsed(job: Job, now: float) -> float:
    """Seconds from the arrival to its end, or until now."""
    ends = [step.ended for step in job.steps if step.ended is not None]
    return max(0.0, (max(ends, default=job.updated or job.created) if job.finished else now) - job.created)


def doing(job: Job) -> str:
    """What happens now, in few words: `converted ━━╌╌ 50 %`."""
    if job.state == "queued" and not any(step.state == "running" for step in job.steps):
        return "waiting for its turn"
    if job.state in ("done", "cancelled"):
        return job.note or job.state
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
        "name": f"{job.stem} (try {job.attempt})" if job.attempt > 1 else job.stem,
        "format": job.format or text.NONE,
        "steps": (" ".join(SYMBOLS[step.state] for step in job.steps), NOW[job.state]),
        "now": (doing(job), NOW[job.state]),
        "elapsed": text.duration(elapsed(job, now)),
        "result": (became(job), "foreground bold"),
    }


def searched(job: Job) -> str:
    """What the filter looks at."""
    return " ".join((job.stem, job.format, job.state, became(job))).lower()


def _step_line(step: Step, now: float) -> list[str | tuple[str, str]]:
    took = text.duration(step.elapsed(now)) if step.started is not None else ""
    bar = (
        f"{text.bar(step.progress, 16)} {100 * step.progress:3.0f} %  "
        if step.state == "running" and step.progress is not None
        else ""
    )
    return [
        (f" {SYMBOLS[step.state]} ", STYLES[step.state]),
        (f"{step.name:<11}", "$muted" if step.state in ("pending", "skipped") else "bold"),
        (f"{took:>12}  ", "$muted"),
        (bar, "$warning"),
        step.detail,
        "\n",
    ]


def steps(job: Job, now: float, open_key: str, retry_key: str) -> Content:
    """A failure first, then the steps in order, then the files."""
    parts: list[str | tuple[str, str]] = []
    problem = job.problem
    if problem is not None:
        step = job.current
        where = f" at step '{step.name}'" if step else ""
        parts += [(f"✗ {problem.what}", "$error bold"), (where + "\n", "$muted")]
        if problem.why:
            parts += [("  why  ", "$muted"), problem.why + "\n"]
        if problem.fix:
            parts += [("  fix  ", "$muted"), (problem.fix + "\n", "bold")]
        parts += [
            ("       ", ""),
            (open_key, "$accent bold"),
            " shows the log, ",
            (retry_key, "$accent bold"),
            " runs it again.\n\n",
        ]
    for one in job.steps:
        parts += _step_line(one, now)
    if job.note and problem is None:
        parts += ["\n", job.note, "\n"]
    parts.append("\n")
    for path in job.files:
        parts += [(f" {path}\n", "$muted")]
    return Content.assemble(*parts)
