"""The table of actions: documented, without clashes, answered by every screen; keymap files."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.core.errors import InvalidInput
from studio.tui.actions import ACTIONS, BY_NAME, SCREENS, footer_of, of_screen
from studio.tui.dialogs import confirm_keys
from studio.tui.help import help_text
from studio.tui.keys import KEYS_FILE, clashes, key_label, keymap, keys_markdown, read_keymap
from tests.tui.conftest import Studio, until
from tests.tui.stub import filled


def test_every_action_has_a_name_of_its_own_a_title_and_a_help_sentence() -> None:
    assert len(BY_NAME) == len(ACTIONS)
    for action in ACTIONS:
        assert action.title and action.keys and action.screens
        assert action.help.endswith(".") and len(action.help) <= 80, action.name


def test_no_key_means_two_things_on_one_screen() -> None:
    assert clashes(keymap()) == []


def test_only_named_chords_need_ctrl() -> None:
    chords = {key for action in ACTIONS for key in action.keys if key.startswith("ctrl+")}
    assert chords == {"ctrl+p", "ctrl+s"}


@pytest.mark.parametrize("screen", SCREENS)
def test_help_shows_every_action_and_its_key(screen: str) -> None:
    keys = keymap()
    words = help_text(screen, keys).plain
    for action in of_screen(screen):
        assert action.help in words and keys.labels(action.name) in words


@pytest.mark.parametrize("screen", SCREENS)
def test_the_footer_offers_help_last(screen: str) -> None:
    assert footer_of(screen)[-1].name == "help"


def test_confirm_keys_differ_from_the_trigger() -> None:
    assert confirm_keys(("p",)) == ("y", "enter")
    assert confirm_keys(("y",)) == ("enter",)
    assert confirm_keys(("y", "enter")) == ("ctrl+y",)


async def test_every_screen_answers_all_its_actions(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        for screen in SCREENS:
            pilot.app.go(screen)
            await until(pilot, lambda s=screen: pilot.app.current and pilot.app.current.id == s, "shown")
            for action in of_screen(screen):
                assert pilot.app.why_not(action.name) != "Not on this screen.", (screen, action.name)


def test_a_keymap_file_replaces_keys(tmp_path: Path) -> None:
    (tmp_path / KEYS_FILE).write_text('[keys]\npromote = "P"\n"pane.zoom" = ["z", "f11"]\nfilter = ":"\npalette = []\n')
    keys = read_keymap(tmp_path)
    assert keys.of("promote") == ("P",)
    assert keys.of("filter") == ("colon",) and keys.label("filter") == ":"
    assert keys.label("palette") == ""
    assert keys.action("f11", "serve") is BY_NAME["pane.zoom"]
    assert keys.action("p", "models") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[keys]\nfly = "f"', "no action 'fly'"),
        ('[keys]\npromote = "u"', "share a key"),
        ("[keys]\npromote = 3", "not a keymap"),
        ("keys = [", "not TOML"),
    ],
)
def test_a_wrong_keymap_file_says_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / KEYS_FILE).write_text(text)
    with pytest.raises(InvalidInput, match=words) as caught:
        read_keymap(tmp_path)
    assert caught.value.fix


async def test_a_remapped_key_works_and_shows(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / KEYS_FILE).write_text('[keys]\n"screen.log" = "O"\n')
    async with studio(filled()) as pilot:
        await pilot.press("5")
        assert pilot.app.screen_name == "models"
        await pilot.press("O")
        assert pilot.app.screen_name == "log"


async def test_a_wrong_keymap_file_is_told_and_the_keys_of_the_table_hold(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / KEYS_FILE).write_text("[keys")
    async with studio(filled()) as pilot:
        assert any("not TOML" in note.title for note in pilot.app._notifications)
        await pilot.press("5")
        assert pilot.app.screen_name == "log"


def test_labels_are_what_keyboards_show() -> None:
    assert [key_label(key) for key in ("slash", "question_mark", "space", "escape")] == ["/", "?", "space", "esc"]


def test_the_documented_table_has_every_action() -> None:
    words = keys_markdown()
    for action in ACTIONS:
        assert f"| {action.help} | `{action.name}` |" in words
