"""Shaded numbers and sparklines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from loratools.reports.looks.bars import sparkline, spectrum_line
from loratools.reports.looks.middle import median, median_bounds
from loratools.reports.looks.shades import grid_table, ranks_shown, shaded, two_digits


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, ".00"), (0.004, ".00"), (0.41, ".41"), (0.995, ".99"), (0.996, "1.0"), (1.0, "1.0")],
)
def test_shares_take_three_characters(value: float, text: str) -> None:
    assert two_digits(value) == text


@pytest.mark.parametrize(
    ("rank", "shown"),
    [
        (1, [1]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (10, [1, 2, 3, 4, 6, 8, 10]),
        (16, [1, 2, 3, 4, 6, 8, 12, 16]),
        (64, [1, 2, 4, 8, 16, 32, 64]),
        (100, [1, 2, 4, 8, 16, 32, 64, 100]),
    ],
)
def test_large_ranks_are_thinned_out(rank: int, shown: list[int]) -> None:
    assert ranks_shown(rank) == shown


def coloured(colour: str | None) -> str:
    console = Console(
        file=io.StringIO(), width=80, force_terminal=True, color_system=colour, legacy_windows=False
    )
    console.print(grid_table("A", "i", (("measured", ((0.0, 1.0),)), ("chance", ((0.5, 0.5),)))))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_colours_are_for_those_who_have_them() -> None:
    assert "48;2;68;1;84m" in coloured("truecolor")
    assert "48;2;253;231;37m" in coloured("truecolor")
    assert "48;" not in coloured(None)
    for text in (coloured("truecolor"), coloured(None)):
        assert all(number in text for number in (".00", "1.0", ".50"))


def test_ink_can_be_read_on_its_ground() -> None:
    assert str(shaded("x", 0.0).style).startswith("white on ")
    assert str(shaded("x", 1.0).style).startswith("black on ")
    assert shaded("x", -0.1).style == shaded("x", 0.0).style
    assert shaded("x", 1.5).style == shaded("x", 1.0).style


def test_sparklines() -> None:
    assert sparkline([0, 1, 2, 4, 8]) == "▁▂▃▅█"
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([]) == ""


@pytest.mark.parametrize(
    ("above", "line"), [(None, "█▅▂▁"), (4, "█▅▂▁"), (2, "█▅|▂▁"), (0, "|█▅▂▁"), (9, "█▅▂▁")]
)
def test_the_noise_floor_is_marked_in_a_spectrum(above: int | None, line: str) -> None:
    assert spectrum_line([8.0, 4.0, 1.0, 0.5], above) == line


def test_long_spectra_are_thinned_out_and_the_mark_stays_where_it_is() -> None:
    line = spectrum_line([100.0 - at for at in range(100)], 50, width=10)
    assert line == "██▇▆▅|▄▃▂▁▁"
    assert len(line) == 11


def test_medians() -> None:
    assert median([3, None, 1, 2]) == 2
    assert median([1, 2]) == 1
    assert median([None]) is None
    assert median_bounds([(1, 1), None, (2, 5), (3, None)]) == (2, 5)
    assert median_bounds([(1, None), (2, None)]) == (1, None)
    assert median_bounds([None]) is None
