"""The pages of findings and their pictures: every number comes from a command that stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures.docs_blocks import DOCS, documents
from fixtures.docs_figures import COMMANDS, FOLDER, alike, command_of, draw, recorded, same_drawing
from fixtures.docs_play import outputs

FOUND = ["findings.md", "guides/choosing-a-rank.md"]
"""Pages whose sentences tell what commands found."""

PRINTED_BY_THE_PAPER = {"21.5", "0.5"}
"""Of Hu et al. 2021: the amplification factor of Table 7, and what Figure 3's first direction exceeds."""

_MARKED = re.compile(r"^<!-- \w+.*?^<!-- end -->|^```.*?^```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.§])(?<!section )(?:\d+\.\d+|\d{1,3}(?:,\d{3})+|\d+(?= %))")


@pytest.mark.parametrize("page", FOUND)
def test_every_number_of_the_text_was_printed_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    printed = "\n".join(outputs(text).values())
    numbers = set(_NUMBER.findall(_MARKED.sub(" ", text))) - PRINTED_BY_THE_PAPER
    assert numbers, "no number was found: is the page what it was?"
    shown = set(re.findall(r"[\d,]*\.?\d+", printed))
    missing = {number for number in numbers if not {number, number.removeprefix("0")} & shown}
    assert not missing, f"in the text of {page} and in no command's output there"


def test_every_picture_stands_on_a_page_with_its_command() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in documents())
    for name in COMMANDS:
        assert f"figures/{name}.svg" in text
        assert command_of(name) in text


def test_no_page_shows_a_picture_that_no_command_draws() -> None:
    for page in documents():
        shown = re.findall(r"[\w/.-]*figures/([\w-]+)\.svg", page.read_text(encoding="utf-8"))
        assert set(shown) <= set(COMMANDS), page.name


@pytest.mark.filterwarnings("ignore")  # matplotlib's own
@pytest.mark.parametrize("name", COMMANDS)
def test_pictures_are_what_their_commands_draw(name: str, tmp_path: Path) -> None:
    before = recorded()[name]
    now = draw(name, tmp_path)
    assert alike(before, now), "run python -m fixtures.docs_figures"
    if before.matplotlib == now.matplotlib:
        assert same_drawing(FOLDER / f"{name}.svg", tmp_path / f"{name}.svg"), (
            "run python -m fixtures.docs_figures"
        )
