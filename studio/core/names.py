"""Names and references: `digits`, `digits:3`, `digits:3-int8`, `digits:production`."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from dataclasses import dataclass

from studio.core.errors import InvalidInput

MAX_NAME = 100
LATEST = "latest"
PRODUCTION = "production"
CANDIDATE = "candidate"
REFERENCE_VARIANT = "fp32"
AUTO = "auto"
"""Stands for the variant of a version that was chosen by its figures: `digits:3-auto`."""

_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]*")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]*")
_VARIANT = re.compile(r"[a-z][a-z0-9.-]*")
_NUMBERED = re.compile(r"([1-9][0-9]{0,8})(?:-([a-z][a-z0-9.-]*))?")


def check_model_name(name: str) -> str:
    """The name itself. Raises InvalidInput unless it is `[a-z0-9][a-z0-9._-]*`, at most 100 characters."""
    return _check(
        name, _MODEL, "model name", "lower-case letters, digits, '.', '_' and '-', starting with a letter or digit"
    )


def check_alias(name: str) -> str:
    """The alias itself. Raises InvalidInput for malformed names and for the reserved `latest`."""
    if name == LATEST:
        raise InvalidInput(
            "The alias 'latest' can not be moved.",
            "It always means the newest version.",
            "Choose another name, for example 'production' or 'candidate'.",
        )
    return _check(name, _ALIAS, "alias", "lower-case letters, digits, '.', '_' and '-', starting with a letter")


_NO_VARIANTS = {
    AUTO: "It stands for the variant that was chosen by its figures.",
    LATEST: "It stands for the newest version of a model.",
}


def check_variant_name(name: str) -> str:
    """The variant name itself. Raises InvalidInput for malformed names and for the reserved `auto` and `latest`."""
    meaning = _NO_VARIANTS.get(name)
    if meaning:
        raise InvalidInput(f"No variant can be called '{name}'.", meaning, "Give the recipe another name.")
    return _check(name, _VARIANT, "variant name", "lower-case letters, digits, '.' and '-', starting with a letter")


def _check(name: str, pattern: re.Pattern[str], word: str, rule: str) -> str:
    if len(name) > MAX_NAME or not pattern.fullmatch(name):
        article = "An" if word[0] in "aeiou" else "A"
        raise InvalidInput(
            f"Invalid {word} {name[:120]!r}.", f"{article} {word} has {rule}; at most {MAX_NAME} characters."
        )
    return name


def model_name_from_stem(stem: str) -> str:
    """The model name that a dropped file's stem stands for: lower-cased, other characters become '-'.

    Raises InvalidInput when nothing usable is left.
    """
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:MAX_NAME]
    if not name:
        raise InvalidInput(
            f"No model name can be made from {stem!r}.",
            "A model's name is part of addresses: it has the letters a to z, digits, '.', '_' and '-', and none of "
            "them is in this one.",
            "Add it under a name of your choice: studio add FILE --name NAME. Or rename the file, and drop it again.",
        )
    return check_model_name(name)


@dataclass(frozen=True)
class Reference:
    """The one way to name a thing. At most one of `alias` and `version` is set; `variant` only with `version`."""

    model: str
    version: int | None = None
    variant: str | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference. Raises InvalidInput."""
        model, colon, tail = text.partition(":")
        check_model_name(model)
        if not colon:
            return cls(model)
        return cls.of(model, tail)

    @classmethod
    def of(cls, model: str, tail: str) -> Reference:
        """From a model name and what stands behind the colon: `3`, `3-int8` or an alias."""
        numbered = _NUMBERED.fullmatch(tail)
        if numbered:
            return cls(model, version=int(numbered[1]), variant=numbered[2])
        if not _ALIAS.fullmatch(tail) or len(tail) > MAX_NAME:
            raise InvalidInput(
                f"Invalid reference {f'{model}:{tail}'[:220]!r}.",
                "Behind the colon stands a version (3), a variant of a version (3-int8) or an alias (production).",
            )
        return cls(model, alias=tail)

    def __str__(self) -> str:
        if self.alias:
            return f"{self.model}:{self.alias}"
        if self.version is None:
            return self.model
        return f"{self.model}:{variant_key(self.version, self.variant) if self.variant else self.version}"


def variant_key(version: int, variant: str) -> str:
    """`3-int8`: what stands behind the colon for one variant; also the name of its manifest file."""
    return f"{version}-{variant}"


def keyword_arguments(names: Iterable[str]) -> str:
    """`a=…, **{'b:0': …}`: a call's arguments of these names, as Python takes them."""
    return ", ".join(
        f"{name}=…" if name.isidentifier() and not keyword.iskeyword(name) else f"**{{{name!r}: …}}" for name in names
    )
