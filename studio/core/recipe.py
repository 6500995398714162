"""What makes a variant: recipes with their options, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field

OptionValue = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One recipe by its name. `options` hold what differs from the recipe's defaults."""

    recipe: str
    options: dict[str, OptionValue] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """'sparse (amount 0.3)'."""
        told = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return f"{self.recipe} ({told})" if told else self.recipe


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A named list of steps; the variant takes the plan's name. Every recipe is a plan of one step by itself."""

    name: str
    steps: tuple[Step, ...]
    title: str = ""

    @property
    def text(self) -> str:
        """'sparse (amount 0.3), then int8'."""
        return ", then ".join(step.text for step in self.steps)


def plan_of(recipe: str) -> Plan:
    """The plan that is one recipe with its defaults."""
    return Plan(name=recipe, steps=(Step(recipe=recipe),))


@dataclass(frozen=True, kw_only=True)
class OptionEntry:
    """One option of a recipe; `allowed` says what it takes ('a number from 0.01 to 0.99', 'layer, model')."""

    name: str
    default: OptionValue
    help: str
    allowed: str


@dataclass(frozen=True, kw_only=True)
class RecipeEntry:
    """A recipe, or a plan of the user's, in a list of all there are.

    `origin`: 'built in', the distribution that brings it, or the name of the user's file. `steps`: of a plan, in words.
    `problem`: why a file holds no plan; its entry then has the file's stem for a name.
    """

    name: str
    title: str
    origin: str
    options: tuple[OptionEntry, ...] = ()
    steps: str = ""
    problem: str = ""
