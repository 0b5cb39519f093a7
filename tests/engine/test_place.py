"""Places: jobs go to that with the fewest, run again where they do not fit, and end a run where they fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from fixtures.simulated_device import SimulatedPlace, simulated
from loratools.engine.device import Kind
from loratools.engine.lease import Lease
from loratools.engine.local import LocalEngine
from loratools.engine.payoff import Work
from loratools.engine.place import AT_ONCE, exact_products
from loratools.engine.placement import Placement
from loratools.errors import LoratoolsError


@dataclass(frozen=True)
class Doubling:
    """Doubles `size` bytes' worth of float32 on its device, in as many blocks as the lease says."""

    name: str
    size: int = 4096
    bytes: int = 1
    tell: Callable[[str, int], None] = field(default=lambda where, divisor: None, compare=False)

    def device_work(self, kind: Kind) -> Work | None:
        return Work(self.bytes)

    def run_on(self, lease: Lease, workspace: Path) -> str:
        self.tell(str(lease.device), lease.divisor)
        for _ in range(lease.divisor):
            held = lease.up(torch.ones(self.size // 4 // lease.divisor))
            assert float((held + held).sum().cpu()) == 2 * held.numel()
            del held
        return f"{self.name} on a device"

    def run(self, workspace: Path) -> str:
        self.tell("cpu", 1)
        return f"{self.name} on the CPU"


@dataclass(frozen=True)
class Plain:
    """A job that knows of no device."""

    name: str
    bytes: int = 1

    def run(self, workspace: Path) -> str:
        return f"{self.name} on the CPU"


def outcomes(placement: Placement, jobs: list[Doubling | Plain], workspace: Path) -> list[str]:
    engine = LocalEngine(placement=placement)
    engine.settle(jobs)
    return [result for _, result in engine.run("testing", jobs, workspace)]


def test_every_job_gets_a_place_and_results_keep_their_order(tmp_path: Path) -> None:
    places = [SimulatedPlace(0), SimulatedPlace(1)]
    jobs: list[Doubling | Plain] = [Doubling(f"job {number}") for number in range(12)]
    jobs.insert(3, Plain("plain"))
    assert outcomes(simulated(*places), jobs, tmp_path) == [
        f"{job.name} on {'the CPU' if isinstance(job, Plain) else 'a device'}" for job in jobs
    ]
    assert all(place.operations for place in places)
    assert [place.held for place in places] == [0, 0]


def test_jobs_go_to_the_place_with_the_fewest(tmp_path: Path) -> None:
    """Four jobs that wait for one another, and so are under way together: two on each of two."""
    together = threading.Barrier(2 * AT_ONCE, timeout=20)
    seen: Counter[str] = Counter()

    def meet(where: str, divisor: int) -> None:
        seen[where] += 1
        together.wait()

    jobs: list[Doubling | Plain] = [Doubling(f"job {number}", tell=meet) for number in range(2 * AT_ONCE)]
    outcomes(simulated(SimulatedPlace(0), SimulatedPlace(1)), jobs, tmp_path)
    assert sorted(seen.values()) == [AT_ONCE, AT_ONCE]


def test_no_more_than_two_jobs_are_on_a_device(tmp_path: Path) -> None:
    here, most, lock = [0], [0], threading.Lock()

    class Counting(SimulatedPlace):
        def lease(self, divisor: int) -> Lease:
            with lock:
                here[0] += 1
                most[0] = max(most[0], here[0])
            return super().lease(divisor)

    def leave(where: str, divisor: int) -> None:
        threading.Event().wait(0.005)
        with lock:
            here[0] -= 1

    jobs: list[Doubling | Plain] = [Doubling(f"job {number}", tell=leave) for number in range(10)]
    engine = LocalEngine(6, placement=simulated(Counting(0)))
    engine.settle(jobs)
    assert len(list(engine.run("testing", jobs, tmp_path))) == 10
    assert most == [AT_ONCE]


def test_what_does_not_fit_is_tried_in_smaller_blocks(tmp_path: Path) -> None:
    """9,000 bytes hold 4,096 and their double, an eighth of 16,384 and its double, not these themselves."""
    tried: list[tuple[str, int]] = []
    jobs: list[Doubling | Plain] = [
        Doubling("small"),
        Doubling("large", size=16384, tell=lambda *how: tried.append(how)),
    ]
    placement = simulated(SimulatedPlace(0, memory=9000))
    assert outcomes(placement, jobs, tmp_path) == ["small on a device", "large on a device"]
    assert [divisor for _, divisor in tried] == [1, 8]
    assert placement.warnings() == ()


def test_what_fits_nowhere_is_done_on_the_processor_and_said_once(tmp_path: Path) -> None:
    placement = simulated(SimulatedPlace(0, memory=9000), SimulatedPlace(1, memory=9000))
    jobs: list[Doubling | Plain] = [Doubling(f"job {number}", size=10**6) for number in range(5)]
    assert outcomes(placement, jobs, tmp_path) == [f"job {number} on the CPU" for number in range(5)]
    assert placement.warnings() == (
        "job 0 and 4 more: cuda ran out of memory, in smaller blocks too, so the CPU did that work "
        "(last bits may differ from a run that fits)",
    )


def test_a_second_try_is_alone_on_its_device(tmp_path: Path) -> None:
    """Two jobs that fit one at a time: none goes to the processor."""
    together = threading.Barrier(2, timeout=20)

    @dataclass(frozen=True)
    class Staying(Doubling):
        def run_on(self, lease: Lease, workspace: Path) -> str:
            held = lease.up(torch.ones(self.size // 4))
            if lease.divisor == 1:
                together.wait()
            more = held + held
            return f"{self.name} with {more.numel()}"

    jobs: list[Doubling | Plain] = [Staying("one"), Staying("two")]
    placement = simulated(SimulatedPlace(0, memory=3 * 4096))
    assert outcomes(placement, jobs, tmp_path) == ["one with 1024", "two with 1024"]
    assert placement.warnings() == ()


MEMORY_ERRORS = {
    "torch's": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "pinned": RuntimeError("CUDA error: out of memory"),
    "Metal's": RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuSOLVER": RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"),
}


def raising(error: Exception) -> Callable[[str], None]:
    def fail(operation: str) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", MEMORY_ERRORS.values(), ids=MEMORY_ERRORS)
def test_all_words_for_too_little_memory_are_known(error: Exception, tmp_path: Path) -> None:
    placement = simulated(SimulatedPlace(0, failing=raising(error)))
    assert outcomes(placement, [Doubling("job")], tmp_path) == ["job on the CPU"]


def test_a_device_that_fails_ends_the_run_in_one_line(tmp_path: Path) -> None:
    error = torch.AcceleratorError(
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors ..."
    )
    with pytest.raises(LoratoolsError) as said:
        outcomes(simulated(SimulatedPlace(3, failing=raising(error))), [Doubling("job")], tmp_path)
    assert str(said.value) == (
        "cuda:3 failed: CUDA error: an illegal memory access was encountered; run with --device cpu"
    )


@pytest.mark.parametrize(
    "error", [LoratoolsError("no"), ValueError("a bug"), RuntimeError("a bug")], ids=repr
)
def test_an_error_in_one_job_ends_the_run(error: Exception, tmp_path: Path) -> None:
    begun: list[str] = []

    def first_fails(where: str, divisor: int) -> None:
        begun.append(where)
        raise error

    jobs: list[Doubling | Plain] = [Doubling(f"job {number}", tell=first_fails) for number in range(40)]
    with pytest.raises(type(error)) as raised:
        outcomes(simulated(SimulatedPlace(0), SimulatedPlace(1)), jobs, tmp_path)
    assert raised.value is error
    assert len(begun) < 40


def test_a_simulated_device_refuses_what_a_real_one_does(tmp_path: Path) -> None:
    one, other = SimulatedPlace(0), SimulatedPlace(1)
    host = torch.ones(4)
    with one.working():
        lease = one.lease(1)
        here = lease.up(host)
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            here + host
        with pytest.raises(RuntimeError, match=r"numpy\(\) is not supported"):
            here.numpy()
        assert torch.equal((here + torch.tensor(1.0)).cpu(), host + 1)  # scalars may come from the host
        assert torch.zeros_like(here).device == torch.zeros(2, device=lease.device).device == here.device
    with other.working(), pytest.raises(RuntimeError, match="operands of"):
        other.lease(1).up(host) + here


def test_products_are_exact_for_a_run_and_then_as_before() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
