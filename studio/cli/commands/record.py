"""record: keep the inputs of real requests, so that variants can be judged on what is really asked."""

from __future__ import annotations

import re
import time

import click

from studio.cli.output import GOOD, emit, fields, paint, say, size, table
from studio.cli.session import Session, command, complete_reference, pass_session
from studio.core.recording import DEFAULT_ROWS, Recording

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
STATES = {
    "recording": "recording",
    "full": "full: as many rows or bytes as were asked for",
    "over": "over: the time is up",
    "stopped": "stopped",
}


class Duration(click.ParamType[float]):
    """`90s`, `30m`, `1h`, `7d`: seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no duration. For example: 90s, 30m, 1h, 7d.", param, ctx)
        return float(found[1]) * UNITS[found[2]]


@command("record", short_help="Keep the inputs of real requests, to judge variants on.")
@click.argument("model", required=False, shell_complete=complete_reference)
@click.option("--rows", type=int, default=DEFAULT_ROWS, show_default=True, help="Keep at most so many rows.")
@click.option("--for", "seconds", type=Duration(), default="1h", show_default=True, help="End after 90s, 30m, 1h, 7d.")
@click.option("--stop", is_flag=True, help="Keep no more; what there is stays.")
@click.option("--delete", is_flag=True, help="Keep no more, and delete what there is.")
@pass_session
def record(session: Session, model: str | None, rows: int, seconds: float, stop: bool, delete: bool) -> None:
    """Keep the inputs of requests for MODEL; without MODEL, show what is kept.

    Nothing is kept unless you ask for it here, and only until there are so many rows or the time is up. Kept are the
    inputs of answered requests alone: no answers, no headers, no addresses. Where a model came without samples, the lab
    calibrates and judges its variants on them instead of made-up inputs.
    """
    client = session.client()
    if stop and delete:
        raise click.UsageError("--delete stops it too: give one of --stop and --delete.")
    if model is None:
        if stop or delete:
            raise click.UsageError("Which model? For example: studio record digits --stop")
        found = client.recordings()
        if not found:
            say(f"No requests are kept. Begin with: studio{session.option} record MODEL")
        emit(session, found, lambda: recordings_table(found) if found else "")
        return
    if delete:
        deleted = client.delete_recording(model)
        emit(session, {"rows": deleted}, lambda: f"{deleted} recorded rows of {model} are deleted.")
        return
    if stop:
        stopped = client.stop_recording(model)
        emit(session, stopped, lambda: recording_text(stopped))
        return
    begun = client.record(model, rows, seconds)
    say(privacy_note(begun, session.option))
    emit(session, begun, lambda: recording_text(begun))


def privacy_note(recording: Recording, option: str = "") -> str:
    """What is said whenever recording is switched on."""
    model = recording.plan.model
    return (
        f"Note: what people send to {model} may be personal. From now on the inputs of requests are kept in\n"
        f"{recording.plan.folder}, which only you can read. Nothing leaves this machine.\n"
        f"Stop with: studio{option} record {model} --stop     Delete with: studio{option} record {model} --delete"
    )


def recording_text(recording: Recording) -> str:
    plan = recording.plan
    return fields(
        [
            ("model", plan.model),
            ("state", STATES[recording.state]),
            ("rows", f"{recording.rows} of {plan.rows} at most"),
            ("size", f"{size(recording.bytes)} of {size(plan.bytes)} at most"),
            ("until", until_words(recording)),
            ("folder", plan.folder),
        ]
    )


def until_words(recording: Recording) -> str:
    if recording.state != "recording":
        return ""
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(recording.plan.until))
    return f"{at}, in {left_words(recording.plan.until - time.time())}"


def left_words(seconds: float) -> str:
    """`59 min`, `23 h`, `6 d`: what is left, rounded down."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name}"
    return f"{max(0, int(seconds))} s"


def recordings_table(found: tuple[Recording, ...]) -> str:
    lines = [
        [
            one.plan.model,
            paint(one.state, GOOD) if one.state == "recording" else one.state,
            f"{one.rows} of {one.plan.rows}",
            size(one.bytes),
            left_words(one.plan.until - time.time()) if one.state == "recording" else "–",
            one.plan.folder,
        ]
        for one in found
    ]
    rows = table(("MODEL", "STATE", "ROWS", "SIZE", "LEFT", "FOLDER"), lines, right=(2, 3, 4))
    return f"{rows}\n\nDelete what is kept of a model with: studio record MODEL --delete"


COMMANDS = (record,)
