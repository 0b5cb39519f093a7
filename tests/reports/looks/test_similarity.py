"""Adapters side by side on a terminal: the answer first, grids with their numbers, many adapters in short."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace

import pytest
from rich.console import Console

from fixtures.analysis_rows import constant, report_of, similarity
from loratools.reports.analysis import Similarity, SimilarityMean
from loratools.reports.columns import Page
from loratools.reports.looks.shared import Shared
from loratools.reports.looks.similarity import similarity_answer, similarity_tables
from loratools.reports.modules import MANY
from loratools.reports.tables import pages


def printed(parts: Iterable[Page], *, width: int = 200) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    for page in parts:
        console.print(page)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_grid_in_a_few_numbers() -> None:
    """Of the first direction 0.8 lies in all three of the second's, of the second 0.4: together 0.6."""
    found = Shared.of(((0.7, 0.75, 0.8), (0.3, 0.5, 0.6)), constant(2, 3, 0.05))
    assert (found.all, found.strongest, found.top, found.by_chance) == (0.6, 0.8, 0.7, 0.05)
    assert found.weakest == pytest.approx(0.4)


def test_directions_beyond_the_seconds_rank_have_shares_too() -> None:
    """Three directions against one: phi(i, 1) = (sum of the shares) / 1."""
    found = Shared.of(((0.5,), (0.7,), (0.8,)), constant(3, 1, 0.0))
    assert found.strongest == 0.5
    assert found.weakest == pytest.approx(0.1)


def test_the_answer_stands_in_the_first_lines() -> None:
    rows, means = similarity()
    lines = printed(similarity_answer(means, rows))
    assert lines[0] == "Do one (rank 2) and two (rank 3) share directions? Means of 4 modules"
    assert lines[1].startswith("In part, ")
    assert lines[1].endswith("Rank 2 takes 1.5 times fewer parameters than rank 3.")
    assert lines[3].split() == [
        "A,",
        "what",
        "it",
        "reads",
        "0.50",
        "0.50",
        "0.50",
        "0.50",
        "0.10",
        "4",
        "of",
        "4",
    ]
    assert len(lines) == 5


VERDICTS = {
    "chance": (constant(2, 3, 0.15), "No more than random directions would."),
    "nearly all": (constant(2, 3, 0.95), "Almost all of them."),
    "evenly": (constant(2, 3, 0.5), "In part, the weak ones as much as the strong."),
    "falling": (((0.7, 0.75, 0.8), (0.3, 0.5, 0.6)), "In part, and most of all the strongest: "),
}


@pytest.mark.parametrize(("grid", "says"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict(grid: tuple[tuple[float, ...], ...], says: str) -> None:
    rows, means = similarity(ranks=(2, 3))
    rows = tuple(replace(row, grid=grid) for row in rows)
    means = tuple(replace(mean, grid=grid) for mean in means)
    assert printed(similarity_answer(means, rows))[1].startswith(says.rstrip("."))


def test_where_one_fills_the_space_nothing_is_beyond_chance() -> None:
    rows, means = similarity()
    rows = tuple(replace(row, dimension=3) if row.side == "B" else row for row in rows)
    text = "\n".join(printed(pages(report_of(similarity=rows, similarity_means=means), full=False)))
    assert "4 of 4" in text
    assert "0 of 0" in text
    assert "without 4 whose space one adapter fills" in text
    filled = tuple(replace(row, dimension=3) for row in rows)
    assert printed(similarity_answer(means, filled))[1].startswith("That cannot be told")


def test_grids_show_their_numbers_beside_chance() -> None:
    rows, means = similarity(shared=0.456)
    lines = printed(similarity_tables(means, rows, full=False))
    first = next(line.split() for line in lines if line.split()[:2] == ["1", ".46"])
    assert first == ["1", ".46", ".46", ".46", ".10", ".10", ".10"]


def test_kinds_and_layers_have_a_row_each_and_modules_only_in_full() -> None:
    rows, means = similarity()
    report = report_of(similarity=rows, similarity_means=means)
    short, full = (printed(pages(report, full=full)) for full in (False, True))
    for name in ("q_proj", "up_proj", "layer 0", "layer 1"):
        assert sum(line.startswith(f"{name} ") for line in short) == 1
    assert not any(line.startswith("layers.0.q_proj") for line in short)
    assert sum(line.startswith("layers.0.q_proj ") for line in full) == 2


def test_of_many_layers_those_that_agree_least_and_most_are_shown() -> None:
    rows, means = similarity(layers=MANY + 1)
    means = tuple(
        replace(mean, grid=constant(2, 3, int(mean.name) / 100)) if mean.over == "layer" else mean
        for mean in means
    )
    lines = printed(similarity_tables(means, rows, full=False))
    shown = [line.split()[1] for line in lines if line.startswith("layer ")]
    assert shown == ["0", "1", "2", "3", "4", "36", "37", "38", "39", "40"]
    assert (
        sum(line.startswith("layer ") for line in printed(similarity_tables(means, rows, full=True)))
        == MANY + 1
    )


def several(count: int) -> tuple[tuple[Similarity, ...], tuple[SimilarityMean, ...]]:
    found = [
        similarity(first=f"adapter {one}", second=f"adapter {two}")
        for two in range(count)
        for one in range(two)
    ]
    return tuple(row for rows, _ in found for row in rows), tuple(
        mean for _, means in found for mean in means
    )


def test_all_pairs_of_several_adapters_are_answered_by_number() -> None:
    rows, means = several(3)
    lines = printed(similarity_answer(means, rows))
    assert lines[0].endswith("1 is adapter 0, 2 is adapter 1, 3 is adapter 2")
    assert [" ".join(line.split()[:3]) for line in lines[2:]] == [
        f"{pair}" for pair in ("1 in 2,", "1 in 2,", "1 in 3,", "1 in 3,", "2 in 3,", "2 in 3,")
    ]


def test_grids_of_many_pairs_are_printed_only_in_full() -> None:
    rows, means = several(4)
    short, full = (printed(similarity_tables(means, rows, full=full)) for full in (False, True))
    assert not any("by chance" in line and "as measured" in line for line in short)
    assert sum("by chance" in line and "as measured" in line for line in full) == 12


def test_it_says_whose_directions_they_are() -> None:
    rows, means = similarity()
    product = tuple(replace(row, directions="product") for row in rows)
    told = [" ".join(printed(similarity_tables(means, each, full=False))) for each in (rows, product)]
    assert "of A and of B, each by itself, as the LoRA paper takes them" in told[0]
    assert "of the product BA" in told[1]


def test_on_80_columns_the_answer_keeps_its_figures_in_line() -> None:
    rows, means = similarity()
    lines = printed(similarity_answer(means, rows), width=80)
    assert lines[-1].endswith("4 of 4")
    assert max(map(len, lines[2:])) <= 80
