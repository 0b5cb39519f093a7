"""The verbs on real CUDA devices: the same bytes again and on every device, within the same bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fixtures.device_jobs import (
    DTYPES,
    INTO,
    KINDS,
    LORA,
    OUT,
    adapter_values,
    allowed,
    done_at,
    exactly,
    spec_of,
    target_of,
    weight,
)  # fmt: skip
from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from fixtures.pairs import SavedPair, llama_pair
from loratools import extract, merge, unmerge
from loratools.engine.device import Device, Kind, cuda_seen_by_driver
from loratools.engine.placement import Choice, Placement
from loratools.linalg.rounding_torch import round_once
from loratools.operations import staging
from loratools.operations.merge_job import MergeJob
from loratools.operations.subtract import SubtractJob
from loratools.reports.report import ExtractedModule

COUNT = torch.cuda.device_count() if torch.cuda.is_available() else 0
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not COUNT, reason="no CUDA device")]
two = pytest.mark.skipif(COUNT < 2, reason="fewer than two CUDA devices")


def cuda(*numbers: int) -> Placement:
    return Placement(Choice("cuda", tuple(Device(Kind.CUDA, number) for number in numbers), "a test"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "BLOCK_ELEMENTS", 1000)


def test_the_driver_counts_what_torch_does() -> None:
    assert cuda_seen_by_driver() == COUNT


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_update(kind: str, dtype: str, tmp_path: Path) -> None:
    values = adapter_values(tmp_path)
    make, before, after = KINDS[kind]
    base = weight(dtype, before)
    job = MergeJob(spec_of(tmp_path, "w", base), target_of(tmp_path, dtype, after), make(values))
    placement = cuda(0)
    figures, written = done_at(placement, job, tmp_path)
    assert placement.warnings() == ()
    assert torch.equal(done_at(cuda(COUNT - 1), job, tmp_path)[1], written)
    exact = exactly(make(values), base, after)
    assert (written == round_once(exact, written.dtype)).double().mean() >= 0.999
    assert bool(((written.double() - exact).abs() <= allowed(kind, values, base, written)).all())
    on_host, _ = done_at(Placement.on_processor(), job, tmp_path)
    assert figures.norm == pytest.approx(on_host.norm, rel=1e-5)
    assert figures.rounding_error == pytest.approx(on_host.rounding_error, rel=2e-2, abs=1e-7)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_subtraction(dtype: str, tmp_path: Path) -> None:
    values = adapter_values(tmp_path)
    base = weight(dtype, (OUT, INTO))
    merged = round_once(exactly(LORA(values), base, (OUT, INTO)), base.dtype)
    job = SubtractJob(
        spec_of(tmp_path, "merged", merged), target_of(tmp_path, dtype, (OUT, INTO)), LORA(values)
    )
    figures, restored = done_at(cuda(0), job, tmp_path)
    on_host, _ = done_at(Placement.on_processor(), job, tmp_path)
    assert figures.foreign == on_host.foreign == 0
    assert figures.off == pytest.approx(on_host.off, rel=1e-3, abs=2)
    assert int((restored != base).sum()) <= (figures.off or 0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SavedPair:
    return llama_pair(tmp_path_factory.mktemp("pair"), layers=2, hidden=672, ffn=704, vocab=64)


@pytest.mark.parametrize("method", ["auto", "exact"])
def test_extract(method: str, pair: SavedPair, tmp_path: Path) -> None:
    report = extract(pair.base, pair.tuned, tmp_path / "out", rank=16, svd=method, device="cuda")
    extract(pair.base, pair.tuned, tmp_path / "one", rank=16, svd=method, device="cuda:0")
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    assert report.details["devices"]["taken"] == [f"cuda:{number}" for number in range(COUNT)]
    assert not any("memory" in warning for warning in report.warnings)
    sides = [
        {name: held for file in side.glob("*.safetensors") for name, held in load_file(file).items()}
        for side in (pair.base, pair.tuned)
    ]
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for row in report.modules or ():
        assert isinstance(row, ExtractedModule)
        exact = (sides[1][f"{row.name}.weight"].double() - sides[0][f"{row.name}.weight"].double()).numpy()
        squares = np.linalg.svd(exact, compute_uv=False) ** 2
        A, B = (written[f"base_model.model.{row.name}.lora_{side}.weight"].double().numpy() for side in "AB")
        measured = np.linalg.norm(exact - B @ A) / np.linalg.norm(exact)
        optimum = np.sqrt(squares[row.rank :].sum() / squares.sum())
        assert row.residual == pytest.approx(measured, rel=1e-6)
        assert row.excess is not None
        assert optimum * (1 - 1e-9) <= measured <= optimum * (1 + row.excess) + 1e-6


def test_merge_and_unmerge(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16, layers=6, hidden=256, ffn=512)
    write_decoder(tmp_path / "base", tensors, shards=2)
    write_adapter(tmp_path / "adapter", lora_factors(tensors))
    merge(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "all", device="cuda")
    merge(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "one", device="cuda:0")
    assert contents(tmp_path / "all") == contents(tmp_path / "one")
    report = unmerge(tmp_path / "all", [tmp_path / "adapter"], tmp_path / "back", device="cuda")
    assert report.details["devices"]["taken"][0] == "cuda:0"
    back = {
        name: held
        for file in (tmp_path / "back").glob("*.safetensors")
        for name, held in load_file(file).items()
    }
    assert all((back[name] == tensor).double().mean() > 0.6 for name, tensor in tensors.items())


@two
def test_both_devices_work(pair: SavedPair, tmp_path: Path) -> None:
    for number in range(2):
        torch.cuda.reset_peak_memory_stats(number)
    extract(pair.base, pair.tuned, tmp_path / "out", rank=16, device="cuda")
    assert all(torch.cuda.max_memory_allocated(number) > 0 for number in range(2))


def test_a_device_that_is_full_leaves_its_jobs_to_the_processor(pair: SavedPair, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(0)
    torch.cuda.set_per_process_memory_fraction(max(2**20, total - free) / total / 1e3, 0)
    try:
        report = extract(pair.base, pair.tuned, tmp_path / "out", rank=16, device="cuda:0")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
    assert [said for said in report.warnings if "cuda ran out of memory, in smaller blocks too" in said]
    extract(pair.base, pair.tuned, tmp_path / "cpu", rank=16, device="cpu")
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "cpu" / name).read_bytes()


def test_tf32_is_off_whatever_the_process_has_set(pair: SavedPair, tmp_path: Path) -> None:
    extract(pair.base, pair.tuned, tmp_path / "out", rank=16, device="cuda")
    torch.set_float32_matmul_precision("medium")
    try:
        extract(pair.base, pair.tuned, tmp_path / "again", rank=16, device="cuda")
    finally:
        torch.set_float32_matmul_precision("highest")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")
