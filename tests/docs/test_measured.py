"""What pages show of benchmarks: slopes and constants that follow from the points, and nothing left out."""

from __future__ import annotations

import json
import math
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from fixtures import campaign_figures, growth_curves, growth_pictures
from fixtures.campaign_figures import BENCHMARKS, CAMPAIGNS, DOCS, Figures, benchmarks
from fixtures.docs_figures import same_drawing
from fixtures.growth_curves import Curve, Point
from fixtures.growth_tables import about_curve, curve_as_table
from fixtures.measured import shown

START = 0.5


def curve(side: str, verb: str, seconds: dict[float, float]) -> Curve:
    """One whose points took so many seconds beyond a start of half a second."""
    points = [Point(at, f"{at:g}", [START + took], [took], [10**6]) for at, took in seconds.items()]
    return Curve(verb, side, "python growth.py", Point(0, "nothing", [START], [0.0], [10**6]), points)


def test_a_slope_is_the_exponent_of_what_lies_beyond_start_up() -> None:
    found = curve("modules", "merge", {at: 3.0 * at**0.7 for at in (1, 10, 100, 1000)})
    assert found.slope(found.beyond) == pytest.approx(0.7)
    assert found.slope(found.beyond_of_processor) == pytest.approx(0.7)
    assert found.steps() == pytest.approx([0.7, 0.7, 0.7])


@pytest.mark.parametrize(
    ("side", "verb", "takes", "constants"),
    [
        ("parameters", "merge", lambda n: 0.5 + 2.0 * n / 1e9, (0.5, 2.0)),
        ("rank", "extract", lambda r: 3.0 + 0.02 * r + 1e-4 * r * r, (3.0, 0.02, 1e-4)),
        ("width", "extract", lambda w: 1.0 + 6.0 / w, (1.0, 6.0)),
        ("adapters", "merge", lambda k: 2.0 * k, (0.0, 2.0)),
    ],
)  # fmt: skip
def test_a_theory_finds_its_constants(side, verb, takes, constants) -> None:  # type: ignore[no-untyped-def]
    scale = 1e8 if side == "parameters" else 1
    found = curve(side, verb, {at * scale: takes(at * scale) for at in (1, 4, 16, 64)}).fit()
    assert found.constants == pytest.approx(constants, abs=1e-9)
    assert found.worst < 1e-6


def test_workers_beyond_the_processors_gain_nothing() -> None:
    points = [Point(at, f"{at}", [START + 1.0 + 6.0 / min(at, 2)], [1.0], [1]) for at in (1, 2, 4)]
    found = Curve("merge", "workers", "growth.py", Point(0, "", [START], [0.0], [1]), points, processors=2)
    assert found.fit().constants == pytest.approx((1.0, 6.0))
    assert found.fit().at(4) == pytest.approx(4.0)


def test_a_point_off_the_theory_is_told() -> None:
    bent = curve("adapters", "merge", {1: 1.0, 10: 10.0, 100: 400.0})
    fit = bent.fit()
    assert fit.worst == pytest.approx(max(abs(fit.at(p.at) / bent.beyond(p) - 1) for p in bent.points))
    assert fit.worst > 0.3
    assert f"off by more than {100 * fit.worst:.0f} %" in about_curve(bent)


def test_a_table_has_its_points_and_the_slopes_between_them() -> None:
    rows = curve_as_table(curve("modules", "merge", {10: 1.0, 100: 10.0})).splitlines()
    assert rows[2] == "| 10 | 1.50 | 1.00 | 1.00 |  | 1.00 | 1 |"
    assert rows[3] == "| 100 | 10.50 | 10.00 | 10.00 | 1.00 | 10.00 | 1 |"


def test_a_curve_comes_back_as_it_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth_curves, "FOLDER", tmp_path)
    before = curve("rank", "merge", {1: 1.0, 4: 1.5})
    before.write()
    (after,) = growth_curves.kept()
    assert curve_as_table(after) == curve_as_table(before)
    assert about_curve(after) == about_curve(before)


def test_the_figures_of_every_script_are_shown_once() -> None:
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert benchmarks()
    for figures in benchmarks().values():
        assert page.count(figures.markdown()) == 1, figures.command


def test_what_was_not_measured_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign_figures, "BENCHMARKS", tmp_path)
    assert [shown(name) for name in ("aims", "peers", "size", "others")] == [""] * 4
    Figures("python tests/benchmarks/merge_profile.py --write", ("what",), [("a row",)]).write(
        "merge_profile"
    )
    assert "### `merge`\n\n| what |" in shown("profiles")
    assert [shown(name) for name in ("peers", "size", "others")] == [""] * 3
    Figures("python tests/benchmarks/unheard_of.py --write", ("what",), [("a row",)]).write("unheard_of")
    assert "Made by `python tests/benchmarks/unheard_of.py --write`." in shown("others")


def test_campaigns_and_benchmarks_lie_apart() -> None:
    assert {path.stem for path in (DOCS / "reliability").glob("*.json")} == set(CAMPAIGNS)


def test_figures_are_named_by_scripts_that_exist() -> None:
    for path in BENCHMARKS.rglob("*.json"):
        command = json.loads(path.read_text(encoding="utf-8"))["command"]
        script = re.search(r"tests/\w+/\w+\.py", command)
        assert script is not None and (DOCS.parent / script[0]).exists(), path.name


@pytest.mark.parametrize("side", list(growth_pictures.sides()))
def test_the_pictures_show_the_curves(side: str, tmp_path: Path) -> None:
    drawn = tmp_path / f"{side}.svg"
    drawn.write_bytes(growth_pictures.picture(growth_pictures.sides()[side]))
    kept = growth_pictures.place(side)
    made_with = re.search(r"Matplotlib v([\d.]+)", kept.read_text(encoding="utf-8"))
    if made_with is not None and made_with[1] != version("matplotlib"):
        pytest.skip(f"the pictures were drawn by matplotlib {made_with[1]}")
    assert same_drawing(drawn, kept)


def test_slopes_of_nothing_are_finite() -> None:
    flat = curve("adapters", "merge", {1: 0.0, 10: 0.0})
    assert math.isfinite(flat.slope(flat.beyond)) and flat.steps() == [0.0]
