"""The page of documentation and the recipes say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from studio.core.recipe import OptionValue
from studio.optimize.base import Recipe, recipes
from studio.optimize.plans import parse_plan

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
SECTIONS = {
    name: part for part in re.split(r"^## ", PAGE, flags=re.M) for name in re.split(r", | and |\n", part.split("\n")[0])
}


@pytest.mark.parametrize("recipe", recipes().values(), ids=lambda recipe: recipe.name)
def test_the_page_names_every_option_with_its_default(recipe: Recipe) -> None:
    section = SECTIONS[recipe.name]
    rows = {
        cells[0].strip("` "): [cell.strip() for cell in cells[1:]]
        for cells in (line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `"))
    }
    if not recipe.options:
        assert "No options." in section
        return
    assert {option.name for option in recipe.options} <= set(rows)
    for option in recipe.options:
        assert _shown(option.default) in rows[option.name][:2], (option.name, rows[option.name])


def _shown(default: OptionValue) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, str):
        return f'`"{default}"`'
    return ", ".join(default) or "none" if isinstance(default, tuple) else f"{default:g}"


def test_the_plan_on_the_page_is_one() -> None:
    text = "\n".join(line[4:] for line in SECTIONS["Recipes of your own"].splitlines() if line.startswith("    "))
    assert parse_plan(text, "page.toml").text == "sparse (amount 0.1), then int8"
