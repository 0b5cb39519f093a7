"""`merge` and `unmerge` on simulated devices: the same bytes on one and two, and within bounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
)
from fixtures.device_jobs import Tensors as Values
from fixtures.lora_files import Tensors, decoder, exact_sum, lora_factors, write_adapter, write_decoder
from fixtures.simulated_device import SimulatedPlace, simulated
from loratools import Report, merge, unmerge
from loratools.adapters.lowrank import LowRank
from loratools.checkpoints.provenance import read_provenance
from loratools.engine.device import Kind
from loratools.engine.execution import Execution
from loratools.engine.local import LocalEngine
from loratools.engine.placement import Placement
from loratools.errors import LoratoolsError
from loratools.linalg.gaps_torch import largest_gap, least_gap
from loratools.linalg.rounding_torch import round_once
from loratools.operations import precision, staging
from loratools.operations.merge_job import MergeJob
from loratools.operations.streaming import TensorFigures
from loratools.operations.subtract import SubtractJob


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of some thousand elements come in several blocks."""
    monkeypatch.setattr(staging, "BLOCK_ELEMENTS", 1000)


On = Callable[..., Placement]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> On:
    """Every verb runs on these places from now on, or on the processor again."""

    def settle(*places: SimulatedPlace) -> Placement:
        placement = simulated(*places) if places else Placement.on_processor()
        monkeypatch.setattr(
            Execution,
            "engine",
            lambda self, progress: LocalEngine(self.workers, progress, placement=placement),
        )
        return placement

    return settle


@pytest.fixture
def values(tmp_path: Path) -> Values:
    return adapter_values(tmp_path)


def done_on(
    job: MergeJob | SubtractJob, folder: Path, *places: SimulatedPlace
) -> tuple[TensorFigures, torch.Tensor]:
    """The job's figures and what it wrote, on the processor where no place is named."""
    return done_at(simulated(*places) if places else Placement.on_processor(), job, folder)


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_update(kind: str, dtype: str, values: Values, tmp_path: Path) -> None:
    make, before, after = KINDS[kind]
    base = weight(dtype, before)
    job = MergeJob(spec_of(tmp_path, "w", base), target_of(tmp_path, dtype, after), make(values))
    figures, written = done_on(job, tmp_path, SimulatedPlace(0))
    again, others = done_on(job, tmp_path, SimulatedPlace(1))
    assert (again, again.root) == (figures, figures.root)
    assert torch.equal(written, others)

    exact = exactly(make(values), base, after)
    assert (written == round_once(exact, written.dtype)).double().mean() >= 0.999
    assert bool(((written.double() - exact).abs() <= allowed(kind, values, base, written)).all())

    on_host, plain = done_on(job, tmp_path)
    assert (written == plain).double().mean() >= 0.999
    for name in ("source_root", "changed", "nonfinite", "source_name"):
        slack = 0 if name != "changed" else 1 + 0.001 * base.numel()
        one, other = getattr(figures, name), getattr(on_host, name)
        assert one == other or abs(one - other) <= slack, name
    assert figures.norm == pytest.approx(on_host.norm, rel=1e-5)
    assert figures.rounding_error == pytest.approx(on_host.rounding_error, rel=2e-2, abs=1e-12)
    error = torch.linalg.norm(written.double() - exact)
    assert figures.rounding_error == pytest.approx(float(error) / (figures.norm or 1.0), rel=1e-2, abs=1e-7)


@pytest.mark.parametrize("after", DTYPES[:3])
@pytest.mark.parametrize("before", DTYPES)
def test_from_one_dtype_to_another(before: str, after: str, values: Values, tmp_path: Path) -> None:
    base = weight(before, (OUT, INTO))
    job = MergeJob(spec_of(tmp_path, "w", base), target_of(tmp_path, after, (OUT, INTO)), LORA(values))
    figures, written = done_on(job, tmp_path, SimulatedPlace(0))
    on_host, _ = done_on(job, tmp_path)
    exact = exactly(LORA(values), base, (OUT, INTO))
    assert (written == round_once(exact, written.dtype)).double().mean() >= 0.999
    assert figures.changed == pytest.approx(on_host.changed, abs=20)
    assert figures.changed == int((written != round_once(base.to(torch.float64), written.dtype)).sum())


def test_an_update_that_rounding_swallows_is_measured_in_float64(values: Values, tmp_path: Path) -> None:
    """Float32's own rounding is larger than this update: figures are then those of the processor."""
    updates = (LowRank(values("A"), values("B"), 1e-7, False),)
    spec = spec_of(tmp_path, "w", weight("bfloat16", (OUT, INTO)))
    job = MergeJob(spec, target_of(tmp_path, "bfloat16", (OUT, INTO)), updates)
    figures, _ = done_on(job, tmp_path, SimulatedPlace(0))
    on_host, _ = done_on(job, tmp_path)
    assert figures.rounding_error == pytest.approx(on_host.rounding_error, rel=1e-6)
    assert figures.norm == on_host.norm


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_what_is_not_finite_is_counted_and_what_does_not_fit_refused(
    dtype: str, values: Values, tmp_path: Path
) -> None:
    base = weight(dtype, (OUT, INTO))
    base[3, 4], base[159, 0] = torch.nan, torch.inf
    job = MergeJob(spec_of(tmp_path, "w", base), target_of(tmp_path, dtype, (OUT, INTO)), LORA(values))
    figures, written = done_on(job, tmp_path, SimulatedPlace(0))
    on_host, _ = done_on(job, tmp_path)
    assert figures.nonfinite == on_host.nonfinite == 2
    assert int((~written.isfinite()).sum()) == 2
    assert figures.norm == pytest.approx(on_host.norm, rel=1e-9)
    assert figures.rounding_error == pytest.approx(on_host.rounding_error, rel=1e-4)
    base[:] = torch.finfo(base.dtype).max
    job = MergeJob(spec_of(tmp_path, "w", base), target_of(tmp_path, dtype, (OUT, INTO)), tuple(
        update.weighted(1e37) for update in LORA(values)
    ))  # fmt: skip
    for places in ([SimulatedPlace(0)], []):
        with pytest.raises(LoratoolsError, match=f"values do not fit into {dtype}"):
            done_on(job, tmp_path, *places)


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_subtraction(dtype: str, values: Values, tmp_path: Path) -> None:
    """The interval's figures are those of the processor; the base comes back where it is alone in it."""
    base = weight(dtype, (OUT, INTO))
    merged = round_once(exactly(LORA(values), base, (OUT, INTO)), base.dtype)
    merged[5, :3] += 1000 * largest_gap(merged, torch.float64)[5, :3].to(merged.dtype)
    job = SubtractJob(
        spec_of(tmp_path, "merged", merged), target_of(tmp_path, dtype, (OUT, INTO)), LORA(values)
    )
    figures, restored = done_on(job, tmp_path, SimulatedPlace(0))
    assert torch.equal(done_on(job, tmp_path, SimulatedPlace(1))[1], restored)
    on_host, plain = done_on(job, tmp_path)
    assert (restored == plain).double().mean() >= 0.999
    assert figures.off == pytest.approx(on_host.off, rel=1e-3, abs=2)
    assert figures.foreign == on_host.foreign
    assert figures.largest_difference == pytest.approx(on_host.largest_difference, rel=1e-4)
    assert figures.changed == pytest.approx(on_host.changed, rel=1e-3)
    assert figures.source_root == on_host.source_root
    differs = restored != base
    differs[5, :3] = False
    assert int(differs.sum()) <= (figures.off or 0)


def test_gaps_are_those_of_the_processor() -> None:
    for name in DTYPES:
        dtype = getattr(torch, name)
        info = torch.finfo(dtype)
        some = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            1.5,
            0.75,
            info.max,
            -info.max,
            info.tiny,
            info.tiny / 2,
            -3e-5,
            torch.inf,
        ]
        given = torch.tensor([*some, *torch.randn(500).tolist()], dtype=dtype)
        stored = given.view(torch.int16).numpy().view("uint16") if name == "bfloat16" else given.numpy()
        wide = torch.float64 if name == "float64" else torch.float32
        for ours, theirs in ((largest_gap, precision.largest_gap), (least_gap, precision.least_gap)):
            assert torch.equal(ours(given, wide), torch.from_numpy(theirs(stored, name))), name


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_decoder(tmp_path / "base", decoder(dtype=torch.bfloat16), shards=2)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    more = {"model.norm.weight": torch.ones(32)}
    return write_adapter(
        tmp_path / "adapter", lora_factors(decoder(dtype=torch.bfloat16)), more=more, modules_to_save=["norm"]
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tensors(folder: Path) -> Tensors:
    return {name: held for file in folder.glob("*.safetensors") for name, held in load_file(file).items()}


VERBS: dict[str, Callable[..., Report]] = {
    "merge": lambda at, out, **more: merge(at / "base", [at / "adapter"], out, **more),
    "merge into one file": lambda at, out, **more: merge(at / "one", [at / "adapter"], out, **more),
    "unmerge": lambda at, out, **more: unmerge(at / "merged", [at / "adapter"], out, **more),
}


@pytest.fixture
def inputs(tmp_path: Path, base: Path) -> Path:
    write_decoder(tmp_path / "one", decoder(dtype=torch.bfloat16))
    write_adapter(tmp_path / "adapter", lora_factors(decoder(dtype=torch.bfloat16)))
    merge(base, [tmp_path / "adapter"], tmp_path / "merged", device="cpu")
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
def test_one_device_and_two_write_the_same_bytes(verb: str, inputs: Path, on: On, tmp_path: Path) -> None:
    ending = ".safetensors" if "file" in verb else ""
    written = []
    for count in (1, 2):
        places = [SimulatedPlace(number) for number in range(count)]
        on(*places)
        report = VERBS[verb](inputs, tmp_path / f"out {count}{ending}")
        assert all(place.operations for place in places)
        assert report.details["devices"]["taken"] == ["cuda:0", "cuda:1"][:count]
        assert not any("memory" in warning for warning in report.warnings)
        output = tmp_path / f"out {count}{ending}"
        written.append({"": output.read_bytes()} if ending else contents(output))
        provenance = read_provenance(output) if not ending else None
        assert provenance is None or provenance.options["device"] == "cuda"
    assert written[0] == written[1]


def test_the_sum_is_rounded_once(base: Path, on: On, tmp_path: Path) -> None:
    factors = lora_factors(decoder(dtype=torch.bfloat16))
    on(SimulatedPlace(0), SimulatedPlace(1))
    report = merge(base, [write_adapter(tmp_path / "adapter", factors)], tmp_path / "out")
    before = decoder(dtype=torch.bfloat16)
    exact = exact_sum(before, (factors, 1.0))
    changed = {row.name for row in report.modules or ()}
    assert len(changed) == 10
    for name, tensor in tensors(tmp_path / "out").items():
        expected = round_once(exact[name], torch.bfloat16) if name in changed else before[name]
        assert (tensor == expected).double().mean() >= 0.999, name


@pytest.mark.parametrize("options", [{"undo": True}, {"rounding": "stochastic"}], ids=str)
def test_records_and_chance_are_the_processors(
    options: dict[str, Any], base: Path, adapter: Path, on: On, tmp_path: Path
) -> None:
    """To the bit: these outputs are those of a run without devices, and what they hold of it."""
    merge(base, [adapter], tmp_path / "cpu", device="cpu", **options)
    place = SimulatedPlace(0)
    on(place)
    merge(base, [adapter], tmp_path / "out", **options)
    assert place.operations == 0
    assert tensors(tmp_path / "out").keys() == tensors(tmp_path / "cpu").keys()
    for name, tensor in tensors(tmp_path / "cpu").items():
        assert torch.equal(tensors(tmp_path / "out")[name], tensor)


def test_what_does_not_fit_is_merged_by_the_processor(
    base: Path, adapter: Path, on: On, tmp_path: Path
) -> None:
    on(SimulatedPlace(0, memory=4000), SimulatedPlace(1, memory=4000))
    report = merge(base, [adapter], tmp_path / "out")
    merge(base, [adapter], tmp_path / "cpu", device="cpu")
    (said,) = report.warnings
    assert "cuda ran out of memory, in smaller blocks too, so the CPU did that work" in said
    for name, tensor in tensors(tmp_path / "out").items():
        assert (tensor == tensors(tmp_path / "cpu")[name]).double().mean() >= 0.999


def test_smaller_blocks_are_enough(base: Path, adapter: Path, on: On, tmp_path: Path) -> None:
    """With half of what a run needs, jobs are done in blocks an eighth as large, and nothing is said."""
    free = SimulatedPlace(0)
    on(free)
    merge(base, [adapter], tmp_path / "free")
    tight = SimulatedPlace(0, memory=free.busiest // 2)
    on(tight)
    report = merge(base, [adapter], tmp_path / "tight")
    assert report.warnings == ()
    assert tight.operations > free.operations
    assert tight.busiest <= free.busiest // 2
    for name, tensor in tensors(tmp_path / "tight").items():
        assert (tensor == tensors(tmp_path / "free")[name]).double().mean() >= 0.999


def test_a_run_is_resumed_on_the_same_kind_only(base: Path, adapter: Path, on: On, tmp_path: Path) -> None:
    """Whichever device of the kind did the jobs before; on the processor, last bits would be others."""
    operations = []

    def breaks(operation: str) -> None:
        operations.append(operation)
        if len(operations) > 400:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    on(SimulatedPlace(0), SimulatedPlace(1))
    merge(base, [adapter], tmp_path / "whole")
    on(SimulatedPlace(0, failing=breaks))
    with pytest.raises(LoratoolsError, match="cuda:0 failed"):
        merge(base, [adapter], tmp_path / "out", resume=True)
    on()
    with pytest.raises(LoratoolsError, match=r"the option device was cuda with torch \S+ then, and is cpu"):
        merge(base, [adapter], tmp_path / "out", resume=True)
    on(SimulatedPlace(1))
    report = merge(base, [adapter], tmp_path / "out", resume=True)
    assert report.details["resumed_jobs"] > 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_interruption_ends_the_run(base: Path, adapter: Path, on: On, tmp_path: Path) -> None:
    class Interrupting:
        def start(self, what: str, jobs: int, bytes: int) -> None: ...

        def advance(self, job: str, bytes: int) -> None:
            raise KeyboardInterrupt

        def finish(self) -> None: ...

    places = SimulatedPlace(0), SimulatedPlace(1)
    on(*places)
    with pytest.raises(KeyboardInterrupt):
        merge(base, [adapter], tmp_path / "out", progress=Interrupting())
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    report = merge(base, [adapter], tmp_path / "out")
    assert report.warnings == ()


def test_metal_leaves_merges_to_the_processor(values: Values, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "w", weight("float32", (OUT, INTO)))
    job = MergeJob(spec, target_of(tmp_path, "float32", (OUT, INTO)), LORA(values))
    assert job.device_work(Kind.MPS) is None
    assert job.device_work(Kind.CUDA) is not None


def test_the_report_says_what_auto_took(base: Path, adapter: Path, tmp_path: Path) -> None:
    report = merge(base, [adapter], tmp_path / "out", device="cpu")
    assert report.details["devices"] == {"asked": "cpu", "taken": ["cpu"], "why": "asked for"}
    assert "device" not in json.dumps(
        json.loads((tmp_path / "out" / "loratools.json").read_text())["options"]
    )
