"""`analyze` on the command line: what it prints first, its JSON, its pictures, and how it is misused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from loratools.cli.app import application
from loratools.cli.jsontext import as_json

FOUR, EIGHT, SEED2 = (f"loratools-sample/lora-{name}" for name in ("r4", "r8", "r8-seed2"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def run(*line: str) -> Result:
    return CliRunner().invoke(application, ["analyze", *line], prog_name="loratools")


def done(*line: str) -> str:
    result = run(*line)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def found(*line: str) -> dict[str, Any]:
    text = done(*line, "--json")
    report: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    assert (report["schema"], report["command"], report["ok"]) == (1, "analyze", True)
    return report


def test_the_first_lines_of_a_bare_run_answer_the_question() -> None:
    lines = done("--rank", "4", "8").splitlines()
    assert lines[0] == f"Do {FOUR} (rank 4) and {EIGHT} (rank 8) share directions? Means of 28 modules"
    assert lines[1] == (
        "In part, and most of all the strongest: what both found lies in the leading directions. "
        "Rank 4 takes 2 times fewer parameters than rank 8."
    )
    assert [line.split()[0] for line in lines[3:5]] == ["A,", "B,"]
    assert all(line.endswith("28 of 28") for line in lines[3:5])


@pytest.mark.parametrize(
    "line", ["--rank 4 8", "--rank 4,8", "--rank=4,8", f"{FOUR} {EIGHT}", f"{FOUR} {EIGHT} --rank 4 8"]
)
def test_however_it_is_asked_the_answer_is_the_same(line: str) -> None:
    assert found(*line.split())["similarity"] == found("--rank", "4", "--rank", "8")["similarity"]


def test_equal_ranks_are_two_seeds() -> None:
    (row, *_) = found("--rank", "8", "8")["similarity"]
    assert (row["first"], row["second"]) == (EIGHT, SEED2)


def test_the_keys_of_similarity() -> None:
    report = found("--rank", "4", "8")
    assert {"similarity", "similarity_means"} <= report.keys()
    assert len(report["similarity"]) == 2 * 28
    for row in report["similarity"]:
        assert {"module", "side", "first", "second", "grid", "control", "band"} <= row.keys()
        grid, control, band = (np.array(row[key]) for key in ("grid", "control", "band"))
        assert grid.shape == control.shape == (4, 8)
        assert band.shape == (4, 8, 2)
        assert ((grid >= 0) & (grid <= 1)).all()
        assert (band[..., 0] <= control).all()
        assert (control <= band[..., 1]).all()


def test_the_keys_of_spectra() -> None:
    report = found(EIGHT)
    for row in report["spectra"]:
        assert {"module", "singular_values", "effective_rank", "stable_rank", "noise_floor"} <= row.keys()
        assert list(row["rank_at_energy"]) == ["0.5", "0.9", "0.99"]
        assert row["noise_floor"] is None
        assert row["noise_rank"] is None


def test_the_keys_of_a_fine_tune() -> None:
    report = found("loratools-sample/base", "loratools-sample/tuned", EIGHT, "--rank", "4")
    assert {"amplification", "spectra", "movement", "tokens", "overlap"} <= report.keys()
    (row, *_) = report["amplification"]
    assert {"module", "rank", "norm_W", "norm_delta", "projected", "factor"} <= row.keys()
    assert list(row["projected"]) == ["delta", "weight", "random"]
    assert {row["reference"] for row in report["overlap"]} == {EIGHT}
    assert len(report["spectra"]) == 28
    assert all(row["noise_floor"] > 0 for row in report["spectra"])


def test_numbers_are_as_long_as_they_are_good_and_rows_take_a_line() -> None:
    text = done("--rank", "4", "8", "--json")
    lines = text.splitlines()
    grids = [lines[at + 1].strip() for at, line in enumerate(lines) if line.strip() == '"grid": [']
    assert all(line.startswith("[0.") and line.endswith("],") and line.count(",") == 8 for line in grids)
    digits = [word.strip("[],") for line in grids for word in line.split()]
    assert max(len(word.lstrip("0.")) for word in digits) <= 9


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, -3e-7], "b": [], "c": [[1], [2, 3]], "d": ["[\n 1,\n 2\n]", "[ 1,  2 ]"]},
        [[["x", 1]], {"y": [1e300]}],
        {"plain": "[1,\n2]"},
    ],
)
def test_json_in_short_is_the_same_json(value: Any) -> None:
    assert json.loads(as_json(value)) == value
    assert as_json([1, 2.5, None]) == "[1, 2.5, null]"


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_picture_is_drawn_beside_the_answer(suffix: str, folder: Path) -> None:
    text = done(EIGHT, "--plot", f"a.{suffix}")
    assert text.splitlines()[-1].startswith(f"analyze: wrote a.{suffix}, ")
    assert (folder / f"a.{suffix}").stat().st_size > 1000


def test_a_picture_that_exists_is_replaced_by_force_alone(folder: Path) -> None:
    before = done(EIGHT, "--plot", "a.svg") and (folder / "a.svg").read_bytes()
    assert run(EIGHT, "--plot", "a.svg").exit_code == 1
    assert found(EIGHT, "--plot", "a.svg", "--force")["output"] == "a.svg"
    assert (folder / "a.svg").read_bytes() == before


def test_a_dry_run_draws_nothing(folder: Path) -> None:
    assert "jobs would read" in done("--rank", "4", "8", "--dry-run", "--plot", "a.png")
    assert list(folder.iterdir()) == []


def test_quiet_prints_nothing(folder: Path) -> None:
    assert done("--rank", "4", "8", "--quiet", "--plot", "a.svg") == ""
    assert (folder / "a.svg").exists()


WRONG = {
    "a rank that the sample lacks": ("--rank 5", 2, "no adapter of rank 5"),
    "a rank above the adapter's": (f"{FOUR} {EIGHT} --rank 8 8", 2, "above the adapter's own, 4"),
    "one rank for two": (f"{FOUR} {EIGHT} --rank 4", 2, "1 ranks for 2 adapters"),
    "no rank": ("--rank", 2, "--rank names no rank"),
    "rank 0": ("--rank 0", 2, "--rank 0 is less than 1"),
    "a reference for a rank": ("--rank ./a", 2, "--rank takes integers"),
    "a picture of another kind": ("--plot a.jpg", 2, "end its name in .png, .svg or .pdf"),
    "a word of nothing": ("--directions sideways", 2, "'factor', 'product'"),
    "a later option": ("--html here", 2, "--html comes in a later version"),
    "no such adapter": ("./nowhere ./there", 1, "no such file or folder"),
}


@pytest.mark.parametrize(("line", "code", "says"), WRONG.values(), ids=WRONG)
def test_misuse_is_one_line(line: str, code: int, says: str) -> None:
    result = run(*line.split())
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def test_what_is_drawn_is_checked_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratools.operations.analyze.analyze", pytest.fail)
    assert run("--plot", "a.jpg").exit_code == 2


def test_a_stdout_without_bars_shows_question_marks() -> None:
    result = CliRunner(charset="latin-1").invoke(application, ["analyze", EIGHT], prog_name="loratools")
    assert result.exit_code == 0, result.stderr
    assert "model.layers.0.mlp.down_proj     ????????" in result.stdout
