"""Request bodies of the control API."""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.core.recording import DEFAULT_ROWS, DEFAULT_SECONDS


@dataclass
class AddBody:
    """Copy a file or folder into the inbox; `name` renames its stem, and so the model."""

    path: str
    name: str | None = None


@dataclass
class TemplateBody:
    """Make a settings file for the model at `path`, to lie beside it or at `target`; `force` where there is one."""

    path: str
    target: str = ""
    force: bool = False


@dataclass
class AliasBody:
    """Move an alias. `target`: a version (`3`), a variant (`3-int8`), another alias; empty removes the alias."""

    model: str
    alias: str
    target: str = ""
    why: str = ""
    actor: str = "sdk"


@dataclass
class RollbackBody:
    """Point an alias back at what it named before."""

    model: str
    alias: str = "production"
    why: str = ""
    actor: str = "sdk"


@dataclass
class RouteBody:
    """How requests for a model's bare name are spread. What is null stays as it is.

    `split`: weights by version, variant or alias; empty = the primary alone. `shadow`: what gets a copy of a `share` of
    the requests (0 to 1); empty = none.
    """

    model: str
    split: dict[str, float] | None = None
    shadow: str | None = None
    share: float | None = None
    why: str = ""
    actor: str = "sdk"


@dataclass
class ModelBody:
    model: str
    why: str = ""
    actor: str = "sdk"


@dataclass
class ActorBody:
    actor: str = "sdk"


@dataclass
class TrustBody:
    """Yes to running the code in files of these SHA-256, as waiting jobs show them."""

    sha256: list[str]
    actor: str = "sdk"


@dataclass
class DistrustBody:
    sha256: str
    actor: str = "sdk"


@dataclass
class InputBody:
    """One input: whole numbers and names of free sizes, batch first; a datatype of the Open Inference Protocol."""

    name: str
    datatype: str
    shape: list[int | str]


@dataclass
class InputsBody:
    inputs: list[InputBody]


@dataclass
class RecordBody:
    """Keep the inputs of requests for a model: at most so many `rows`, for so many `seconds`."""

    model: str
    rows: int = DEFAULT_ROWS
    seconds: float = DEFAULT_SECONDS
    actor: str = "sdk"


@dataclass
class ReferenceBody:
    reference: str
    actor: str = "sdk"


@dataclass
class PurgeBody:
    """`confirm` repeats the reference: purging can not be undone."""

    reference: str
    confirm: str
    actor: str = "sdk"


@dataclass
class LoadBody:
    """A load test of one variant."""

    reference: str
    seconds: float = 10.0
    clients: int = 4


@dataclass
class PlanBody:
    """See studio.core.comparison.Plan."""

    references: list[str]
    seconds: float = 20.0
    clients: int = 1
    slice_seconds: float = 0.5


@dataclass
class OwnRecipe:
    """A recipe of the user's: the name of its file, and the TOML in it."""

    file: str
    text: str


@dataclass
class LabBody:
    """Make variants of the version that `reference` means, by `recipes` and the user's `own`; none = the default ones.

    `again`: judge those too that are there. `stale`: instead, all whose figures are of another machine, of
    the version that `reference` means, or of every version where it is empty.
    """

    reference: str = ""
    recipes: list[str] = field(default_factory=list)
    own: list[OwnRecipe] = field(default_factory=list)
    again: bool = False
    stale: bool = False
