"""The documents against the code: help pages, the tree, the commands, the links, the table of contents."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from fixtures.docs_blocks import DOCS, documents, filled, help_page, verbs_with_help
from loratools.cli.app import VERBS, application

ROOT = DOCS.parent
README = ROOT / "README.md"
PAGES = [README, *documents()]

pages = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def blocks(page: Path, *languages: str) -> list[str]:
    """The contents of a page's code blocks in one of the languages, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [code.strip() for language, code in found if language in languages]


def commands() -> list[tuple[Path, list[str]]]:
    """Every `loratools` command that stands in a block of a page, by itself or after a prompt."""
    return [
        (page, shlex.split(line.removeprefix("$ "))[1:])
        for page in PAGES
        for block in blocks(page, "sh", "console", "text")
        for line in block.splitlines()
        if line.removeprefix("$ ").startswith("loratools ") and "…" not in line
    ]


@pages
def test_what_is_made_from_the_code_is_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run python -m fixtures.docs_blocks"


def test_every_verb_has_a_page_with_its_help() -> None:
    for verb in VERBS:
        assert verbs_with_help((DOCS / "verbs" / f"{verb}.md").read_text(encoding="utf-8")) == [verb]
        assert f"verbs/{verb}" in (DOCS / "index.md").read_text(encoding="utf-8")


def test_the_help_page_in_the_documents_is_the_one_that_is_printed() -> None:
    printed = CliRunner().invoke(
        application, ["merge", "--help"], prog_name="loratools", env={"COLUMNS": "100"}
    )
    assert printed.stdout.rstrip("\n") == help_page("merge")


def test_the_readme_has_every_verb() -> None:
    table = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert [line.split()[2].strip("`") for line in table] == list(VERBS)


def test_the_readmes_first_two_commands_are_all_the_set_up() -> None:
    assert blocks(README, "sh", "bash", "shell", "console")[:2] == [
        "pip install torch==2.13.0 '.[transformers]' && loratools demo",
        "pip install torch==2.13.0 '.[test]' && pytest",
    ]


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"


@pages
def test_tests_that_a_page_names_exist(page: Path) -> None:
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{name}"


def entries(page: Path) -> list[str]:
    """The lines of a page's tables of contents that are neither options nor blank."""
    trees = re.findall(
        r"^```{toctree}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]


def listed(page: Path) -> list[Path]:
    """The pages below a page, in the order of reading: each that it lists, then those that this one lists."""
    below = [page.parent / f"{entry}.md" for entry in entries(page)]
    return [found for entry in below for found in (entry, *listed(entry))]


def test_every_page_is_in_the_table_of_contents_once() -> None:
    index = DOCS / "index.md"
    assert sorted(listed(index)) == [page for page in documents() if page != index]


def test_the_table_of_contents_has_its_sections() -> None:
    captions = re.findall(r"^:caption: (.*)$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert captions == [
        "Begin",
        "Verbs",
        "Guides",
        "The paper and the sample",
        "Theory",
        "Reference",
        "Python",
    ]


@pytest.mark.parametrize(
    ("page", "line"), commands(), ids=[f"{page.name}: {' '.join(line)}" for page, line in commands()]
)
def test_commands_parse(page: Path, line: list[str]) -> None:
    """Every option of every command exists; what it does is tested elsewhere."""
    verb, *rest = [word for word in line if word != "|"]
    assert verb in VERBS or verb.startswith("-")
    if verb in VERBS:
        command = application.get_command(application.make_context("loratools", []), verb)
        assert command is not None
        command.make_context(verb, [word for word in rest if word != "--help"])
