"""`loratools verify` as a user or a script runs it: its words, its exit codes, its first line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from loratools import sample
from loratools.cli.app import application

BASE, TUNED, ADAPTER = (f"loratools-sample/{name}" for name in ("base", "tuned", "lora-r8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged folder with its record, a merged file, and an adapter that was extracted."""
    folder = tmp_path_factory.mktemp("made")
    for line in (
        ("merge", BASE, ADAPTER, "--undo", "-o", str(folder / "merged")),
        ("merge", BASE, ADAPTER, "-o", str(folder / "one.safetensors")),
        ("extract", BASE, TUNED, "--rank", "8", "-o", str(folder / "extracted")),
    ):
        assert run(*line).exit_code == 0
    return folder


def run(*line: str) -> Result:
    return CliRunner().invoke(application, list(line), prog_name="loratools")


def found(code: int, *line: str) -> dict[str, Any]:
    """The object that --json prints of a run that has to end with `code`."""
    result = run(*line, "--json")
    assert result.exit_code == code, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["ok"] is (code == 0)
    return report


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 8
    path.write_bytes(data)


def test_the_first_line_is_the_verdict(made: Path) -> None:
    result = run("verify", str(made / "merged"))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"Whole, and as written: {made / 'merged'}, to the last hash"
    assert result.stderr == ""


@pytest.mark.parametrize("name", ["merged", "one.safetensors", "extracted"])
def test_each_output_holds(name: str, made: Path) -> None:
    checks = found(0, "verify", str(made / name))["checks"]
    assert {check["ok"] for check in checks} == {True}
    assert all({"reference", "check", "ok", "detail", "file", "tensor"} == check.keys() for check in checks)


def test_a_flipped_bit_is_exit_3_and_is_named(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "merged", tmp_path / "merged")
    weights = tmp_path / "merged" / "model.safetensors"
    flip(weights, 2_000_000)
    result = run("verify", str(tmp_path / "merged"))
    assert result.exit_code == 3
    verdict = result.stdout.splitlines()[0]
    assert verdict.startswith(f"Wrong: {tmp_path / 'merged'}: its values are not those that were written (")
    assert str(weights) in verdict and "model.layers." in verdict
    assert result.stderr == ""
    report = found(3, "verify", str(tmp_path / "merged"))
    (wrong,) = (check for check in report["checks"] if check["ok"] is False)
    assert (wrong["check"], wrong["file"]) == ("hashes", str(weights))
    assert wrong["tensor"] in verdict
    quiet = run("verify", str(tmp_path / "merged"), "--quiet")
    assert (quiet.exit_code, quiet.stdout) == (3, "")


def test_what_cannot_be_opened_is_found_as_well(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "one.safetensors", tmp_path)
    (tmp_path / "one.safetensors").write_bytes((made / "one.safetensors").read_bytes()[:-1])
    report = found(3, "verify", str(tmp_path / "one.safetensors"))
    (check,) = report["checks"]
    assert (check["check"], check["ok"]) == ("format", False)
    assert report["references"][0]["fingerprint"] is None


def test_bare_it_verifies_the_sample() -> None:
    report = found(0, "verify")
    assert [one["reference"] for one in report["references"]] == [
        f"loratools-sample/{name}" for name in sample.names()
    ]
    assert report["verdict"].startswith("Nothing wrong with 7 references: ")
    assert [check["ok"] for check in report["checks"] if check["check"] == "hashes"] == [None] * 7


def test_a_dry_run_tells_the_plan(made: Path) -> None:
    result = run("verify", str(made / "merged"), "--dry-run")
    assert result.exit_code == 0
    assert "jobs would read" in result.stdout and "nothing was written" in result.stdout


def test_an_adapter_and_its_base_belong_together(made: Path) -> None:
    line = ("verify", str(made / "extracted"))
    assert "is the base that it was made from" in run(*line, BASE).stdout
    assert "is the tuned that it was made from" in run(*line, TUNED).stdout
    report = found(3, *line, str(made / "merged"))
    wrong = [check["check"] for check in report["checks"] if check["ok"] is False]
    assert wrong == ["made from"] * 2, "neither was made from the other"


def test_a_comparison_of_files_is_of_weights_alone(made: Path) -> None:
    files = [str(sample.path(name) / "model.safetensors") for name in ("base", "tuned")]
    report = found(0, "verify", *files, str(made / "extracted"))
    assert report["outputs"] is None
    assert 0 < report["distance"]["remaining"] < 1
    assert len(report["distances"]) == report["distance"]["tensors"] == 38
    weighted = found(3, "verify", *files, f"{made / 'extracted'}=-1")
    (wrong,) = (check for check in weighted["checks"] if check["ok"] is False)
    assert wrong["check"] == "fit", "what replaces a tensor takes no weight"


def test_a_negated_adapter_is_worse_than_none(made: Path, tmp_path: Path) -> None:
    files = [str(sample.path(name) / "model.safetensors") for name in ("base", "tuned")]
    only = tmp_path / "factors"
    assert run("extract", *files, "--rest", "drop", "-o", str(only)).exit_code == 0
    result = run("verify", *files, f"{only}=-1")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[0].startswith(f"{only}=-1 is worse than no adapter: in weights ")
    assert "farther away" in result.stdout
    every = run("verify", *files, f"{only}=-1", "-v").stdout
    assert "model.layers.3.mlp.up_proj.weight" in every


def test_the_sample_has_a_text_of_its_own(made: Path) -> None:
    """The one run here that loads models: the losses are those of the sample's card."""
    line = ("verify", BASE, TUNED, ADAPTER, "--window", "128", "--min-agreement", "0.9")
    report = found(3, *line)
    recorded = json.loads(sample.LOSSES.read_text())["heldout"]
    losses = {row["model"]: row["loss"] for row in report["outputs"]["models"]}
    assert losses["base"] == pytest.approx(recorded["base"], abs=2e-3)
    assert losses["tuned"] == pytest.approx(recorded["tuned"], abs=2e-3)
    assert losses["base + adapter"] == pytest.approx(recorded["lora-r8"], abs=5e-3)
    (agreement,) = (check for check in report["checks"] if check["check"] == "agreement")
    assert agreement["ok"] is False
    assert [check["ok"] for check in report["checks"] if check["check"] in ("weights", "outputs")] == [
        None,
        True,
    ]
    assert report["verdict"].startswith(f"{ADAPTER} brings base nearer to tuned: it agrees with tuned on ")


USAGE = {
    "a text alone": ("verify", BASE, "--text", str(sample.HELDOUT)),
    "an agreement of 2": ("verify", BASE, TUNED, ADAPTER, "--min-agreement", "2"),
    "a weight alone": ("verify", f"{ADAPTER}=0.5"),
    "a weight on a checkpoint": ("verify", f"{BASE}=0.5", TUNED, ADAPTER),
    "twice": ("verify", BASE, BASE),
    "a later option": ("verify", BASE, "--for", "vllm"),
}


@pytest.mark.parametrize("line", USAGE.values(), ids=USAGE)
def test_wrong_usage(line: tuple[str, ...]) -> None:
    result = run(*line)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_what_is_not_there_is_a_failure() -> None:
    result = run("verify", "absent/base/x")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no such file or folder")


def test_the_code_reaches_the_shell(made: Path, tmp_path: Path) -> None:
    """Of a process of its own, whose output a reader closes early."""
    shutil.copytree(made / "extracted", tmp_path / "extracted")
    flip(tmp_path / "extracted" / "README.md", 10)
    done = subprocess.run(
        [sys.executable, "-m", "loratools", "verify", str(tmp_path / "extracted")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 3
    assert "README.md" in done.stdout.splitlines()[0]
