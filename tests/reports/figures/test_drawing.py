"""Pictures: every kind of row has one, the same report gives the same bytes, and nothing else is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fixtures.analysis_rows import amplification, constant, movement, overlap, report_of, similarity, spectrum
from loratools.reports.costs.rows import Latency, Method, MethodRow
from loratools.reports.figures.drawing import PANELS, drawn
from loratools.reports.figures.energy import energy_panels
from loratools.reports.figures.map import map_panels
from loratools.reports.figures.similarity import similarity_panels
from loratools.reports.figures.spectra import LOWEST, spectrum_panels
from loratools.reports.figures.style import COLUMN, KINDS, Panel, broken, short

ROWS, MEANS = similarity()


def method(kind: Method, size: int, *, merges: bool = True, model: str | None = "base") -> MethodRow:
    return MethodRow(
        method=kind,
        settings={"rank": 4},
        parameters=size // 2,
        bytes=size,
        formula="",
        evaluation="",
        merges=merges,
        latency=Latency.NONE,
        serial_layers=0,
        context_positions=0,
        paper=None,
        ratio_parameters=None,
        ratio_bytes=None,
        per_checkpoint=None,
        seconds_to_move=None,
        reference=None,
        model=model,
        dtype="float16",
        note=None,
    )


DETAILS: dict[str, Mapping[str, Any]] = {
    "similarity": {"similarity": ROWS, "similarity_means": MEANS},
    "spectra": {"spectra": (spectrum(noise_floor=1.5, noise_rank=2), spectrum("layers.0.up_proj"))},
    "an adapter's spectra": {"spectra": (spectrum(),)},
    "map": {"movement": (movement("a", 0.1, layer=0), movement("b", 0.2, layer=3, kind="norm"))},
    "amplification": {"amplification": (amplification(), amplification("layers.1.q_proj", delta=None))},
    "overlap": {"overlap": (overlap(), overlap("layers.1.q_proj", reference="other"))},
    "costs": {"methods": (method(Method.FULL, 10**6), method(Method.PROMPT, 10**3, merges=False))},
}


@pytest.mark.parametrize("details", DETAILS.values(), ids=DETAILS)
def test_each_kind_of_row_is_drawn_the_same_each_time(details: Mapping[str, Any]) -> None:
    """In SVG, whose names and numbers tell of the least difference."""
    before = dict(mpl.rcParams)
    first, second = (drawn(report_of(**details), "svg") for _ in range(2))
    assert first is not None
    assert first == second
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_each_format_is_what_it_says_and_knows_no_clock(kind: str, begins: bytes) -> None:
    first, second = (drawn(report_of(**DETAILS["costs"]), kind) for _ in range(2))
    assert first is not None
    assert first.startswith(begins)
    assert first == second
    assert b"Date" not in first
    assert b"<dc:date>" not in first


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"similarity_means": ()},
        {"spectra": (spectrum(values=(), norm=0.0),)},
        {"movement": (movement("a", 0.1),)},
    ],
    ids=["nothing", "no adapters", "no change", "no layers"],
)
def test_nothing_is_drawn_of_nothing(details: Mapping[str, Any]) -> None:
    assert drawn(report_of(**details), "png") is None


def sketch(panel: Panel) -> list[Axes]:
    """The axes of a panel by itself; colour bars come last."""
    part = Figure(figsize=(COLUMN, panel.height), layout="constrained").subfigures(1, 1)
    panel.draw(part)
    axes: list[Axes] = part.axes
    return axes


def test_grids_stand_beside_chance_on_one_scale_from_0_to_1() -> None:
    panel, *by_kind = similarity_panels(DETAILS["similarity"])
    axes = sketch(panel)
    assert [one.get_title() for one in axes[:4]] == [
        "A (input)", "A, by chance", "B (output)", "B, by chance",
    ]  # fmt: skip
    images = [one.images[0] for one in axes[:4]]
    assert {image.get_clim() for image in images} == {(0, 1)}
    assert {image.get_cmap().name for image in images} == {"viridis"}
    assert [float(image.get_array()[0][0]) for image in images] == [0.5, 0.1, 0.5, 0.1]
    assert [one.get_title() for one in sketch(by_kind[0])[:2]] == [
        "q_proj\nby chance ≤ 0.10",
        "up_proj\nby chance ≤ 0.10",
    ]


def test_of_very_many_kinds_the_first_have_a_map() -> None:
    kinds = tuple(
        replace(mean, name=f"kind {at}") for at in range(KINDS + 3) for mean in MEANS if mean.name == "q_proj"
    )
    _, panel, _ = similarity_panels({"similarity_means": (*[m for m in MEANS if m.over == "all"], *kinds)})
    assert sum(one.get_visible() for one in sketch(panel)) == KINDS


def test_spectra_are_drawn_by_their_own_floors_and_rounding_is_shaded() -> None:
    rows = (
        spectrum("layers.0.q_proj", (4.0, 2.0, 0.01), noise_floor=2.0, noise_rank=1),
        spectrum("layers.1.q_proj", (8.0, 4.0, 0.02), noise_floor=4.0, noise_rank=1),
    )
    (axes,) = sketch(*spectrum_panels({"spectra": rows}))
    assert list(axes.lines[0].get_ydata()) == pytest.approx([2.0, 1.0, 0.005])
    assert axes.get_ylabel() == "times the noise floor"
    assert axes.get_ylim()[0] == LOWEST
    assert axes.patches[0].get_extents().y1 == pytest.approx(axes.transData.transform((1, 1))[1])


def test_energies_are_of_all_modules_together_as_far_as_all_are_known() -> None:
    rows = (
        spectrum("layers.0.q_proj", (3.0, 1.0), norm=4.0),
        spectrum("layers.1.up_proj", (2.0, 2.0, 1.0)),
        spectrum("layers.2.up_proj", (2.0,)),
    )
    (axes,) = sketch(*energy_panels({"spectra": rows}))
    together = next(line for line in axes.lines if line.get_label() == "all together")
    whole = 16 + 9 + 4
    assert list(together.get_ydata()) == pytest.approx([(9 + 4 + 4) / whole, (10 + 8 + 4) / whole])
    assert "as far as computed" in axes.get_title()


def test_the_map_has_kinds_down_and_layers_across_and_gaps_are_blank() -> None:
    axes, _ = sketch(*map_panels(DETAILS["map"]))
    cells = axes.images[0].get_array()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["q_proj", "norm"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "3"]
    assert cells[0][0] == pytest.approx(0.1)
    assert cells[1][1] == pytest.approx(0.2)
    assert cells.mask.tolist() == [[False, True], [True, False]]


def test_long_names_are_broken_at_their_dots() -> None:
    assert broken("attention.output.dense", longest=13) == "attention.\noutput.dense"
    assert broken("q_proj", longest=3) == "q_proj"
    assert short("a/b/lora-r4/") == "lora-r4"


def test_every_picture_is_a_column_wide_and_letters_are_large_enough() -> None:
    """6 points at 9 cm: what journals ask for at least."""
    for details in DETAILS.values():
        for panel in (panel for made in PANELS for panel in made(details)):
            for axes in sketch(panel):
                for text in axes.texts:
                    assert text.get_fontsize() >= 6


def test_constant_grids_of_one_value_are_drawn() -> None:
    means = tuple(replace(mean, grid=constant(1, 1, 1.0), control=constant(1, 1, 0.0)) for mean in MEANS)
    assert drawn(report_of(similarity_means=means), "png") is not None
