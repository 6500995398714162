"""Splits and shadows: their text, which key meets which version, and how they are changed and taken back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.errors import Conflict, InvalidInput, NotFound, Refused
from studio.core.route import Arm, Route, chosen, drawn, weights
from studio.core.tensors import Signature, TensorSpec
from studio.registry.changes import (
    add_variant,
    add_version,
    archive,
    move_alias,
    remove_alias,
    rollback_route,
    set_route,
    undo,
)
from studio.registry.registry import Registry
from studio.registry.routes import routing_table
from studio.registry.versions import model_detail
from studio.store.workspace import Workspace
from tests.manifests import variant, version

KEYS = [b"user-%d" % n for n in range(4000)]
SPLIT = Route(split={"production": 90, "candidate": 10})


def arms(**split: float) -> list[Arm]:
    return [Arm(name=name, key="1-fp32", weight=weight) for name, weight in split.items()]


def met(split: list[Arm], model: str = "digits") -> list[str]:
    return [chosen(split, model, key).name for key in KEYS]


@given(
    st.dictionaries(st.sampled_from(["production", "shadow", "at", "3", "4-int8"]), st.floats(1e-6, 1e6)),
    st.sampled_from(["", "4-int8", "shadow", "at"]),
    st.floats(0.001, 1),
)
def test_a_route_is_what_its_text_says(split: dict[str, float], shadow: str, share: float) -> None:
    route = Route(split=split, shadow=shadow, share=share if shadow else 1.0)
    again = Route.parse(route.text)
    assert again.shadow == route.shadow
    assert list(again.split) == list(route.split)
    assert again.text == route.text


@pytest.mark.parametrize("words", ["", "production", "=5", "a=b", "a=nan", "a=inf", "a=1 a=2"])
def test_what_is_no_part_of_a_split(words: str) -> None:
    with pytest.raises(InvalidInput):
        weights(words.split(" "))


def test_keys_are_spread_by_weight_and_stay() -> None:
    before = met(arms(production=90, candidate=10))
    assert before == met(arms(candidate=1, production=9))
    assert 0.08 < before.count("candidate") / len(KEYS) < 0.12
    assert before != met(arms(production=90, candidate=10), model="other")


def test_a_change_of_weights_moves_only_whom_it_must() -> None:
    before, after = met(arms(a=80, b=15, c=5)), met(arms(a=60, b=15, c=25))
    moved = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    # Nobody goes to an arm that lost against his own; 20 of 100 have to move.
    assert set(moved) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert 0.18 < len(moved) / len(KEYS) < 0.26
    two, other_two = met(arms(a=90, b=10)), met(arms(a=50, b=50))
    assert all(then == now or (then, now) == ("a", "b") for then, now in zip(two, other_two, strict=True))
    gone = met(arms(a=80, c=5))
    assert all(now == then for now, then in zip(gone, before, strict=True) if then != "b")


def test_without_a_key_the_weights_alone_count() -> None:
    split = arms(a=1, b=3)
    assert [drawn(split, at / 8).name for at in range(8)] == ["a"] * 2 + ["b"] * 6
    assert drawn(split, 1.0).name == "b"


@pytest.fixture
def digits(registry: Registry) -> Registry:
    blobs = registry.store.blobs
    for number in (1, 2, 3):
        add_version(registry, version(blobs, number=number))
        add_variant(registry, variant(blobs, number=number, name="fp32", outcome="reference"))
        add_variant(registry, variant(blobs, number=number, name="int8"))
    move_alias(registry, "digits", "production", "2")
    move_alias(registry, "digits", "candidate", "3")
    return registry


def now(registry: Registry) -> tuple[dict[str, str], str]:
    routes = routing_table(registry, 0).models["digits"]
    return {arm.name: arm.key for arm in routes.split}, routes.shadow.key if routes.shadow else ""


def test_a_route_leads_where_its_aliases_lead_and_is_loaded_ahead(digits: Registry) -> None:
    change = set_route(digits, "digits", replace(SPLIT, shadow="1-int8", share=0.2), "try it", "cli")
    assert (change.before, change.after) == ("", "production=90 candidate=10; shadow 1-int8 at 0.2")
    assert (change.why, change.actor) == ("try it", "cli")
    assert now(digits) == ({"production": "2-fp32", "candidate": "3-fp32"}, "1-int8")
    assert "digits:1-int8" in routing_table(digits, 0).pinned
    move_alias(digits, "digits", "candidate", "3-int8")
    assert now(digits)[0] == {"production": "2-fp32", "candidate": "3-int8"}
    detail = model_detail(digits, "digits")
    assert detail.route.split == {"production": 90, "candidate": 10}
    assert detail.route_changes == (change,)


def test_routes_outlive_the_process_and_the_index(digits: Registry, workspace: Workspace) -> None:
    set_route(digits, "digits", SPLIT)
    digits.close()
    workspace.registry.unlink()
    with Registry.open(workspace) as again:
        assert now(again)[0] == {"production": "2-fp32", "candidate": "3-fp32"}
        assert len(model_detail(again, "digits").route_changes) == 1


def test_undo_and_rollback(digits: Registry) -> None:
    with pytest.raises(NotFound, match="never changed"):
        rollback_route(digits, "digits")
    set_route(digits, "digits", SPLIT)
    set_route(digits, "digits", Route(split={"production": 50, "candidate": 50}))
    assert rollback_route(digits, "digits").after == SPLIT.text
    assert undo(digits).after == "production=50 candidate=50"
    assert undo(digits).after == SPLIT.text
    move_alias(digits, "digits", "candidate", "1")
    assert undo(digits).after == "3-fp32"
    set_route(digits, "digits", Route())
    assert now(digits) == ({}, "")
    assert undo(digits).after == SPLIT.text


IMPOSSIBLE = (
    (Route(split={"production": 1, "nobody": 1}), NotFound),
    (Route(shadow="9"), NotFound),
    (Route(split={"production": 0}), InvalidInput),
    (Route(split={"production": -1}), InvalidInput),
    (Route(split={"no name!": 1}), InvalidInput),
    (Route(shadow="3", share=0), InvalidInput),
    (Route(shadow="3", share=1.1), InvalidInput),
    (Route(split={f"a{n}": 1 for n in range(17)}), InvalidInput),
    (Route(), Conflict),
)


def test_what_can_be_no_route_changes_nothing(digits: Registry) -> None:
    for route, error in IMPOSSIBLE:
        with pytest.raises(error):
            set_route(digits, "digits", route)
        assert now(digits) == ({}, "")


def test_versions_that_take_other_inputs_do_not_share_requests(digits: Registry) -> None:
    other = Signature((TensorSpec("pixels", "FP32", ("n", 9)),), (TensorSpec("y", "FP32", ("n", 2)),), True)
    add_version(digits, replace(version(digits.store.blobs, number=4), signature=other))
    with pytest.raises(Refused, match=r"digits:production and digits:4 can not answer the same requests"):
        set_route(digits, "digits", Route(split={"production": 9, "4": 1}))
    with pytest.raises(Refused):
        set_route(digits, "digits", Route(split={"production": 1}, shadow="4"))


def test_what_a_route_names_stays(digits: Registry) -> None:
    set_route(digits, "digits", Route(split={"production": 9, "candidate": 1}, shadow="1-int8"))
    with pytest.raises(Conflict, match="the route of digits names it"):
        remove_alias(digits, "digits", "candidate")
    with pytest.raises(Conflict, match="the route of digits names it"):
        archive(digits, "digits", 1)
    set_route(digits, "digits", Route())
    archive(digits, "digits", 1)
