"""The documents' examples, run: the quick start as it stands, and every page that shows what it prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from fixtures.docs_blocks import DOCS, documents
from fixtures.docs_play import outputs, play
from fixtures.docs_same import same
from loratools.cli.app import application

ROOT = DOCS.parent


def played_pages() -> list[Path]:
    """The pages that hold something to run."""
    marks = re.compile(r"^<!-- (output|prints)\b|^```python$", re.MULTILINE)
    return [
        page for page in (ROOT / "README.md", *documents()) if marks.search(page.read_text(encoding="utf-8"))
    ]


@pytest.mark.filterwarnings("ignore")  # of the libraries that an example uses: a reader sees them on stderr
@pytest.mark.parametrize("page", played_pages(), ids=[page.name for page in played_pages()])
def test_a_page_prints_what_it_shows(page: Path) -> None:
    for block in play(page.read_text(encoding="utf-8")):
        assert same(block.body, block.fresh), (
            f"{block.name}: run python -m fixtures.docs_blocks {page.relative_to(ROOT)}\n{block.fresh}"
        )


@pytest.mark.parametrize("page", played_pages(), ids=[page.name for page in played_pages()])
def test_no_block_is_left_empty(page: Path) -> None:
    """Costly blocks too, which only `--all` fills."""
    empty = [name for name, body in outputs(page.read_text(encoding="utf-8")).items() if not body.strip()]
    assert not empty


def test_the_quick_start_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) > 5
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "loratools"
        result = CliRunner().invoke(application, words, prog_name="loratools")
        assert result.exit_code == 0, f"{line}: {result.stderr}"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("rank 8: 0.5432", "rank 8: 0.5433", True),
        ("rank 8: 0.5432", "rank 8: 0.5434", False),
        ("rank 8", "rank 9", False),
        ("90 %", "90.1 %", True),
        ("90 %", "91.1 %", False),
        ("1,408,792 bytes", "1,408,793 bytes", False),
        ("8.0e-10", "8.1e-10", True),
        ("8.0e-10", "8.4e-10", False),
        ("3.1e-15", "9.7e-15", True),
        ("-0.51", "0.51", False),
        (".19 .28", ".19 .29", True),
        (".19 .28", ".19 .30", False),
        ("▁▃▅", "▁▄▅", True),
        ("▁▃▅", "▁▅▅", False),
        ("░▒", "▒▓", True),
        ("░▒", "░▒▒", False),
        ("lora-r8", "lora-r4", False),
        ("a  1.00", "a 1.00", True),
        ("one", "two", False),
    ],
)
def test_printings_are_the_same_but_for_last_digits(one: str, other: str, alike: bool) -> None:
    assert same(one, other) is alike
