"""What a settings file asks to happen once its version is there: the alias that is to name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.core.errors import StudioError
from studio.core.journal import AliasMove
from studio.core.manifest import VersionManifest
from studio.core.names import REFERENCE_VARIANT, Reference, variant_key
from studio.engine.keep import Keep

if TYPE_CHECKING:
    from studio.engine.jobs import Jobs


async def move_alias(keep: Keep, jobs: Jobs, key: str) -> None:
    """Point the alias that the settings file names at the version that a job has just registered.

    Safe to repeat: after a crash it catches up, and never takes back what was decided since. A target that can not be
    loaded leaves the alias where it was; the job goes on, and its note says so.
    """
    job = jobs.get(key)
    if job.finished or job.version is None:
        return
    manifest = (await keep.version_detail(job.model, job.version)).manifest
    alias, target = manifest.alias, variant_key(manifest.version, REFERENCE_VARIANT)
    if not alias or any(decided_since(move, manifest) for move in await keep.alias_moves(job.model, alias)):
        return
    try:
        await keep.move_alias(job.model, alias, target, f"asked for in {settings_name(manifest)}", "engine")
    except StudioError as error:
        note = f"The alias '{alias}' stays where it was. {error.what} {error.why}".strip()
        jobs.note(key, note)
    else:
        jobs.step(key, "registered", "done", f"{job.model}:{job.version} serves, and is {job.model}:{alias}")


def decided_since(move: AliasMove, manifest: VersionManifest) -> bool:
    """Whether this move of the alias makes the wish of a version moot: it is that very one, or a later decision."""
    if move.after == variant_key(manifest.version, REFERENCE_VARIANT):
        return True
    if move.at < manifest.created:
        return False
    newer = (Reference.of(manifest.model, move.after).version or 0) > manifest.version if move.after else False
    return newer or move.actor != "engine"


def settings_name(manifest: VersionManifest) -> str:
    """The name of the settings file that came with a version."""
    return next((file.name for file in manifest.source.files if file.name.lower().endswith(".toml")), "its settings")
