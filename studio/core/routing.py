"""The routing table: everything the server needs to know, as one plain value, replaced whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from studio.core.names import REFERENCE_VARIANT, Reference, variant_key
from studio.core.preprocessing import Preprocessing
from studio.core.route import Arm
from studio.core.tensors import Signature, TensorSpec


@dataclass(frozen=True, kw_only=True)
class Target:
    """One servable variant. `path` is a read-only ONNX file. `varies`: its run time depends on the values given.

    `preprocessing` by input name; `assets`: where the files lie that serving needs beside the graph, by their names.
    `threads`: with how many a run that has this machine for itself was found to be fastest, 1 if nobody knows.
    """

    model: str
    version: int
    variant: str
    path: str
    sha256: str
    signature: Signature
    class_labels: tuple[str, ...] = ()
    varies: bool = False
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)
    assets: dict[str, str] = field(default_factory=dict)
    threads: int = 1

    @cached_property
    def key(self) -> str:
        return variant_key(self.version, self.variant)

    @cached_property
    def name(self) -> str:
        """The full reference, `digits:3-int8`."""
        return f"{self.model}:{self.key}"

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What protocols work out once for a target. Not part of the value."""
        return {}

    @cached_property
    def input_specs(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.signature.inputs}


@dataclass(frozen=True, kw_only=True)
class ModelRoutes:
    """All of one model. `primary` answers the bare name; `aliases` name keys of `targets` (`latest` included).
    `auto` names, for `3-auto`, the key of the variant of version 3 that was chosen by its figures.

    Where there is a `split`, it is what answers the bare name. The `shadow` gets a copy of a part (0 to 1) of those
    requests; that part is its weight. Neither touches requests that name a version or an alias.
    """

    model: str
    primary: str
    aliases: dict[str, str]
    targets: dict[str, Target]
    auto: dict[str, str] = field(default_factory=dict)
    split: tuple[Arm, ...] = ()
    shadow: Arm | None = None

    @property
    def plain(self) -> bool:
        """Whether the bare name is the primary's alone."""
        return not self.split and not self.shadow

    def resolve(self, tail: str) -> Target | None:
        """The target for what stands behind the colon: '', '3', '3-int8' or an alias. None if there is no such."""
        if not tail:
            return self.targets.get(self.primary)
        if tail in self.aliases:
            return self.targets.get(self.aliases[tail])
        if tail in self.auto:
            return self.targets.get(self.auto[tail])
        if tail.isdigit():
            return self.targets.get(variant_key(int(tail), REFERENCE_VARIANT))
        return self.targets.get(tail)


@dataclass(frozen=True, kw_only=True)
class RoutingTable:
    """`generation` grows with each change. `pinned` names the targets to keep loaded, `warm` those to be loaded before
    it is in force, which may be unloaded again (full references)."""

    generation: int = 0
    models: dict[str, ModelRoutes] = field(default_factory=dict)
    pinned: tuple[str, ...] = ()
    warm: tuple[str, ...] = ()

    def resolve(self, reference: Reference) -> Target | None:
        routes = self.models.get(reference.model)
        if routes is None:
            return None
        text = str(reference)
        return routes.resolve(text.partition(":")[2])
