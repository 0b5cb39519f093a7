"""How a page is played: its commands in one folder, its Python in one namespace, parts of what they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.docs_play import outputs, play, played

PAGE = """\
Text.

<!-- output, first 1 lines: loratools inspect loratools-sample/base -->
<!-- end -->

```python
number = 6
```

```python
from pathlib import Path
Path("written").write_text("here")
print(number * 7)
```

<!-- prints -->
old
<!-- end -->

<!-- output: python -c "print(open('written').read())" -->
<!-- end -->

<!-- output, fails: loratools inspect absent -->
<!-- end -->

<!-- output, costly: python -c "print('| a table |')" -->
| as it was |
<!-- end -->
"""


def fenced(*lines: str) -> str:
    return "\n".join(["```text", *lines, "```", ""])


def test_a_page_is_one_story() -> None:
    first, answer, read, refused = [block.fresh for block in play(PAGE)]
    assert first == fenced("$ loratools inspect loratools-sample/base", "loratools-sample/base", "…")
    assert answer == fenced("42")
    assert read == fenced("$ python -c \"print(open('written').read())\"", "here")
    assert refused.startswith("```text\n$ loratools inspect absent\nError: ")


def test_costly_blocks_are_kept_unless_asked_for() -> None:
    assert "| as it was |" in played(PAGE)
    remade = played(PAGE, costly=True)
    assert "| as it was |" not in remade
    assert "| a table |\n\nMade by `python -c \"print('| a table |')\"`.\n<!-- end -->" in remade
    assert played(remade, costly=True) == remade


def test_what_a_page_shows_is_told_by_command() -> None:
    shown = outputs(PAGE)
    assert shown["loratools inspect absent"] == ""
    assert shown["prints 1"] == "old\n"


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ("first 2 lines", ["1", "2", "…"]),
        ("last 2 lines", ["…", "3", "4"]),
        ("2 lines from 2", ["…", "2", "3", "…"]),
    ],
)
def test_a_part_of_a_run_can_be_shown(how: str, shown: list[str]) -> None:
    command = "python -c \"print('1\\\\n2\\\\n3\\\\n4')\""
    (block,) = play(f"<!-- output, {how}: {command} -->\n<!-- end -->\n")
    assert block.fresh == fenced(f"$ {command}", *shown)


def test_a_command_that_fails_unannounced_stops_the_play(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="loratools inspect absent ended with 1"):
        list(play("<!-- output: loratools inspect absent -->\n<!-- end -->\n"))
