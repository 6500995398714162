"""Recipes of the user's own: what a file gives, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.core.errors import InvalidInput
from studio.core.recipe import Plan, Step
from studio.optimize.base import Option, Recipe, recipes
from studio.optimize.plans import LARGEST_BYTES, MOST_STEPS, describe, parse_plan, plans_in, read_plan

GOOD = """\
name = "small"
title = "Sparse, then 8 bits"

[[steps]]
recipe = "sparse"
amount = 0.2
scope = "model"

[[steps]]
recipe = "int8-static"
rows = 64
mixed = false
keep = ["conv1", "fc"]
"""


def test_a_plan_has_a_name_a_title_and_steps_with_options() -> None:
    assert parse_plan(GOOD, "mine.toml") == Plan(
        name="small",
        title="Sparse, then 8 bits",
        steps=(
            Step(recipe="sparse", options={"amount": 0.2, "scope": "model"}),
            Step(recipe="int8-static", options={"rows": 64, "mixed": False, "keep": ("conv1", "fc")}),
        ),
    )


def test_a_plan_without_a_name_takes_its_file_s() -> None:
    plan = parse_plan('[[steps]]\nrecipe = "fused"\n[[steps]]\nrecipe = "int8"', "folder-plan.toml")
    assert plan == Plan(name="folder-plan", steps=(Step(recipe="fused"), Step(recipe="int8")))
    assert plan.text == "fused, then int8"


def test_whole_numbers_do_for_options_that_are_shares() -> None:
    plan = parse_plan('[[steps]]\nrecipe = "int8-static"\nmax_kept = 1', "all.toml")
    assert plan.steps[0].options == {"max_kept": 1.0} and isinstance(plan.steps[0].options["max_kept"], float)


STEP = '[[steps]]\nrecipe = "sparse"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[steps]]\nrecipe = "sparze"', "p.toml, line 2: there is no recipe 'sparze'. Did you mean 'sparse'?"),
        ('[[steps]]\nrecipe = "qqq"', "p.toml, line 2: there is no recipe 'qqq'. Recipes: distilled, fp16, "),
        ('[[steps]]\nrecipe = "fp32"', "line 2: there is no recipe 'fp32'."),
        ('name = "fp32"\n' + STEP, "line 1: 'fp32' is the name of a recipe already."),
        ('name = "latest"\n' + STEP, "line 1: 'latest' is no name for a variant."),
        (STEP + "ammount = 0.3", "p.toml, line 3: the recipe 'sparse' has no option 'ammount'. Did you mean 'amount'?"),
        (STEP + "zzz = 0.3", "has no option 'zzz'. Its options: amount, scope."),
        ('[[steps]]\nrecipe = "fp16"\nbits = 8', "line 3: the recipe 'fp16' has no option 'bits'. It has no options."),
        (STEP + "amount = 2", "line 3: 'amount' can not be 2. It takes a number from 0.01 to 0.99: "),
        (STEP + 'amount = "0.3"', "line 3: 'amount' can not be '0.3'. It takes a number from 0.01 to 0.99: "),
        (STEP + "amount = true", "line 3: 'amount' can not be True."),
        (STEP + "amount = nan", "line 3: 'amount' can not be nan."),
        (STEP + "amount = inf", "line 3: 'amount' can not be inf."),
        (STEP + f"amount = {'9' * 400}", "line 3: 'amount' can not be 999"),
        (STEP + 'scope = "all"', "line 3: 'scope' can not be 'all'. It takes layer, model: "),
        (
            '[[steps]]\nrecipe = "int8-static"\nrows = 64.5',
            "'rows' can not be 64.5. It takes a whole number from",
        ),
        ('[[steps]]\nrecipe = "int8-static"\nmixed = 1', "line 3: 'mixed' can not be 1. It takes true or false: "),
        ('[[steps]]\nrecipe = "int8-static"\nkeep = [1]', "line 3: 'keep' can not be [1]. It takes a list of texts: "),
        ('[[steps]]\nrecipe = "int4"\nblock = 48', "line 3: 'block' can not be 48. It takes 16, 32, 64, 128, 256: "),
        ('name = "A b"\n' + STEP, "p.toml, line 1: 'A b' is no name for a variant. A variant name has lower-case"),
        ('name = "int8"\n' + STEP, "line 1: 'int8' is the name of a recipe already. A plan needs a name of its own."),
        ('name = "auto"\n' + STEP, "line 1: 'auto' is no name for a variant."),
        ("name = 3\n" + STEP, "line 1: 'name' is no text."),
        ("title = 3\n" + STEP, "line 1: 'title' is no text."),
        ('nam = "x"\n' + STEP, "line 1: there is no key 'nam'. Did you mean 'name'?"),
        ('name = "x"', "p.toml: it has no steps. A plan has at least one [[steps]]"),
        ('name = "x"\nsteps = []', "p.toml, line 2: it has no steps."),
        ('name = "x"\nsteps = ["int8"]', "line 2: it has no steps."),
        ('name = "x"\n[[steps]]\namount = 1', "line 2: a step names no recipe. Recipes: "),
        (STEP * (MOST_STEPS + 1), f"line {2 * MOST_STEPS + 1}: it has {MOST_STEPS + 1} steps."),
        ("name = ", "p.toml is not valid TOML. Invalid value (at end of document)."),
        ("[" * 5000, "p.toml is not valid TOML."),
    ],
)
def test_a_wrong_plan_is_refused_with_its_line_and_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_plan(text, "p.toml")
    assert said in caught.value.problem.sentence()


def test_a_file_whose_name_is_no_variant_s_says_where_the_name_comes_from() -> None:
    with pytest.raises(InvalidInput, match="My plan") as caught:
        parse_plan(STEP, "My plan.toml")
    assert "It comes from the file's name." in caught.value.why


def test_a_folder_gives_its_plans_and_tells_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_text(STEP)
    (tmp_path / "c.toml").write_text("name = 'small'\n" + STEP)
    (tmp_path / "d.toml").write_bytes(b'\xff\xfe"')
    (tmp_path / "e.toml").write_text("# long\n" * LARGEST_BYTES)
    (tmp_path / "notes.txt").write_text("no plan")
    (tmp_path / "f.toml").mkdir()
    found = plans_in(tmp_path)
    assert set(found.plans) == {"small", "b"} and found.files == {"small": "a.toml", "b": "b.toml"}
    assert set(found.problems) == {"c.toml", "d.toml", "e.toml", "f.toml"}
    assert found.problems["c.toml"].problem.sentence().startswith("c.toml: the name 'small' is taken. a.toml has it.")
    assert "not UTF-8" in found.problems["d.toml"].what and "larger than 64 kB" in found.problems["e.toml"].what
    assert plans_in(tmp_path / "missing").plans == {}


def test_a_plan_that_a_windows_editor_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "win.toml"
    path.write_bytes(b"\xef\xbb\xbf" + STEP.replace("\n", "\r\n").encode())
    assert read_plan(path).steps == (Step(recipe="sparse"),)


def test_the_list_of_all_recipes_names_options_origins_and_broken_files(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_text("steps = 1")
    entries = {entry.name: entry for entry in describe(tmp_path)}
    assert set(recipes()) < set(entries)
    sparse = entries["sparse"]
    assert sparse.origin == "built in" and sparse.title and sparse.options[0].name == "amount"
    assert sparse.options[0].allowed == "a number from 0.01 to 0.99" and sparse.options[0].default == 0.3
    assert entries["small"].origin == "a.toml" and entries["small"].title == "Sparse, then 8 bits"
    assert entries["small"].steps.startswith("sparse (amount 0.2, scope model), then int8-static (")
    assert entries["b"].problem.startswith("b.toml, line 1: it has no steps.")
    assert {entry.origin for entry in describe()} == {"built in"}


@pytest.mark.parametrize(
    "recipe", [one for one in recipes().values() if one.name != "fp32"], ids=lambda recipe: recipe.name
)
def test_every_default_is_a_value_that_a_plan_may_name(recipe: Recipe) -> None:
    def toml(option: Option) -> str:
        if isinstance(option.default, bool):
            return str(option.default).lower()
        return str(list(option.default)) if isinstance(option.default, tuple) else repr(option.default)

    lines = [f"{option.name} = {toml(option)}" for option in recipe.options]
    plan = parse_plan("\n".join([f'[[steps]]\nrecipe = "{recipe.name}"', *lines]), "own.toml")
    assert plan.steps[0].options == recipe.settings({})
    assert all(option.help and not option.help.endswith(".") for option in recipe.options)
