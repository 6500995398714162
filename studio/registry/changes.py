"""The operations that change what there is: store first, then journal, then index. Truth before its index, always.

Killed between two of them, the next open finds out and catches up; nothing is half done for those who ask.
"""

from __future__ import annotations

from collections.abc import Sequence

from studio.core.errors import CodeFile, Conflict, NotFound, Refused
from studio.core.journal import Action, AliasMove, RouteChange, TrustedCode
from studio.core.manifest import VariantManifest, VersionManifest
from studio.core.names import Reference, check_alias
from studio.core.printable import shortened
from studio.core.route import Route
from studio.core.routing import Target
from studio.core.tensors import TensorSpec
from studio.core.views import VersionRow
from studio.registry.registry import Registry
from studio.registry.routes import key_of, routes_of
from studio.registry.versions import alias_moves, index, newest_change, route_changes, version_row_of
from studio.store.history import code_subject, move_of, route_change_of
from studio.store.journal import Draft

MOST_IMPORTS = 4000  # characters of a journal entry: a crafted file may name anything, at any length


def add_version(registry: Registry, manifest: VersionManifest, actor: str = "engine") -> VersionRow:
    """Makes a version exist. Raises Conflict if its number is taken, NotFound for a blob that is not stored."""
    registry.store.manifests.write_version(manifest)
    subject = f"{manifest.model}:{manifest.version}"
    entry = registry.store.journal.append("version.added", subject, actor=actor, why=manifest.source.format)
    index(registry, [entry], version=manifest)
    return version_row_of(registry, manifest.model, manifest.version)


def add_variant(registry: Registry, manifest: VariantManifest, actor: str = "engine") -> VersionRow:
    """Adds a judged variant to its version, or one more run of it. Raises Conflict if that run is there, NotFound."""
    registry.store.manifests.write_variant(manifest)
    subject, outcome = f"{manifest.model}:{manifest.key}", manifest.verdict.outcome
    action: Action = "variant.added" if manifest.run == 1 else "variant.judged"
    entry = registry.store.journal.append(action, subject, actor=actor, why=outcome)
    index(registry, [entry], variant=manifest)
    return version_row_of(registry, manifest.model, manifest.version)


def move_alias(
    registry: Registry, model: str, alias: str, target: str, why: str = "", actor: str = "engine"
) -> AliasMove:
    """Points an alias at `target`: `3`, `3-int8`, or another alias. Promoting is moving `production`.

    Raises InvalidInput (malformed, or `latest`), NotFound (nothing servable there), Conflict (it is there already).
    """
    check_alias(alias)
    after = key_of(registry, Reference.of(model, target))
    before = registry.store.journal.history.aliases.get(model, {}).get(alias, "")
    if before == after:
        raise Conflict(f"{model}:{alias} already means {model}:{after}.", "Nothing was changed.")
    subject = f"{model}:{alias}"
    entry = registry.store.journal.append("alias.moved", subject, actor=actor, before=before, after=after, why=why)
    index(registry, [entry])
    return move_of(entry)


def remove_alias(registry: Registry, model: str, alias: str, why: str = "", actor: str = "engine") -> AliasMove:
    """Takes an alias away. Raises NotFound, Conflict while the model's route names it."""
    check_alias(alias)
    before = registry.store.journal.history.aliases.get(model, {}).get(alias, "")
    if not before:
        raise NotFound(f"There is no alias {model}:{alias}.", fix=f"See: studio show {model}")
    if alias in _route_of(registry, model).names:
        raise Conflict(
            f"{model}:{alias} is in use: the route of {model} names it.",
            "Requests that it is to answer would have nowhere to go.",
            f"Change the route first: studio route {model} --clear",
        )
    entry = registry.store.journal.append("alias.removed", f"{model}:{alias}", actor=actor, before=before, why=why)
    index(registry, [entry])
    return move_of(entry)


def rollback(registry: Registry, model: str, alias: str, why: str = "", actor: str = "engine") -> AliasMove:
    """Points an alias back at what it meant before its newest move. Raises NotFound, Conflict."""
    check_alias(alias)
    moves = alias_moves(registry, model, alias, limit=1)
    if not moves:
        raise NotFound(f"The alias {model}:{alias} has never moved.", fix=f"Set it: studio promote {model}:VERSION")
    if not moves[0].before:
        raise Conflict(
            f"The alias {model}:{alias} has no earlier place to go back to.",
            f"It was made to mean {moves[0].after}.",
            "Undo that move (studio undo), move it to another version, or remove it.",
        )
    return move_alias(
        registry, model, alias, moves[0].before, why or f"rollback from {moves[0].after or 'removal'}", actor
    )


def _route_of(registry: Registry, model: str) -> Route:
    return Route.parse(registry.store.journal.history.routes.get(model, ""))


def set_route(registry: Registry, model: str, route: Route, why: str = "", actor: str = "engine") -> RouteChange:
    """Says how requests for a model's bare name are spread from now on; an empty route = the primary alone.

    Raises InvalidInput for what can be no route, NotFound where nothing servable has such a name, Conflict when it is
    so already, Refused when versions that are to share requests do not take and give the same.
    """
    route.check(model)
    routes = routes_of(registry, model)
    _refuse_unlike(model, {name: routes.targets[key_of(registry, Reference.of(model, name))] for name in route.names})
    before = registry.store.journal.history.routes.get(model, "")
    if before == route.text:
        state = f"has the route {before} already" if before else "has no route"
        raise Conflict(f"{model} {state}.", "Nothing was changed.")
    entry = registry.store.journal.append("route.changed", model, actor=actor, before=before, after=route.text, why=why)
    index(registry, [entry])
    return route_change_of(entry)


def _refuse_unlike(model: str, targets: dict[str, Target]) -> None:
    first: tuple[str, Target] | None = None
    for name, target in targets.items():
        if first is None:
            first = name, target
        elif [*map(_face, target.signature.inputs)] != [*map(_face, first[1].signature.inputs)] or [
            *map(_face, target.signature.outputs)
        ] != [*map(_face, first[1].signature.outputs)]:
            raise Refused(
                f"{model}:{first[0]} and {model}:{name} can not answer the same requests.",
                f"Their inputs or outputs differ: {_faces(first[1])} against {_faces(target)}.",
                "Let callers name the version that they mean, or give the new version the inputs of the old one.",
            )


def _face(spec: TensorSpec) -> tuple[str, str, tuple[int | None, ...]]:
    """What a caller sees of a tensor: free sizes are alike, whatever they are called."""
    return spec.name, spec.datatype, tuple(dim if isinstance(dim, int) else None for dim in spec.shape)


def _faces(target: Target) -> str:
    sides = (target.signature.inputs, target.signature.outputs)
    return shortened(" to ".join(", ".join(spec.describe() for spec in side) for side in sides), 300)


def rollback_route(registry: Registry, model: str, why: str = "", actor: str = "engine") -> RouteChange:
    """Gives a model the route again that it had before its newest change. Raises NotFound, Conflict, Refused."""
    changed = route_changes(registry, model, limit=1)
    if not changed:
        raise NotFound(f"The route of {model} was never changed.", fix=f"Set it: studio route {model} --split …")
    last = changed[0]
    return set_route(registry, model, Route.parse(last.before), why or f"rollback from {last.after or 'none'}", actor)


def undo(registry: Registry, actor: str = "engine") -> AliasMove | RouteChange:
    """Takes back the newest move of an alias or change of a route; undoing twice brings it back.

    Raises NotFound, Conflict, Refused.
    """
    last = newest_change(registry)
    if last is None:
        raise NotFound("There is nothing to undo.", "No alias has moved, and no route was changed.")
    if isinstance(last, RouteChange):
        why = f"undo of {last.before or 'none'} → {last.after or 'none'}"
        return set_route(registry, last.model, Route.parse(last.before), why, actor)
    why = f"undo of {last.before or 'nothing'} → {last.after or 'nothing'}"
    if last.before:
        return move_alias(registry, last.model, last.alias, last.before, why, actor)
    return remove_alias(registry, last.model, last.alias, why, actor)


def archive(registry: Registry, model: str, version: int, actor: str = "engine", why: str = "") -> VersionRow:
    """Takes a version out of service; nothing is deleted. Raises NotFound, Conflict while an alias names it."""
    if version_row_of(registry, model, version).state == "archived":
        raise Conflict(f"{model}:{version} is archived already.", "Nothing was changed.")
    _refuse_named(registry, model, version)
    entry = registry.store.journal.append("version.archived", f"{model}:{version}", actor=actor, why=why)
    index(registry, [entry])
    return version_row_of(registry, model, version)


def restore(registry: Registry, model: str, version: int, actor: str = "engine", why: str = "") -> VersionRow:
    """Brings an archived version back. Raises NotFound, Conflict if it is not archived."""
    if version_row_of(registry, model, version).state != "archived":
        raise Conflict(f"{model}:{version} is not archived.", "Nothing was changed.")
    entry = registry.store.journal.append("version.restored", f"{model}:{version}", actor=actor, why=why)
    index(registry, [entry])
    return version_row_of(registry, model, version)


def purge(registry: Registry, model: str, version: int, actor: str = "engine", why: str = "") -> int:
    """Deletes an archived version and what only it needs. Returns the bytes freed. Can not be undone.

    Raises NotFound, Refused unless it is archived, Conflict while an alias names it.
    """
    if version_row_of(registry, model, version).state != "archived":
        raise Refused(
            f"{model}:{version} is not archived.",
            "Only what was taken out of service before can be deleted.",
            f"Archive it first: studio rm {model}:{version}",
        )
    _refuse_named(registry, model, version)
    entry = registry.store.journal.append("version.purged", f"{model}:{version}", actor=actor, why=why)
    freed = registry.store.purge(model, version)
    index(registry, [entry])
    return freed


def trust(registry: Registry, files: Sequence[CodeFile], actor: str = "engine") -> list[TrustedCode]:
    """Records the user's yes to running these files, all or none; what is trusted already is not recorded again."""
    trusted = registry.store.journal.history.trusted
    fresh = {file.sha256: file for file in files if file.sha256 not in trusted}
    drafts = [
        Draft(
            action="code.trusted",
            subject=code_subject(file.sha256),
            actor=actor,
            after=file.name,
            why=shortened(", ".join(file.imports), MOST_IMPORTS),
        )
        for file in fresh.values()
    ]
    if drafts:
        index(registry, registry.store.journal.append_all(drafts))
    return [trusted[file.sha256] for file in files]


def distrust(registry: Registry, sha256: str, actor: str = "engine") -> TrustedCode:
    """Takes a yes back: the next file of this content asks again. Raises NotFound."""
    known = registry.store.journal.history.trusted.get(sha256)
    if known is None:
        raise NotFound(
            f"No code with the hash {sha256[:64]} is trusted.", fix="See which there is: studio trust --list"
        )
    entry = registry.store.journal.append(
        "code.distrusted", code_subject(sha256), actor=actor, before=known.name, why=known.imports
    )
    index(registry, [entry])
    return known


def _refuse_named(registry: Registry, model: str, version: int) -> None:
    for name in _route_of(registry, model).names:
        if Reference.of(model, name).version == version:
            raise Conflict(
                f"{model}:{version} is in use: the route of {model} names it.",
                "Requests that it is to answer would have nowhere to go.",
                f"Change the route first: studio route {model} --clear",
            )
    aliases = registry.store.journal.history.aliases.get(model, {})
    for alias, key in sorted(aliases.items()):
        if Reference.of(model, key).version == version:
            raise Conflict(
                f"{model}:{version} is in use: the alias '{alias}' means it.",
                f"Callers of {model}:{alias} would be left without an answer.",
                f"Move or remove the alias '{alias}' first.",
            )
