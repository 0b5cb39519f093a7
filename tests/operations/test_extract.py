"""`extract` end to end: against LAPACK in float64, against the tuned weights, and against itself."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fixtures.pairs as pairs
from fixtures.pairs import SavedPair, llama_pair, write_checkpoint
from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError
from loratools.operations.extract import extract
from loratools.reports.report import ExtractedModule, Report


def everything(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by the safetensors package."""
    return {
        key: value for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()
    }


def delta(pair: SavedPair, name: str) -> np.ndarray:
    base, tuned = everything(pair.base)[name], everything(pair.tuned)[name]
    return (tuned.double() - base.double()).numpy()


def rows(report: Report) -> dict[str, ExtractedModule]:
    assert report.modules is not None
    return {row.name: row for row in report.modules if isinstance(row, ExtractedModule)}


def product(adapter: dict[str, torch.Tensor], module: str) -> np.ndarray:
    before = f"base_model.model.{module}"
    return (adapter[f"{before}.lora_B.weight"].double() @ adapter[f"{before}.lora_A.weight"].double()).numpy()


def config(adapter: Path) -> dict[str, Any]:
    return dict(json.loads((adapter / "adapter_config.json").read_text()))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SavedPair:
    return llama_pair(tmp_path_factory.mktemp("pair"), layers=1, hidden=336, ffn=352, vocab=64)


@pytest.mark.parametrize("method", ["auto", "exact"])
def test_residuals_are_the_optimum_of_lapack(pair: SavedPair, tmp_path: Path, method: str) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=16, svd=method)
    adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert len(rows(report)) == 7
    for name, row in rows(report).items():
        exact = delta(pair, f"{name}.weight")
        values = np.linalg.svd(exact, compute_uv=False)
        optimum = np.sqrt(np.sum(values[16:] ** 2) / np.sum(values**2))
        measured = np.linalg.norm(exact - product(adapter, name)) / np.linalg.norm(exact)
        assert row.residual == pytest.approx(measured, rel=1e-6)
        assert optimum * (1 - 1e-9) <= measured <= optimum * 1.001
        assert row.excess is not None
        assert measured / optimum - 1 <= row.excess + 1e-6
        assert row.energy == pytest.approx(1 - measured**2, abs=1e-9)
        assert row.norm == pytest.approx(np.linalg.norm(exact), rel=1e-6)
        assert row.rank == row.alpha == 16
        assert row.storage_error == 0.0
        assert row.bytes == 4 * row.parameters == 4 * 16 * sum(row.shape)


def test_the_auto_method_is_the_randomized_one_where_it_pays(pair: SavedPair, tmp_path: Path) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=16)
    assert {row.method for row in rows(report).values()} == {"krylov"}
    chances = [row.failure_probability for row in rows(report).values()]
    assert sum(chances) <= report.details["failure_probability"] == 1e-6


def test_full_rank_gives_tuned_back_bit_for_bit(pair: SavedPair, tmp_path: Path) -> None:
    extract(pair.base, pair.tuned, tmp_path / "out", rank=336)
    adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
    base, tuned = everything(pair.base), everything(pair.tuned)
    for key in (key for key in adapter if key.endswith("lora_A.weight")):
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        exact = torch.from_numpy(base[f"{module}.weight"].double().numpy() + product(adapter, module))
        same = exact.to(torch.bfloat16) == tuned[f"{module}.weight"]
        assert same.double().mean() >= 0.999


def test_workers_and_repetition_change_no_byte(pair: SavedPair, tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2), ("again", 2)):
        extract(pair.base, pair.tuned, tmp_path / name, rank=4, workers=workers)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["README.md", "adapter_config.json", "adapter_model.safetensors", "loratools.json"]
    for file in files:
        first = (tmp_path / "one" / file).read_bytes()
        assert first == (tmp_path / "two" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_the_seed_matters_only_within_the_tolerance(pair: SavedPair, tmp_path: Path) -> None:
    one = rows(extract(pair.base, pair.tuned, tmp_path / "one", rank=4))
    other = rows(extract(pair.base, pair.tuned, tmp_path / "other", rank=4, seed=1))
    for name, row in one.items():
        assert other[name].residual == pytest.approx(row.residual, rel=1e-3)


def test_energy_chooses_the_least_rank_that_keeps_it(pair: SavedPair, tmp_path: Path) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", energy=0.9)
    for name, row in rows(report).items():
        squares = np.linalg.svd(delta(pair, f"{name}.weight"), compute_uv=False) ** 2
        least = int(np.searchsorted(np.cumsum(squares) / squares.sum(), 0.9)) + 1
        assert least <= row.rank <= least + 1
        assert row.energy >= 0.9 - 1e-6
    written = config(tmp_path / "out")
    ranks = {name: row.rank for name, row in rows(report).items()}
    assert {written["r"], *written["rank_pattern"].values()} == set(ranks.values())
    assert written["alpha_pattern"] == written["rank_pattern"]


def test_max_rank_limits_energy_and_says_so(pair: SavedPair, tmp_path: Path) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", energy=0.9999, max_rank=3)
    assert {row.rank for row in rows(report).values()} == {3}
    assert any("--max-rank 3 keeps less energy" in warning for warning in report.warnings)


def test_energy_that_costs_more_than_the_matrix_saves_it_whole(pair: SavedPair, tmp_path: Path) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", energy=1.0)
    adapter, tuned = load_file(tmp_path / "out" / "adapter_model.safetensors"), everything(pair.tuned)
    assert not rows(report)
    saved = [key for key in adapter if "proj" in key]
    assert len(saved) == 7
    for key in saved:
        assert torch.equal(adapter[key], tuned[key.removeprefix("base_model.model.")])
    assert config(tmp_path / "out")["target_modules"] == "dummy-target-modules"
    assert report.details["rest_share"] > 0.99


def test_a_rank_that_costs_more_than_the_matrix_is_warned_about(pair: SavedPair, tmp_path: Path) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=200, targets=["k_proj"], rest="drop")
    assert {row.rank for row in rows(report).values()} == {200}
    assert any("larger than the matrix" in warning for warning in report.warnings)


@pytest.mark.parametrize("fold", ["sqrt", "A", "B"])
def test_folds_share_singular_values_as_they_say(pair: SavedPair, tmp_path: Path, fold: str) -> None:
    extract(pair.base, pair.tuned, tmp_path / "out", rank=4, fold=fold, targets=["0.*q_proj"], rest="drop")
    adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
    A, B = (adapter[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight"] for side in "AB")
    a, b = A.double().norm(dim=1), B.double().norm(dim=0)
    expected = {"sqrt": (a, a), "A": (a, torch.ones_like(a)), "B": (torch.ones_like(b), b)}[fold]
    torch.testing.assert_close((a, b), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "worst"), [("bfloat16", 0.01), ("float16", 0.001)])
def test_what_storage_adds_is_measured(pair: SavedPair, tmp_path: Path, dtype: str, worst: float) -> None:
    stored = rows(extract(pair.base, pair.tuned, tmp_path / "out", rank=300, save_dtype=dtype))
    exact = rows(extract(pair.base, pair.tuned, tmp_path / "exact", rank=300))
    adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {getattr(torch, dtype)}
    for name, row in stored.items():
        measured = np.linalg.norm(delta(pair, f"{name}.weight") - product(adapter, name)) / row.norm
        assert row.residual == pytest.approx(measured, rel=1e-5)
        assert row.storage_error == pytest.approx(row.residual - exact[name].residual, rel=1e-3, abs=1e-7)
        assert 0 < row.storage_error < worst


def test_every_tensor_of_both_inputs_is_covered_once(pair: SavedPair, tmp_path: Path) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=4)
    assert report.coverage is not None
    for side, folder in (("base", pair.base), ("tuned", pair.tuned)):
        covered = [row.tensor for row in report.coverage if row.input == side]
        assert sorted(covered) == sorted(everything(folder))
    assert {action.value: count for action, count in report.coverage.counts().items()} == {
        "factored": 14,
        "unchanged": 10,
    }


def test_a_dry_run_foretells_and_writes_nothing(pair: SavedPair, tmp_path: Path) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=4, dry_run=True)
    assert report.dry_run
    assert list(tmp_path.iterdir()) == []
    assert report.coverage is not None
    assert {row.action.value for row in report.coverage} == {"pending"}
    assert len(report.coverage) == 24
    by_name = {row.tensor: row.reason for row in report.coverage if row.input == "tuned"}
    assert by_name["model.layers.0.self_attn.q_proj.weight"].endswith("factored at rank 4 if it changed")
    assert by_name["model.norm.weight"].endswith("saved whole if it changed")
    work = report.details["plan"]
    assert work.read_bytes >= open_checkpoint(pair.base).bytes + open_checkpoint(pair.tuned).bytes
    real = extract(pair.base, pair.tuned, tmp_path / "out", rank=4)
    assert real.totals is not None
    assert work.write_bytes >= real.details["rest_bytes"]


def test_jobs_carry_specs_and_travel(pair: SavedPair, tmp_path: Path) -> None:
    """A job that was pickled does the same work, byte for byte."""
    from loratools.operations.extract import plan_extract
    from loratools.operations.extract_options import ExtractOptions

    words = {"svd": "auto", "fold": "sqrt", "save_dtype": "float32", "rest": "save", "unholdable": "refuse"}
    numbers = {"rank": 4, "energy": None, "max_rank": None, "tolerance": 1e-3, "seed": 0}
    options = ExtractOptions.of(**words, **numbers, targets=(), exclude=(), base_name=None)
    plan = plan_extract(pair.base, pair.tuned, tmp_path / "out", options=options)
    assert len({job.name for job in plan.jobs}) == len(plan.jobs)
    for index, job in enumerate((plan.factoring[0], plan.reading[0])):
        packed = pickle.dumps(job)
        assert len(packed) < 4000
        here, there = tmp_path / f"here{index}", tmp_path / f"there{index}"
        here.mkdir()
        there.mkdir()
        assert job.run(here).roots == pickle.loads(packed).run(there).roots
        assert [file.read_bytes() for file in sorted(here.iterdir())] == [
            file.read_bytes() for file in sorted(there.iterdir())
        ]


def test_provenance_holds_hashes_options_and_modules(pair: SavedPair, tmp_path: Path) -> None:
    from loratools.checkpoints.hashing import TensorHasher
    from loratools.checkpoints.provenance import read_provenance

    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=4, base_name="org/base")
    record = read_provenance(tmp_path / "out")
    assert record is not None
    assert (record.command, record.options["rank"], record.options["base_name"]) == ("extract", 4, "org/base")
    assert [entry.role for entry in record.inputs] == ["base", "tuned"]
    assert record.inputs[0].name == "org/base"
    for entry, folder in zip(record.inputs, (pair.base, pair.tuned), strict=True):
        values = everything(folder)
        assert entry.tensors.keys() == values.keys()
        name = "model.layers.0.mlp.down_proj.weight"
        hasher = TensorHasher()
        hasher.update(values[name].view(torch.uint8).numpy().tobytes())
        assert entry.tensors[name] == hasher.root()
    assert record.tensors.keys() == load_file(tmp_path / "out" / "adapter_model.safetensors").keys()
    assert [module["name"] for module in record.modules] == list(rows(report))
    assert all({"rank", "residual", "bytes"} <= module.keys() for module in record.modules)
    text = (tmp_path / "out" / "loratools.json").read_text()
    assert str(tmp_path) not in text
    assert "seconds" not in text


def test_shards_one_file_and_torch_files_give_the_same_adapter(pair: SavedPair, tmp_path: Path) -> None:
    extract(pair.base, pair.tuned, tmp_path / "shards", rank=4)
    settings = json.loads((pair.base / "config.json").read_text())
    write_checkpoint(tmp_path / "base", everything(pair.base), settings)
    torch_folder = tmp_path / "tuned"
    torch_folder.mkdir()
    torch.save(everything(pair.tuned), torch_folder / "pytorch_model.bin")
    (torch_folder / "config.json").write_text(json.dumps(settings))
    extract(tmp_path / "base", torch_folder, tmp_path / "files", rank=4)
    weights = "adapter_model.safetensors"
    assert (tmp_path / "shards" / weights).read_bytes() == (tmp_path / "files" / weights).read_bytes()


def test_float32_pairs_are_worked_on_in_float64(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 30, generator=generator)
    change = torch.randn(40, 2, generator=generator) @ torch.randn(2, 30, generator=generator) * 1e-5
    name = "model.layers.0.mlp.up_proj.weight"
    settings = pairs._llama_config(1, 30, 40, 8, "float32")
    write_checkpoint(tmp_path / "base", {name: weight}, settings)
    write_checkpoint(tmp_path / "tuned", {name: (weight + change)}, settings)
    report = extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", rank=30)
    assert rows(report)["model.layers.0.mlp.up_proj"].residual < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_huge_and_tiny_scales(tmp_path: Path, scale: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 16, generator=generator) * scale
    change = torch.randn(24, 2, generator=generator) @ torch.randn(2, 16, generator=generator) * scale
    name = "model.layers.0.mlp.up_proj.weight"
    settings = pairs._llama_config(1, 16, 24, 8, "float32")
    write_checkpoint(tmp_path / "base", {name: weight.to(dtype)}, settings)
    write_checkpoint(tmp_path / "tuned", {name: (weight + change).to(dtype)}, settings)
    report = extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", rank=2)
    row = rows(report)["model.layers.0.mlp.up_proj"]
    exact = delta(SavedPair(tmp_path / "base", tmp_path / "tuned"), name)
    values = np.linalg.svd(exact, compute_uv=False)
    optimum = np.sqrt(np.sum(values[2:] ** 2) / np.sum(values**2))
    assert row.residual == pytest.approx(optimum, rel=1e-3, abs=1e-6)
    measured = np.linalg.norm(
        exact - product(load_file(tmp_path / "out" / "adapter_model.safetensors"), row.name)
    )
    assert measured / np.linalg.norm(exact) == pytest.approx(row.residual, rel=1e-4, abs=1e-7)
    assert any("look unrelated" in line for line in report.warnings) == (
        np.linalg.norm(exact) > 0.7 * float(weight.double().norm())
    )
    with pytest.raises(LoratoolsError, match="the factors do not fit into float16"):
        extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "half", rank=2, save_dtype="float16")
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("options", [{"rank": 4}, {"energy": 0.9}, {"rank": 4, "rest": "drop"}], ids=str)
def test_a_tuned_that_equals_the_base_has_nothing_to_extract(
    pair: SavedPair, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(LoratoolsError, match="base and tuned do not differ"):
        extract(pair.base, pair.base, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rank", [24, 10_000])
def test_a_rank_above_the_sides_is_full_rank_and_said(pair: SavedPair, tmp_path: Path, rank: int) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=rank)
    for row in report.modules or ():
        assert row.rank == min(rank, *row.shape)
    assert any(f"rank {rank} is more than the matrix has" in line for line in report.warnings) == any(
        min(row.shape) < rank for row in report.modules or ()
    )


def test_a_delta_of_rounding_noise_alone_has_the_optimum_s_residual(tmp_path: Path) -> None:
    """Both rounded from one float32 matrix, one of them after a nudge below half a unit: no structure."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(48, 32, generator=generator)
    nudged = weight * (1 + 2**-10 * torch.randn(48, 32, generator=generator))
    name = "model.layers.0.mlp.up_proj.weight"
    settings = pairs._llama_config(1, 32, 48, 8, "bfloat16")
    write_checkpoint(tmp_path / "base", {name: weight.bfloat16()}, settings)
    write_checkpoint(tmp_path / "tuned", {name: nudged.bfloat16()}, settings)
    for amount in ({"rank": 4}, {"energy": 0.5}):
        folder = tmp_path / "-".join(amount)
        row = rows(extract(tmp_path / "base", tmp_path / "tuned", folder, **amount))[
            "model.layers.0.mlp.up_proj"
        ]
        values = np.linalg.svd(
            delta(SavedPair(tmp_path / "base", tmp_path / "tuned"), name), compute_uv=False
        )
        optimum = np.sqrt(np.sum(values[row.rank :] ** 2) / np.sum(values**2))
        assert row.residual == pytest.approx(optimum, rel=1e-3)


def test_one_row_rank_deficient_and_unchanged_matrices(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    base = {
        "model.layers.0.a_proj.weight": matrix(1, 16),
        "model.layers.0.b_proj.weight": matrix(24, 16),
        "model.layers.0.c_proj.weight": matrix(24, 16),
    }
    tuned = {
        "model.layers.0.a_proj.weight": base["model.layers.0.a_proj.weight"] + matrix(1, 16),
        "model.layers.0.b_proj.weight": base["model.layers.0.b_proj.weight"] + matrix(24, 1) @ matrix(1, 16),
        "model.layers.0.c_proj.weight": base["model.layers.0.c_proj.weight"].clone(),
    }
    settings = pairs._llama_config(1, 16, 24, 8, "float32")
    write_checkpoint(tmp_path / "base", base, settings)
    write_checkpoint(tmp_path / "tuned", tuned, settings)
    report = extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", rank=4)
    found = rows(report)
    assert {name: row.rank for name, row in found.items()} == {
        "model.layers.0.a_proj": 1,
        "model.layers.0.b_proj": 4,
    }
    assert all(row.residual < 1e-6 for row in found.values())
    assert any("rank 4 is more than the matrix has" in warning for warning in report.warnings)
    assert config(tmp_path / "out")["r"] in (1, 4)
    # A name that ends another (`c_proj` is not wanted, `a_proj` is) must not be targeted.
    assert config(tmp_path / "out")["target_modules"] == ["a_proj", "b_proj"]


def test_a_file_on_its_own_has_no_config_and_still_pairs(pair: SavedPair, tmp_path: Path) -> None:
    for side, folder in (("base", pair.base), ("tuned", pair.tuned)):
        kept = {key: value for key, value in everything(folder).items() if "layers.0" in key}
        (tmp_path / side).mkdir()
        save_file(kept, tmp_path / side / f"{side}.safetensors")
    report = extract(
        tmp_path / "base" / "base.safetensors",
        tmp_path / "tuned" / "tuned.safetensors",
        tmp_path / "out",
        rank=2,
    )
    assert len(rows(report)) == 7
    assert config(tmp_path / "out")["base_model_name_or_path"] == "base"
