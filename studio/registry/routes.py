"""The routing table: every version that is not archived, as the server needs to know it."""

from __future__ import annotations

from dataclasses import replace

from studio.core import codec
from studio.core.errors import NotFound
from studio.core.names import AUTO, LATEST, PRODUCTION, REFERENCE_VARIANT, Reference, variant_key
from studio.core.route import Arm, Route
from studio.core.routing import ModelRoutes, RoutingTable, Target
from studio.registry.registry import Registry
from studio.store.blobs import Blobs


def routing_table(registry: Registry, generation: int) -> RoutingTable:
    """Everything that can be asked for. Only models that changed since the last call are built again.

    Of each version: its reference graph, and every variant with a graph that was kept, found not distinguishable, or
    rejected (those answer by full reference only, as no alias is moved there by us). `latest` is among the aliases.
    The bare name means `production`, else the newest version, or is split as the model's route says. `pinned` are the
    targets that an alias of the user's or a route leads to: `latest` alone pins nothing, or a thousand models would all
    be loaded at once. Raises Unavailable.
    """
    _refresh(registry)
    pinned = sorted({routes.targets[key].name for routes in registry.routes.values() for key in _wanted(routes)})
    return RoutingTable(generation=generation, models=dict(registry.routes), pinned=tuple(pinned))


def _wanted(routes: ModelRoutes) -> set[str]:
    """Keys of what is to be loaded before anyone asks."""
    named = {key for alias, key in routes.aliases.items() if alias != LATEST}
    return named | {arm.key for arm in routes.split} | ({routes.shadow.key} if routes.shadow else set())


def routes_of(registry: Registry, model: str) -> ModelRoutes:
    """Where the names of a model lead now. Raises NotFound."""
    _refresh(registry)
    routes = registry.routes.get(model)
    if routes is None:
        raise NotFound(f"There is no model '{model[:100]}' that can be served.", fix="See: studio ls")
    return routes


def key_of(registry: Registry, reference: Reference) -> str:
    """The variant key, `3-int8`, of what a reference means now. Raises NotFound."""
    _refresh(registry)
    routes = registry.routes.get(reference.model)
    target = routes.resolve(str(reference).partition(":")[2]) if routes else None
    if target is None:
        raise NotFound(
            f"Nothing that can be served is called {reference}.",
            "There is no such model, version, variant or alias, or it is archived or has no graph.",
            f"See which there are: studio ls {reference.model}",
        )
    return target.key


def _refresh(registry: Registry) -> None:
    stale = registry.stale
    if stale is not None and not stale:
        return
    models = None if stale is None else sorted(stale)
    built = _build(registry, models)
    if models is None:
        registry.routes = built
    else:
        for model in models:
            registry.routes.pop(model, None)
        registry.routes |= built
    registry.stale = set()


def _build(registry: Registry, models: list[str] | None) -> dict[str, ModelRoutes]:
    database, blobs = registry.database, registry.store.blobs
    wanted = "" if models is None else "AND v.model IN (SELECT unnest(?::VARCHAR[]))"
    values = [] if models is None else [models]
    targets: dict[str, dict[str, Target]] = {}
    newest: dict[str, int] = {}
    autos: dict[str, dict[str, str]] = {}
    for model, version, document, auto in database.rows(
        f"SELECT v.model, v.version, v.target, v.auto FROM versions v WHERE NOT v.archived {wanted}",  # noqa: S608
        values,
    ):
        autos.setdefault(model, {})[variant_key(version, AUTO)] = variant_key(version, auto)
        newest[model] = max(version, newest.get(model, 0))
        targets.setdefault(model, {})[variant_key(version, REFERENCE_VARIANT)] = _target(blobs, document)
    for model, version, variant, document in database.rows(
        "SELECT v.model, v.version, v.variant, v.target FROM variants v JOIN versions w "  # noqa: S608
        "ON w.model = v.model AND w.version = v.version "
        f"WHERE v.target IS NOT NULL AND v.variant <> 'fp32' AND NOT w.archived {wanted}",
        values,
    ):
        targets[model][variant_key(version, variant)] = _target(blobs, document)
    history = registry.store.journal.history
    return {
        model: _routed(
            replace(_routes(model, newest[model], known, history.aliases.get(model, {})), auto=autos[model]),
            Route.parse(history.routes.get(model, "")),
        )
        for model, known in targets.items()
    }


def _target(blobs: Blobs, document: str) -> Target:
    target = codec.decode(document, Target)
    assets = {name: str(blobs.path(sha256)) for name, sha256 in target.assets.items()}
    return replace(target, path=str(blobs.path(target.sha256)), assets=assets)


def _routes(model: str, newest: int, targets: dict[str, Target], aliases: dict[str, str]) -> ModelRoutes:
    latest = variant_key(newest, REFERENCE_VARIANT)
    live = {alias: key for alias, key in sorted(aliases.items()) if key in targets} | {LATEST: latest}
    return ModelRoutes(model=model, primary=live.get(PRODUCTION, latest), aliases=live, targets=targets)


def _routed(routes: ModelRoutes, route: Route) -> ModelRoutes:
    """The routes with the model's route. What it names and is no longer there is left out."""

    def arm(name: str, weight: float) -> Arm | None:
        target = routes.resolve(name) if name else None
        return Arm(name=name, key=target.key, weight=weight) if target else None

    split = tuple(found for name, weight in route.split.items() if (found := arm(name, weight)))
    return replace(routes, split=split, shadow=arm(route.shadow, route.share))
