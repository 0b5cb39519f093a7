"""A fine-tune on a terminal: the rank it needs, what that saves, spectra, amplification, the map, tokens."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
from rich.console import Console

from fixtures.analysis_rows import amplification, movement, overlap, report_of, spectrum, token
from loratools.reports import words
from loratools.reports.columns import Page
from loratools.reports.looks.amplification import amplification_answer, amplification_tables
from loratools.reports.looks.map import BANDS, movement_map, movement_tables, token_table
from loratools.reports.looks.needed import needed_answer, ranks_asked
from loratools.reports.looks.overlap import left_by, overlap_answer, overlap_tables
from loratools.reports.looks.spectra import spectrum_tables
from loratools.reports.modules import MANY
from loratools.reports.tables import pages


def printed(parts: Iterable[Page], *, width: int = 400) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    for page in parts:
        console.print(page)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


TWO = (spectrum("layers.0.q_proj", (3.0, 4.0)[::-1]), spectrum("layers.1.q_proj", (1.0, 0.0)))
MOVED = (
    movement("layers.0.q_proj", 0.2, layer=0, shape=(8, 16)),
    movement("layers.1.q_proj", 0.1, layer=1, shape=(8, 16)),
    movement("norm", 0.01, kind="norm", shape=(8,)),
)


def test_what_a_rank_keeps_is_weighed_by_the_changes_and_sized_by_the_shapes() -> None:
    one, two = ranks_asked(TWO, MOVED)
    assert one.kept == pytest.approx((16 + 1) / (25 + 1))
    assert (one.least, one.most) == (pytest.approx(16 / 25), 1.0)
    assert (one.parameters, one.matrices) == (2 * 24, 2 * 128)
    assert two.kept == pytest.approx(1.0)
    assert two.times_fewer == pytest.approx(128 / 48)


def test_the_answer_stands_in_the_first_lines() -> None:
    rows = tuple(
        spectrum(f"layers.{at}.q_proj", (4.0, 3.0), norm=6.0, noise_floor=3.5, noise_rank=1) for at in (0, 1)
    )
    lines = printed(needed_answer(rows, MOVED))
    assert lines[0] == "Which rank does tuned need? 2 matrices changed, the median one by 10 % of its norm"
    assert lines[1] == (
        "Rank 2 keeps 69.4 % of the change with 2.67 times fewer parameters. To keep 50 %, 90 %, 99 % of its "
        "squared norm, the median one needs rank 2, an unknown rank, an unknown rank."
    )
    assert lines[2] == (
        "1 direction of the median change is larger than rounding explains: a higher rank would store noise."
    )
    assert lines[4].split() == ["1", "44.4", "%", "44.4", "%", "44.4", "%", "48", "5.33"]


def test_undecided_ranks_are_told_as_bounds() -> None:
    rows = (
        spectrum(
            values=(2.0,), norm=10.0, bounds={"rank_at_energy/0.5": (3, 9), "rank_at_energy/0.9": (5, None)}
        ),
    )
    assert "needs rank 3-9, 5+, an unknown rank." in printed(needed_answer(rows, ()))[1]


def test_a_change_that_is_all_rounding_is_called_that() -> None:
    rows = (spectrum(values=(1.0,), norm=4.0, noise_floor=2.0, noise_rank=0),)
    assert any("explains the median change wholly" in line for line in printed(needed_answer(rows, ())))


def test_an_adapter_has_no_rounding_and_no_savings() -> None:
    lines = printed(needed_answer((spectrum(reference="adapter"),), ()))
    assert lines[0] == "Which rank does adapter need? 1 modules"
    assert "rounding" not in " ".join(lines)
    assert "parameters" not in " ".join(lines)


def test_spectra_are_bars_with_the_floor_marked() -> None:
    rows = (spectrum(values=(8.0, 4.0, 1.0), noise_floor=2.0, noise_rank=2, noise_note="the grid decides"),)
    lines = printed(spectrum_tables(rows, full=False))
    row = next(line for line in lines if line.startswith("layers.0.q_proj"))
    assert row.split() == ["layers.0.q_proj", "█▅|▂", "2", "1", "2"]
    assert lines[-1] == "rounding, 1 of 1 modules: the grid decides"
    full = next(line for line in printed(spectrum_tables(rows, full=True)) if line.startswith("layers.0"))
    assert full.split()[-1] == "2"  # the floor itself


def test_no_more_directions_are_above_the_floor_than_there_are() -> None:
    rows = (spectrum(values=(2.0,) * 8, noise_floor=1.0, bounds={"noise_rank": (8, None)}),)
    assert "8 directions of the median change are larger than rounding explains." in printed(
        needed_answer(rows, ())
    )


def test_many_spectra_are_medians_by_kind_and_the_neediest() -> None:
    rows = tuple(spectrum(f"layers.{at}.q_proj", (1.0,) * (1 + at % 10)) for at in range(MANY + 1))
    lines = printed(spectrum_tables(rows, full=False))
    kind = next(line for line in lines if line.startswith("q_proj"))
    assert kind.split()[:2] == ["q_proj", str(MANY + 1)]
    assert sum(line.startswith("layers.") for line in lines) == 5
    assert sum(line.startswith("layers.") for line in printed(spectrum_tables(rows, full=True))) == MANY + 1


@pytest.mark.parametrize(
    ("bounds", "text"), [((3, 3), "3"), ((25, 40), "25-40"), ((20, None), "20+"), ((2.5, 3.75), "2.5-3.75")]
)
def test_bounds_in_words(bounds: tuple[float, float | None], text: str) -> None:
    assert words.between(*bounds) == text


EMPHASIS = {
    "emphasised": (6.0, "do most of"),
    "not": (0.5, "do not emphasise"),
    "none": (0.1, "than of random"),
}


@pytest.mark.parametrize(("delta", "says"), EMPHASIS.values(), ids=EMPHASIS)
def test_what_the_change_amplifies_in_a_sentence(delta: float, says: str) -> None:
    (told,) = amplification_answer([amplification(delta=delta), amplification(rank=8, delta=1.0)])
    assert f"{words.number(2 / delta, 3)} (r = 4), 2 (r = 8) times" in told
    assert says in told


def test_table_7_and_why_a_figure_is_missing() -> None:
    rows = [
        amplification("layers.0.q_proj"),
        amplification("layers.1.q_proj", delta=0.25),
        amplification("layers.2.q_proj", delta=None, reason="rank 4 cuts a cluster"),
    ]
    lines = printed(amplification_tables(rows, full=False))
    assert next(line.split() for line in lines if line.startswith("q_proj")) == [
        *("q_proj", "3", "4", "20", "2", "0.25", "8", "0.1", "4")
    ]
    assert lines[-1] == "rank 4, 1 module: rank 4 cuts a cluster"
    full = printed(amplification_tables(rows, full=True))
    assert [line.split()[5 - 1] for line in full if line.startswith("layers.")] == ["0.5", "0.25", "-"]
    assert list(amplification_answer([rows[2]])) == [
        "Amplification: the change is of unknown size beside what the weights do at these ranks."
    ]


def test_each_of_several_changes_has_its_own_table_and_answer() -> None:
    rows = [amplification(reference="one"), amplification(reference="two", delta=1.0)]
    assert [line.split(" times")[0] for line in amplification_answer(rows)] == [
        "Amplification: one is 4 (r = 4)",
        "Amplification: two is 2 (r = 4)",
    ]
    lines = printed(amplification_tables(rows, full=False))
    assert [line for line in lines if line.startswith("Medians")] == [
        "Medians by kind of one",
        "Medians by kind of two",
    ]


def test_the_map_has_layers_across_and_kinds_down() -> None:
    lines = printed(movement_tables(MOVED, full=False))
    assert lines[1].split() == ["layer", "0", "1"]
    assert lines[2].split() == ["q_proj", "20", "10"]
    assert "outside of the layers: norm 1 %" in lines
    assert next(line for line in lines if line.startswith("layers.0")).split()[-2:] == ["20", "%"]


def test_many_layers_share_columns_unless_all_are_asked_for() -> None:
    rows = [movement(f"layers.{at}.q_proj", 0.01 * (at + 1), layer=at) for at in range(32)]
    heads = [str(column.header).strip() for column in movement_map(rows, bands=BANDS).columns]
    assert heads == ["layer", "0-3", "4-7", "8-11", "12-15", "16-19", "20-23", "24-27", "28-31"]
    assert len(movement_map(rows, bands=None).columns) == 33


def test_nothing_moved() -> None:
    assert printed(movement_tables([movement("w", 0.0), movement("x", None)], full=False)) == [
        "Nothing moved."
    ]


def test_tokens_by_how_far_they_moved_with_their_text_escaped() -> None:
    lines = printed(
        [token_table([token(1, "a", 0.1), token(2, "\x1b\n", 0.4), token(3, None, 0.2)], full=False)]
    )
    assert [line.split()[:2] for line in lines[2:]] == [["2", "\\x1b\\n"], ["3", "-"], ["1", "a"]]


def test_what_an_adapter_holds_of_the_change() -> None:
    rows = [overlap("layers.0.q_proj"), overlap("layers.1.q_proj")]
    assert list(overlap_answer(rows)) == [
        "adapter holds 75 % (A) and 90 % (B) of the strongest direction of the change; cosine between the "
        "two 0.6 (median of 2 modules)"
    ]
    lines = printed(overlap_tables(rows, (), full=False))
    assert ["adapter", "A", "0.75", "0.50", "0.25"] in [line.split() for line in lines]
    assert ["adapter", "2", "0.8", "0.4"] in [line.split() for line in lines]


def test_what_is_left_is_weighed_by_the_changes() -> None:

    rows = [overlap("layers.0.q_proj"), replace(overlap("layers.1.q_proj"), residual={"2": 0.0})]
    spectra = [spectrum("layers.0.q_proj", (3.0,)), spectrum("layers.1.q_proj", (4.0,))]
    left = {one.rank: one.adapter for one in left_by(rows, spectra)}
    assert left[2] == pytest.approx(math.sqrt((0.8 * 3) ** 2 / 25))
    assert left[1] is None  # not known of every module


def test_everything_together_begins_with_the_answers() -> None:
    report = report_of(
        spectra=TWO,
        movement=MOVED,
        amplification=(amplification(),),
        overlap=(overlap(),),
        tokens=(token(1, "a", 0.1),),
    )
    lines = printed(pages(report, full=False))
    answers = lines[: lines.index("")]
    assert answers[0].startswith("Which rank does tuned need?")
    assert answers[-2].startswith("adapter holds")
    assert answers[-1].startswith("Amplification: ")
    assert lines[-1] == "analyze: 0.5 s"


def test_on_80_columns_names_and_figures_stay_whole() -> None:
    rows = tuple(spectrum(f"layers.{at}.a_projection_of_some_length", (1.0, 0.5)) for at in range(3))
    lines = printed(spectrum_tables(rows, full=False), width=80)
    assert sum("a_projection_of_some_length" in line for line in lines) == 3


def test_directions_of_a_cluster_are_left_out_of_the_means() -> None:
    rows = [overlap("layers.0.q_proj"), replace(overlap("layers.1.q_proj"), held={"A": (None, 0.1, None)})]
    lines = [line.split() for line in printed(overlap_tables(rows, (), full=False))]
    assert ["adapter", "A", "0.75", "0.30", "0.25"] in lines
    undefined = [replace(overlap(), held={"A": (None, 0.5)})]
    assert ["adapter", "A", "-", "0.50"] in [
        line.split() for line in printed(overlap_tables(undefined, (), full=True))
    ]
    assert next(overlap_answer(undefined)).startswith("adapter holds - (A) of the strongest direction")
