"""`extract --rank auto`: each module at the rank above its storage noise, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import fixtures.pairs as pairs
from fixtures.extract_words import options
from fixtures.pairs import SavedPair, write_checkpoint
from fixtures.rounded_deltas import RoundedDelta, unit_of
from loratools import UsageError
from loratools.cli.app import application
from loratools.engine.coverage import Action
from loratools.errors import LoratoolsError
from loratools.linalg.noise import NoiseFloor
from loratools.linalg.rounding_torch import round_once
from loratools.linalg.svd import Factorization, truncated_svd
from loratools.operations.extract import extract
from loratools.operations.extract_above_noise import held_against_noise, kept_rank
from loratools.reports.report import ExtractedModule, Report

LAYER = "model.layers.0"
SHAPE = (256, 240)


def faint() -> tuple[torch.Tensor, torch.Tensor]:
    """An update of full rank, below the floor of its rounding."""
    base, _, _ = RoundedDelta(SHAPE, 0, 1.0, seed=9).make()
    spread = torch.randn(SHAPE, generator=torch.Generator().manual_seed(50), dtype=torch.float64)
    return base, round_once(base.double() + 0.006 * unit_of("bfloat16") * spread, torch.bfloat16)


def twice_rounded() -> tuple[torch.Tensor, torch.Tensor]:
    weights, _, _ = RoundedDelta(SHAPE, 0, 1.0, "float32", seed=8).make()
    return weights.bfloat16(), weights.half().bfloat16()


MODULES = {
    f"{LAYER}.self_attn.q_proj": RoundedDelta(SHAPE, 3, 0.02, seed=1),
    f"{LAYER}.self_attn.k_proj": RoundedDelta(SHAPE, 30, 0.05, seed=2),
    f"{LAYER}.self_attn.v_proj": RoundedDelta(SHAPE, 2, 8e-4, same_grid=True, seed=3),
    f"{LAYER}.self_attn.o_proj": RoundedDelta(SHAPE, 0, 1.0, seed=4),
    f"{LAYER}.mlp.up_proj": RoundedDelta(SHAPE, 240, 0.3, seed=5),
}
"""What happened to each: rank 3, rank 30, less than a unit, nothing, everything."""

ROUNDED, FAINT = f"{LAYER}.mlp.gate_proj", f"{LAYER}.mlp.down_proj"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SavedPair:
    sides: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
    made = {name: case.make()[:2] for name, case in MODULES.items()}
    for name, both in {**made, ROUNDED: twice_rounded(), FAINT: faint()}.items():
        for side, values in zip(sides, both, strict=True):
            side[f"{name}.weight"] = values
    return written(tmp_path_factory.mktemp("pair"), *sides)


def written(folder: Path, base: dict[str, torch.Tensor], tuned: dict[str, torch.Tensor]) -> SavedPair:
    settings = pairs._llama_config(1, 240, 256, 8, "bfloat16")
    return SavedPair(
        write_checkpoint(folder / "base", base, settings), write_checkpoint(folder / "tuned", tuned, settings)
    )


@pytest.fixture(scope="module")
def report(pair: SavedPair, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return extract(pair.base, pair.tuned, tmp_path_factory.mktemp("out") / "adapter", rank="auto")


def rows(report: Report) -> dict[str, ExtractedModule]:
    assert report.modules is not None
    return {row.name: row for row in report.modules if isinstance(row, ExtractedModule)}


def fate(report: Report, module: str) -> tuple[Action, str]:
    assert report.coverage is not None
    (found,) = {(row.action, row.reason) for row in report.coverage if row.tensor == f"{module}.weight"}
    return found


def warning(report: Report, words: str) -> str:
    (found,) = (line for line in report.warnings if words in line)
    return found


def test_each_module_has_the_rank_of_its_update(report: Report) -> None:
    found = rows(report)
    assert set(found) == set(list(MODULES)[:3])
    assert found[f"{LAYER}.self_attn.q_proj"].rank == 3
    assert found[f"{LAYER}.self_attn.k_proj"].rank == 30
    for row in list(found.values())[:2]:
        assert row.noise_rank == row.rank
        assert row.noise_floor is not None and row.noise_floor > 0.0
        assert row.noise_note is None


def test_the_ranks_stand_in_the_adapter_s_config_and_in_its_provenance(report: Report) -> None:
    assert report.output is not None
    config = json.loads((report.output / "adapter_config.json").read_text())
    ranks = {row.name: row.rank for row in rows(report).values()}
    assert {name: config["rank_pattern"].get(name, config["r"]) for name in ranks} == ranks
    provenance = json.loads((report.output / "loratools.json").read_text())
    assert provenance["options"]["rank"] == "auto"


def test_the_factors_are_those_of_that_rank(pair: SavedPair, report: Report, tmp_path: Path) -> None:
    assert report.output is not None
    fixed = extract(pair.base, pair.tuned, tmp_path / "out", rank=30, targets=["k_proj"], rest="drop")
    assert fixed.output is not None
    chosen, given = (
        load_file(folder / "adapter_model.safetensors") for folder in (report.output, fixed.output)
    )
    for key, values in given.items():
        assert torch.equal(chosen[key], values)


def test_where_the_grid_decides_all_that_stands_above_is_kept_and_said(report: Report) -> None:
    name = f"{LAYER}.self_attn.v_proj"
    row = rows(report)[name]
    assert row.rank >= 1
    assert row.noise_rank is None
    assert row.noise_note is not None and "the rounding grid decides" in row.noise_note
    assert warning(report, "the rounding grid decides").startswith(f"{name}.weight: ")


def test_what_is_all_rounding_has_no_factors_and_is_named(report: Report) -> None:
    assert fate(report, ROUNDED) == (
        Action.UNCHANGED,
        "base and tuned differ by the rounding of their storage only",
    )
    assert warning(report, "by rounding only").startswith(f"{ROUNDED}.weight: ")
    assert fate(report, f"{LAYER}.self_attn.o_proj") == (
        Action.UNCHANGED,
        "base and tuned hold the same values",
    )


def test_an_update_that_rounding_hides_is_dropped_and_named(report: Report) -> None:
    action, reason = fate(report, FAINT)
    assert action is Action.DROPPED
    assert reason.startswith("nothing stands above the storage noise floor; ")
    assert warning(report, "dropped").startswith(f"{FAINT}.weight: ")


def test_a_rank_that_costs_more_than_the_matrix_saves_it_whole(report: Report) -> None:
    name = f"{LAYER}.mlp.up_proj"
    action, reason = fate(report, name)
    assert action is Action.SAVED
    assert "what stands above the storage noise would cost more than the matrix" in reason
    assert "--max-rank caps" in warning(report, "saved whole")
    assert report.output is not None
    saved = load_file(report.output / "adapter_model.safetensors")
    assert f"base_model.model.{name}.weight" in saved


def test_max_rank_caps_what_the_noise_allows(pair: SavedPair, tmp_path: Path) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank="auto", max_rank=10)
    found = {name.rpartition(".")[2]: row.rank for name, row in rows(report).items()}
    assert found.pop("v_proj") <= 10
    assert found == {"q_proj": 3, "k_proj": 10, "up_proj": 10}
    assert "k_proj" in warning(report, "--max-rank 10") or "up_proj" in warning(report, "--max-rank 10")


def test_the_workers_do_not_matter(pair: SavedPair, report: Report, tmp_path: Path) -> None:
    other = extract(pair.base, pair.tuned, tmp_path / "out", rank="auto", workers=3)
    assert report.output is not None and other.output is not None
    weights = [
        (folder / "adapter_model.safetensors").read_bytes() for folder in (report.output, other.output)
    ]
    assert weights[0] == weights[1]


def test_where_nothing_but_rounding_differs_there_is_nothing_to_extract(tmp_path: Path) -> None:
    base, tuned = twice_rounded()
    both = written(tmp_path, {f"{ROUNDED}.weight": base}, {f"{ROUNDED}.weight": tuned})
    with pytest.raises(LoratoolsError, match="stands above the noise of rounding") as caught:
        extract(both.base, both.tuned, tmp_path / "out", rank="auto")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_weights_that_are_stored_transposed(tmp_path: Path) -> None:
    """GPT-2's are (in, out): its factors multiply to the transpose of what they add."""
    base, tuned, update = RoundedDelta((80, 240), 2, 0.1).make()
    settings = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 80, "n_layer": 1}
    name = "transformer.h.0.attn.c_attn"
    for folder, values in (("base", base), ("tuned", tuned)):
        write_checkpoint(tmp_path / folder, {f"{name}.weight": values}, settings)
    report = extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", rank="auto")
    assert [(row.name, row.rank) for row in rows(report).values()] == [(name, 2)]
    factors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    before = f"base_model.model.{name}"
    product = factors[f"{before}.lora_B.weight"] @ factors[f"{before}.lora_A.weight"]
    assert float((product.T - update).norm()) < 0.02 * float(update.norm())


def test_a_dry_run_says_what_the_rank_will_be(pair: SavedPair) -> None:
    report = extract(pair.base, pair.tuned, rank="auto", dry_run=True)
    assert "factored with what stands above the storage noise if it changed" in fate(report, ROUNDED)[1]


def test_auto_is_a_word_of_the_options() -> None:
    found = options(rank="auto", max_rank=9)
    cut = found.truncation
    assert (cut.rank, cut.energy, cut.above_noise, cut.max_rank) == (None, None, True, 9)
    assert found.plain()["rank"] == "auto"


@pytest.mark.parametrize("changes", [{"energy": 0.9}, {"rank": "all"}, {"max_rank": 0}], ids=str)
def test_what_makes_no_sense_is_wrong_usage(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        options(**{"rank": "auto", **changes})


def test_triplets_are_added_while_all_of_them_stand_above() -> None:
    base, tuned, _ = RoundedDelta((400, 360), 60, 0.1).make()
    delta, asked = tuned.float() - base.float(), []

    def factor(rank: int) -> Factorization:
        asked.append(rank)
        return truncated_svd(delta, rank=rank)

    noise, found = held_against_noise(base, tuned, factor, limit=200, probability=1e-5, seed=0)
    assert noise.rank == 60
    assert asked == [24, 200]
    assert found.S.numel() == 200
    capped, _ = held_against_noise(base, tuned, factor, limit=40, probability=1e-5, seed=0)
    assert (capped.rank, capped.above) == (None, 40)


def test_what_is_kept_is_the_rank_where_it_is_known_and_all_that_stands_above_where_not() -> None:
    known = NoiseFloor(1.0, 3, (3, 3), None, 0.8, 5)
    assert kept_rank(known) == 3
    assert kept_rank(NoiseFloor(1.0, None, (1, None), "the grid", 1.0, 5)) == 5


def test_the_command_line_prints_ranks_and_reasons(pair: SavedPair, tmp_path: Path) -> None:
    line = ["extract", str(pair.base), str(pair.tuned), "-o", str(tmp_path / "out"), "--rank", "auto"]
    result = CliRunner().invoke(application, [*line, "--json"], prog_name="loratools")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    ranks = {row["name"].rpartition(".")[2]: row["noise_rank"] for row in told["modules"]}
    assert ranks == {"q_proj": 3, "k_proj": 30, "v_proj": None}
    assert all(row["noise_floor"] > 0.0 for row in told["modules"])
    assert "by rounding only" in result.stderr
    refused = CliRunner().invoke(application, [*line, "--energy", "0.9"], prog_name="loratools")
    assert refused.exit_code == 2
    assert "--rank and --energy both say how much to keep" in refused.stderr
