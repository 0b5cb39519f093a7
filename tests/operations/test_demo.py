"""The demo: its steps are what their commands do, and its figures are those of an independent reckoning."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import loratools
from loratools import sample
from loratools.cli.app import application
from loratools.errors import LoratoolsError
from loratools.operations import demo as demo_module
from loratools.operations.demo import demo, distance, remaining
from loratools.reports.report import HeldoutLoss, Report, Step


@dataclass(frozen=True)
class Told:
    folder: Path
    report: Report
    lines: list[str]

    @property
    def steps(self) -> tuple[Step, ...]:
        steps: tuple[Step, ...] = self.report.details["steps"]
        return steps


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One run of the demo, without the losses, into a folder whose name needs quoting."""
    folder = tmp_path_factory.mktemp("demo") / "my demo"
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "find_spec", lambda name: None)
        report = demo(folder, announce=lines.append)
    return Told(folder, report, lines)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_step_is_announced_with_its_outcome(told: Told) -> None:
    assert len(told.lines) == 2 * len(told.steps)
    for command, outcome, step in zip(told.lines[::2], told.lines[1::2], told.steps, strict=True):
        assert command == f"$ {step.command}"
        assert outcome.startswith(f"  {step.summary} (")


def test_the_commands_do_what_the_demo_did(told: Told) -> None:
    before = contents(told.folder)
    for step in told.steps:
        program, *line = shlex.split(step.command)
        if program == "loratools":
            result = CliRunner().invoke(application, line, prog_name="loratools")
            assert result.exit_code == 0, result.output
    assert contents(told.folder) == before


def test_its_last_steps_answer_the_papers_questions(told: Told) -> None:
    """The kept energy is reckoned by LAPACK, the parameters by the shapes of rank-4 factors."""
    ranks, fine_tune, costs = told.steps[-3:]
    assert ranks.command == "loratools analyze --rank 4 8"
    assert "the strongest" in ranks.summary
    base, tuned = (load_file(sample.path(name) / "model.safetensors") for name in ("base", "tuned"))
    deltas = [tuned[name].double() - base[name].double() for name in base if "_proj" in name]
    squares = [torch.linalg.svdvals(delta).square() for delta in deltas]
    kept = sum(float(square[:16].sum()) for square in squares) / sum(
        float(square.sum()) for square in squares
    )
    assert fine_tune.summary.startswith(f"Rank 16 keeps {100 * kept:.3g} % of the change")
    assert costs.command == "loratools report --rank 4 8"
    assert f"{sum(4 * sum(delta.shape) for delta in deltas):,} parameters" in costs.summary


def test_the_comparisons_can_be_pasted_too(told: Told) -> None:
    commands = [shlex.split(step.command) for step in told.steps if step.command.startswith("python ")]
    assert len(commands) == 2
    ranges = ((0.0, 1.0), (-1.0, 0.0))  # the way to the fine-tune, and back to the base, which is exact
    for (_, *line), (above, most) in zip(commands, ranges, strict=True):
        root = Path(loratools.__file__).parent.parent
        printed = subprocess.run(
            [sys.executable, *line], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        assert above < float(printed) <= most and float(printed) != 1.0


def test_without_the_extra_it_says_how_to_install_it(told: Told) -> None:
    assert told.report.details["losses"] is None
    assert told.report.warnings == (
        "held-out losses need transformers and peft: pip install 'loratools[transformers]'",
    )


def test_it_refuses_to_replace_what_is_there(told: Told) -> None:
    before = contents(told.folder)
    with pytest.raises(LoratoolsError, match="exists"):
        demo(told.folder)
    assert contents(told.folder) == before


def test_distance_against_safetensors_and_torch() -> None:
    base, tuned = (load_file(sample.path(name) / "model.safetensors") for name in ("base", "tuned"))
    squares = sum(
        float((base[name].double() - tuned[name].double()).square().sum()) for name in base.keys() & tuned
    )
    assert distance("loratools-sample/base", "loratools-sample/tuned") == pytest.approx(
        squares**0.5, rel=1e-9
    )


def test_nothing_remains_at_the_goal() -> None:
    base, tuned = "loratools-sample/base", "loratools-sample/tuned"
    assert remaining(base, tuned, tuned) == 0
    assert remaining(base, base, tuned) == 1


def test_what_the_merge_misses_is_what_the_factors_miss(told: Told) -> None:
    """The way left in the weights, against the residuals of the modules and the norms of their deltas."""
    provenance = json.loads((told.folder / "extracted-r8" / "loratools.json").read_text())
    missed = sum((row["residual"] * row["norm"]) ** 2 for row in provenance["modules"] if row.get("rank"))
    whole = distance("loratools-sample/base", "loratools-sample/tuned")
    left = remaining("loratools-sample/base", str(told.folder / "merged"), "loratools-sample/tuned")
    assert left == pytest.approx(np.sqrt(missed) / whole, rel=0.01)  # but for the rounding to bfloat16


def test_losses_are_of_the_models_that_they_name(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real measurement is tested with the sample; here, which folders it is asked about."""
    asked: list[tuple[str, str | None]] = []

    def measured(model: Path, adapter: Path | None = None) -> float:
        asked.append((model.name, None if adapter is None else adapter.name))
        return float(len(asked))

    monkeypatch.setattr("loratools.sample.heldout.heldout_loss", measured)
    losses: tuple[HeldoutLoss, ...] = demo(told.folder, force=True).details["losses"]
    assert asked == [
        ("base", None),
        ("tuned", None),
        ("base", "extracted-r8"),
        ("base", "lora-r8"),
        ("base", "extracted-r16"),
        ("base", "lora-r16"),
    ]
    assert [row.loss for row in losses] == [1, 2, 3, 4, 5, 6]
    assert [row.rank for row in losses] == [None, None, 8, 8, 16, 16]
    assert losses[3].bytes == sum(
        tensor.numel() * tensor.element_size()
        for tensor in load_file(sample.path("lora-r8") / "adapter_model.safetensors").values()
    )


def test_the_libraries_are_quiet_and_single_during_the_losses_only() -> None:
    from transformers.utils import logging

    before, threads = logging.is_progress_bar_enabled(), torch.get_num_threads()
    with demo_module.measuring(threads=1):
        assert not logging.is_progress_bar_enabled()
        assert torch.get_num_threads() == 1
    assert logging.is_progress_bar_enabled() == before
    assert torch.get_num_threads() == threads


def test_bare_it_replaces_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_module, "find_spec", lambda name: None)
    assert demo().output == Path("loratools-sample/demo")
    before = contents(tmp_path)
    demo()
    assert contents(tmp_path) == before
