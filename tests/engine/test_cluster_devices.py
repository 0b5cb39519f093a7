"""Devices of a cluster's workers: what is asked of them, what a worker does with a job, what the run says."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fixtures.simulated_device import SimulatedPlace, simulated
from loratools.engine import errand
from loratools.engine.device import Asked, Kind
from loratools.engine.errand import Answer, Errand
from loratools.engine.execution import Execution
from loratools.engine.lease import Lease
from loratools.engine.payoff import Work
from loratools.engine.placement import ON_WORKERS, Placement, choose_elsewhere
from loratools.engine.setup import Setup
from loratools.errors import LoratoolsError, UsageError


@dataclass(frozen=True)
class Sum:
    """Adds up `size` ones, in as many parts as the lease says, and tells where."""

    name: str
    size: int
    bytes: int = 1

    def device_work(self, kind: Kind) -> Work | None:
        return Work(self.bytes)

    def run_on(self, lease: Lease, workspace: Path) -> tuple[str, float]:
        found = 0.0
        for _ in range(lease.divisor):
            held = lease.up(torch.ones(self.size // lease.divisor))
            found += float(held.sum().cpu())
            del held
        return "device", found

    def run(self, workspace: Path) -> tuple[str, float]:
        return "processor", float(self.size)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Placement:
    """This process as a worker, with a simulated device of 4 KB."""
    placement = simulated(SimulatedPlace(0, memory=4096))
    monkeypatch.setattr(errand, "placement_of", lambda errand: placement)
    return placement


def performed(job: Sum, workspace: Path, device: str | None) -> Answer:
    here = Errand("a run", str(workspace), workspace, None, Setup.here(), torch=True, device=device)
    answer = pickle.loads(errand.perform(pickle.dumps((here, job))))
    assert isinstance(answer, Answer)
    return answer


def test_a_worker_computes_on_its_device_where_that_was_asked_for(worker: Placement, tmp_path: Path) -> None:
    job = Sum("small", 256)
    answer = performed(job, tmp_path, "cuda")
    assert (answer.result, answer.gave_up, answer.error) == (("device", 256.0), False, None)
    assert performed(job, tmp_path, None).result == ("processor", 256.0)


def test_what_is_too_large_for_a_worker_s_device_is_told(worker: Placement, tmp_path: Path) -> None:
    answer = performed(Sum("large", 2**16), tmp_path, "cuda")
    assert (answer.result, answer.gave_up) == (("processor", 2.0**16), True)


def test_a_worker_without_the_device_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    answer = performed(Sum("small", 256), tmp_path, "cuda")
    assert isinstance(answer.error, LoratoolsError)
    assert "CUDA" in str(answer.error)


@pytest.mark.parametrize(
    ("word", "kind", "why"),
    [("auto", Kind.CPU, ON_WORKERS), ("cpu", Kind.CPU, "asked for"), ("cuda", Kind.CUDA, "asked for")],
)
def test_devices_of_workers_are_taken_where_they_were_named(word: str, kind: Kind, why: str) -> None:
    choice = choose_elsewhere(Asked.parse(word), [Sum("one", 1)])
    assert (choice.kind, choice.why, choice.asked) == (kind, why, word)


def test_without_a_job_for_it_no_device_is_taken() -> None:
    assert choose_elsewhere(Asked.parse("cuda"), []).why == "no job here can use cuda"


@pytest.mark.parametrize("word", ["mps", "cuda:1"])
def test_a_device_of_one_machine_is_no_device_of_a_cluster(word: str) -> None:
    with pytest.raises(UsageError, match=f"--device {word} is of one machine, and --cluster of several"):
        Execution(device=word, cluster="127.0.0.1:1").engine(None)


def test_memory_of_a_cluster_is_not_limited_from_here() -> None:
    with pytest.raises(UsageError, match="--max-memory is about this process"):
        Execution(max_memory=10**9, cluster="127.0.0.1:1").engine(None)
