"""trust: the user's word on files that run code when they are loaded."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from studio.cli.output import ASKS, FAINT, STRONG, emit, fields, is_terminal, paint, plural, say, since, table
from studio.cli.session import Session, command, pass_session
from studio.client import Client
from studio.core.errors import Cancelled, CodeFile, Conflict, InvalidInput, NotFound
from studio.core.jobs import Job
from studio.core.journal import TrustedCode
from studio.core.views import TrustAnswer

MOST_JOBS = 1000
SHOWN_IMPORTS = 40
SHOWN_HASH = 16
_HASH = re.compile(r"[0-9a-f]{8,64}")
CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Question:
    """What one job asks: whether these files may run."""

    job: Job
    files: tuple[CodeFile, ...]


@command("trust", short_help="Let files that run code be loaded; list or take back what may.")
@click.argument("what", metavar="JOB|FILE|SHA256", required=False)
@click.option("--yes", "-y", is_flag=True, help="Say yes without being asked; shows what it runs all the same.")
@click.option("--list", "listing", is_flag=True, help="List the code that may run.")
@click.option("--revoke", metavar="SHA256", help="Take a yes back; the beginning of the hash is enough.")
@pass_session
def trust(session: Session, what: str | None, yes: bool, listing: bool, revoke: str | None) -> None:
    """Let a file that runs code when it is loaded be converted, after a look at what it would import or call.

    Name the job that waits, the file or its SHA-256; without any, everything that waits is asked about. A yes holds for
    exactly this content, is kept in the journal, and lets the job go on. A no cancels the job, and nothing else; the
    exit code is then 9.
    """
    if sum((bool(what) or yes, listing, bool(revoke))) > 1:
        raise click.UsageError("Choose one of JOB|FILE|SHA256, --list and --revoke.")
    client = session.client()
    if listing:
        code = client.trusted()
        if not code:
            say("No code is trusted.")
        emit(session, code, lambda: trusted_table(code) if code else "")
    elif revoke:
        one = client.distrust(_trusted_hash(client.trusted(), revoke))
        emit(session, one, lambda: f"{one.name} is no longer trusted: the next file of this content asks again.")
    else:
        _answer(session, client, questions(client, what), yes)


def _answer(session: Session, client: Client, asked: Sequence[Question], yes: bool) -> None:
    for question in asked:
        say(question_text(question))
    files = {file.sha256: file for question in asked for file in question.files}
    names = " and ".join(file.name for file in files.values())
    if not yes:
        if not is_terminal(sys.stdin):
            raise InvalidInput(
                f"Running the code of {names} needs a confirmation.",
                "There is no terminal to ask on.",
                "If you know where it comes from, add --yes.",
            )
        say("A yes is kept in the journal, for exactly this content. A no cancels the job.")
        if not click.confirm("Run it?", default=False, err=True):
            _decline(client, asked)
            emit(session, TrustAnswer(code=(), jobs=()), lambda: "")
            click.get_current_context().exit(Cancelled.exit_code)
    answer = client.trust(*files)
    emit(session, answer, lambda: answer_text(answer))


def _decline(client: Client, asked: Sequence[Question]) -> None:
    for question in asked:
        client.cancel_job(question.job.id)
    say(f"You said no: nothing was run; {plural(len(asked), 'job')} cancelled. The files stay in the inbox.")
    say(f"Should you change your mind: studio jobs --retry {asked[0].job.id}")


def questions(client: Client, what: str | None) -> list[Question]:
    """What waiting jobs ask about a job, a file or a hash, or about anything.

    Raises NotFound when nothing waits for a word on it, Conflict for a job that asks something else.
    """
    jobs = client.jobs(MOST_JOBS)
    asking = [job for job in jobs if job.asks_for("needs_trust")]
    if what is None:
        found = [Question(job, _code(job)) for job in asking]
    elif any(job.id == what for job in jobs):
        job = next(job for job in jobs if job.id == what)
        if job not in asking:
            raise Conflict(f"Job {what} does not ask for trust.", f"Its state: {job.standing}.", "See: studio jobs")
        found = [Question(job, _code(job))]
    else:
        found = _about_hash(asking, what) or _about_file(asking, Path(what).expanduser())
    if not found:
        raise NotFound(
            f"No job asks to run the code of {what}." if what else "No job asks to run code.",
            "Studio looks into a file first, and asks when loading it would run code.",
            "Add it: studio add FILE. What waits: studio jobs.",
        )
    return found


def _code(job: Job) -> tuple[CodeFile, ...]:
    return job.problem.code_files if job.problem else ()


def _about_hash(asking: Sequence[Job], what: str) -> list[Question]:
    if not _HASH.fullmatch(what):
        return []
    hashes = {file.sha256 for job in asking for file in _code(job) if file.sha256.startswith(what)}
    if len(hashes) > 1:
        raise InvalidInput(f"{len(hashes)} hashes begin with {what}.", fix="Give more digits.")
    return [
        Question(job, tuple(file for file in _code(job) if file.sha256 in hashes))
        for job in asking
        if any(file.sha256 in hashes for file in _code(job))
    ]


def _about_file(asking: Sequence[Job], path: Path) -> list[Question]:
    """Jobs over a file: the one in the inbox, one of the same content; where there is none, of its name or stem."""
    if not path.exists():
        named = [job for job in asking if path.name == str(path) and path.name in _names(job)]
        return [Question(job, _code(job)) for job in named]
    place = str(path.resolve())
    inside = [job for job in asking if any(file == place or file.startswith(f"{place}/") for file in job.files)]
    if inside or not path.is_file():
        return [Question(job, _code(job)) for job in inside]
    sha256 = _hash_of(path)
    same = [
        job
        for job in asking
        if any(file.sha256 == sha256 for file in _code(job))
        or any(Path(file).name == path.name and _hash_of(Path(file)) == sha256 for file in job.files)
    ]
    return [Question(job, _code(job)) for job in same]


def _names(job: Job) -> set[str]:
    return {job.stem} | {file.name for file in _code(job)} | {Path(file).name for file in job.files}


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InvalidInput(f"{path} can not be read.", f"{error.strerror or error}.") from error
    return digest.hexdigest()


def _trusted_hash(code: Sequence[TrustedCode], wanted: str) -> str:
    found = [one.sha256 for one in code if one.sha256.startswith(wanted.lower())]
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} trusted hashes begin with {wanted}.", fix="Give more digits.")
    return found[0] if found else wanted


def question_text(question: Question) -> str:
    """A job, and of each file its name, the whole hash and everything that it would import or call."""
    job, parts = question.job, []
    for file in question.files:
        shown = list(file.imports[:SHOWN_IMPORTS])
        if len(file.imports) > SHOWN_IMPORTS:
            shown.append(f"… and {len(file.imports) - SHOWN_IMPORTS} more: studio jobs --json has all of them")
        head = f"{paint('?', ASKS)} {paint(file.name, STRONG)} would run code when it is loaded."
        rows = [
            ("sha256", file.sha256),
            ("runs", "\n".join(shown) or "code of its own"),
            ("job", f"{job.id} ({job.stem})"),
        ]
        parts.append(head + "\n" + fields([(f"  {name}", value) for name, value in rows]))
    if job.problem and job.problem.why:
        parts.append(paint(f"  {job.problem.why}", FAINT))
    return "\n".join(parts)


def answer_text(answer: TrustAnswer) -> str:
    """What is trusted now, and what goes on."""
    lines = [f"{one.name} is trusted  sha256 {one.sha256}" for one in answer.code]
    lines += [f"{job.stem} goes on     job {job.id}" for job in answer.jobs]
    return "\n".join(lines)


def trusted_table(code: Sequence[TrustedCode]) -> str:
    rows = [[one.sha256[:SHOWN_HASH], one.name, one.actor, since(one.at), one.imports] for one in code]
    return table(("SHA256", "FILE", "BY", "SAID", "RUNS"), rows)


COMMANDS = (trust,)
