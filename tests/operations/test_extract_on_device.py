"""`extract` on simulated devices: the same bytes on one and two, within the certificate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.pairs import SavedPair, llama_pair
from fixtures.simulated_device import SimulatedPlace, simulated
from loratools import Report, extract
from loratools.checkpoints.provenance import read_provenance
from loratools.checkpoints.reference import open_checkpoint
from loratools.engine.execution import Execution
from loratools.engine.local import LocalEngine
from loratools.engine.placement import Placement
from loratools.errors import LoratoolsError
from loratools.operations import staging
from loratools.operations.delta import difference
from loratools.operations.delta_on_device import difference_on
from loratools.reports.report import ExtractedModule


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of a hundred thousand elements come in several blocks."""
    monkeypatch.setattr(staging, "BLOCK_ELEMENTS", 30_000)


On = Callable[..., Placement]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> On:
    """Every verb runs on these places from now on."""

    def settle(*places: SimulatedPlace) -> Placement:
        placement = simulated(*places)
        monkeypatch.setattr(
            Execution,
            "engine",
            lambda self, progress: LocalEngine(self.workers, progress, placement=placement),
        )
        return placement

    return settle


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SavedPair:
    return llama_pair(tmp_path_factory.mktemp("pair"), layers=1, hidden=336, ffn=352, vocab=64)


def rows(report: Report) -> dict[str, ExtractedModule]:
    return {row.name: row for row in report.modules or () if isinstance(row, ExtractedModule)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def delta(pair: SavedPair, name: str) -> np.ndarray:
    base, tuned = (
        next(held[name] for file in side.glob("*.safetensors") if name in (held := load_file(file)))
        for side in (pair.base, pair.tuned)
    )
    return (tuned.double() - base.double()).numpy()


OPTIONS: dict[str, dict[str, Any]] = {
    "rank": {"rank": 16},
    "exact": {"rank": 16, "svd": "exact"},
    "energy": {"energy": 0.5, "max_rank": 60},
    "rank auto": {"rank": "auto"},
    "bfloat16": {"rank": 8, "save_dtype": "bfloat16"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_residuals_are_the_optimum_of_lapack(
    options: dict[str, Any], pair: SavedPair, on: On, tmp_path: Path
) -> None:
    """On two devices, with the bytes that one writes; nothing is said, and what is stated is so."""
    places = SimulatedPlace(0), SimulatedPlace(1)
    on(*places)
    report = extract(pair.base, pair.tuned, tmp_path / "two", **options)
    on(SimulatedPlace(0))
    extract(pair.base, pair.tuned, tmp_path / "one", **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert all(place.operations for place in places)
    assert not any("memory" in warning for warning in report.warnings)
    assert report.details["devices"]["taken"] == ["cuda:0", "cuda:1"]
    provenance = read_provenance(tmp_path / "two")
    assert provenance is not None
    assert provenance.options["device"] == "cuda"
    written = load_file(tmp_path / "two" / "adapter_model.safetensors")
    assert len(rows(report)) == 7
    for name, row in rows(report).items():
        exact = delta(pair, f"{name}.weight")
        squares = np.linalg.svd(exact, compute_uv=False) ** 2
        A, B = (written[f"base_model.model.{name}.lora_{side}.weight"].double().numpy() for side in "AB")
        measured = np.linalg.norm(exact - B @ A) / np.linalg.norm(exact)
        optimum = np.sqrt(squares[row.rank :].sum() / squares.sum())
        assert row.residual == pytest.approx(measured, rel=1e-6)
        assert row.norm == pytest.approx(np.linalg.norm(exact), rel=1e-6)
        assert row.excess is not None
        assert optimum * (1 - 1e-9) <= measured <= optimum * 1.001 + row.storage_error + 1e-12
        assert measured - row.storage_error <= optimum * (1 + row.excess) + 1e-6


@pytest.mark.parametrize("option", ["rank", "energy"])
def test_ranks_are_those_of_the_processor(option: str, pair: SavedPair, on: On, tmp_path: Path) -> None:
    plain = extract(pair.base, pair.tuned, tmp_path / "cpu", device="cpu", **OPTIONS[option])
    on(SimulatedPlace(0))
    report = extract(pair.base, pair.tuned, tmp_path / "out", **OPTIONS[option])
    for name, row in rows(report).items():
        other = rows(plain)[name]
        assert (row.rank, row.method) == (other.rank, other.method)
        assert row.residual == pytest.approx(other.residual, rel=1e-4)


def test_what_does_not_fit_is_factored_by_the_processor(pair: SavedPair, on: On, tmp_path: Path) -> None:
    on(SimulatedPlace(0, memory=400_000), SimulatedPlace(1, memory=400_000))
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=4)
    extract(pair.base, pair.tuned, tmp_path / "cpu", rank=4, device="cpu")
    (said,) = report.warnings
    assert said.endswith(
        "and 6 more: cuda ran out of memory, in smaller blocks too, so the CPU did that work (last bits may "
        "differ from a run that fits)"
    )
    adapter = "adapter_model.safetensors"
    assert (tmp_path / "out" / adapter).read_bytes() == (tmp_path / "cpu" / adapter).read_bytes()


def test_an_interrupted_run_is_resumed_on_another_device(pair: SavedPair, on: On, tmp_path: Path) -> None:
    operations: list[str] = []

    def breaks(operation: str) -> None:
        operations.append(operation)
        if len(operations) > 1500:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    on(SimulatedPlace(0))
    extract(pair.base, pair.tuned, tmp_path / "whole", rank=4)
    on(SimulatedPlace(0, failing=breaks))
    with pytest.raises(LoratoolsError, match="cuda:0 failed: CUDA error: unspecified launch failure; run"):
        extract(pair.base, pair.tuned, tmp_path / "out", rank=4, resume=True)
    on(SimulatedPlace(1))
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=4, resume=True)
    assert 0 < report.details["resumed_jobs"] < 7
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


DTYPES = ("bfloat16", "float16", "float32", "float64")


@pytest.mark.parametrize("tuned", DTYPES)
@pytest.mark.parametrize("base", DTYPES)
@pytest.mark.parametrize("rounded", [False, True], ids=["changed", "rounded only"])
def test_differences_are_those_of_the_processor(base: str, tuned: str, rounded: bool, tmp_path: Path) -> None:
    """To the bit, but for the norm: an element's difference is one subtraction."""
    generator = torch.Generator().manual_seed(1)
    one = torch.randn(400, 300, generator=generator).to(getattr(torch, base))
    other = one if rounded else one + 0.01 * torch.randn(400, 300, generator=generator)
    specs = []
    for side, tensor in (("base", one), ("tuned", other.to(getattr(torch, tuned)))):
        save_file({"w": tensor}, tmp_path / f"{side}.safetensors")
        specs.append(open_checkpoint(tmp_path / f"{side}.safetensors")["w"])
    place = SimulatedPlace(0)
    with place.working():
        found = difference_on(place.lease(1), *specs, keep=True)
        here = found.delta.cpu()
    expected = difference(*specs, keep=True)
    assert torch.equal(here, expected.delta)
    assert found.only_rounded == expected.only_rounded
    assert (found.base_root, found.tuned_root) == (expected.base_root, expected.tuned_root)
    assert found.base_norm == pytest.approx(expected.base_norm, rel=1e-6)
    for ours, theirs in ((found.base, expected.base), (found.tuned, expected.tuned)):
        assert ours is not None and theirs is not None
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_values_that_are_not_finite_are_refused(side: str, tmp_path: Path) -> None:
    specs = []
    for name in ("base", "tuned"):
        tensor = torch.ones(400, 300, dtype=torch.bfloat16)
        if name == side:
            tensor[7, 3], tensor[399, 299] = torch.nan, torch.inf
        save_file({"w": tensor}, tmp_path / f"{name}.safetensors")
        specs.append(open_checkpoint(tmp_path / f"{name}.safetensors")["w"])
    place = SimulatedPlace(0)
    with (
        place.working(),
        pytest.raises(LoratoolsError, match=f"2 of 120000 values .*{side}.safetensors"),
    ):
        difference_on(place.lease(1), *specs)
