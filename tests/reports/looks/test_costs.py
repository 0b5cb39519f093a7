"""`report`'s pages: the answer first, formulas beside values, whole names when piped."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fixtures.adapter_hub import write_bottleneck
from loratools import Report, report
from loratools.reports.looks.costs import cost_pages


def printed(found: Report, *, width: int = 100_000, full: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    for page in cost_pages(found, full):
        console.print(page, soft_wrap=isinstance(page, str))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def gpt3() -> Report:
    return report(preset="gpt3-175b", ranks=[1, 4])


def rows(text: str, beginning: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith(beginning)]


def test_the_formula_stands_beside_its_value(gpt3: Report) -> None:
    first, second = rows(printed(gpt3), "lora r = 4")
    assert first.split("  ")[0] == "lora r = 4"
    assert "18,874,368  2 · L_lora · d · r = 2 · 192 · 12,288 · 4" in first
    assert second.split()[4:10] == ["37.7", "MB", "9,251x", "9,250", "yes", "nothing"]


def test_costs_at_inference_are_counted(gpt3: Report) -> None:
    text = printed(gpt3)
    assert "384 layers more in series" in rows(text, "houlsby r = 1")[1]
    assert "264 positions of the context" in rows(text, "prefix-embedding")[1]


def test_prints_stand_in_a_column_where_there_are_any(gpt3: Report) -> None:
    assert "the paper prints" in printed(gpt3)
    assert "4.7M (Table 4)" in rows(printed(gpt3), "lora r = 1")[1]
    assert "the paper prints" not in printed(report(preset="gpt2"))


def test_times_stand_in_a_column_where_a_link_was_named() -> None:
    assert "to move" not in printed(report(preset="gpt2"))
    text = printed(report(preset="gpt2", link="10MB/s"))
    assert "to move" in text and "over 10MB/s each moves in" in text


def test_every_figure_is_in_the_table_and_every_difference_named(gpt3: Report) -> None:
    text = printed(gpt3)
    for figure in gpt3.details["paper"]:
        assert any(line.split()[:1] == figure.printed.split()[:1] for line in text.split("\n"))
        if figure.note:
            assert f"{figure.printed} ({figure.where}, {figure.settings}): {figure.note}" in text


def test_on_a_narrow_terminal_nothing_is_cut() -> None:
    found = report(preset="gpt2", ranks=[4])
    wide, narrow = printed(found), printed(found, width=100)
    for word in ("prefix-embedding", "12,288", "768", "L_adpt", "bottleneck"):
        assert (word in wide) is (word in narrow)
    assert "…" not in narrow


def test_few_memory_rows_unless_all_are_asked_for() -> None:
    found = report(preset="gpt2", ranks=[1, 2, 3])
    assert printed(found, full=False).count("lora r = 3") == 2
    assert printed(found, full=True).count("lora r = 3") == 2 + 4


def test_an_adapter_without_its_base_has_no_ratios(tmp_path: Path) -> None:
    write_bottleneck(tmp_path / "adapter")
    trained, taken = rows(printed(report(tmp_path / "adapter")), str(tmp_path / "adapter"))
    assert trained.split()[5] == "584"
    assert taken.split()[5:9] == ["2.34", "kB", "-", "-"]
