"""`Placement`: the devices that a run takes, why these, and which job goes to which of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from loratools.engine.device import Asked, Device, Kind, cuda_devices, cuda_seen_by_driver
from loratools.engine.lease import DeviceJob
from loratools.engine.payoff import Work, pays, total
from loratools.engine.place import AT_ONCE, Place
from loratools.engine.plan import Job

__all__ = ["ASKED_FOR", "NO_DEVICE", "ON_WORKERS", "Choice", "Placement", "choose", "choose_elsewhere"]

Result = TypeVar("Result")

ASKED_FOR = "asked for"
NOTHING_TO_DO = "no job here can use {kind}"
NO_DEVICE = "no CUDA device was found"
ON_WORKERS = "workers of a cluster take their processors unless --device cuda is said"

_REPRODUCIBLE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""What NVIDIA asks for where products on several streams are to give the same bits again."""


@dataclass(frozen=True)
class Choice:
    """What was asked for, the devices taken (none: the processor), and why."""

    asked: str
    devices: tuple[Device, ...]
    why: str

    @property
    def kind(self) -> Kind:
        return self.devices[0].kind if self.devices else Kind.CPU

    def details(self) -> dict[str, Any]:
        """As a report holds it."""
        taken = [str(device) for device in self.devices] or [Kind.CPU.value]
        return {"asked": self.asked, "taken": taken, "why": self.why}


def choose(
    asked: Asked,
    jobs: Iterable[Job[Any]],
    *,
    workers: int,
    seen: Callable[[], int] = cuda_seen_by_driver,
    usable: Callable[[], tuple[Device, ...]] = cuda_devices,
) -> Choice:
    """The devices for some jobs: those that were named; for `auto` all CUDA devices if they pay, or none.

    Args:
        jobs: of which only those that can use a device count.
        workers: cores that would do the work instead.
        seen: how many devices a driver counts, without torch.
        usable: those that torch can use; asked only where the answer matters.

    Raises:
        LoratoolsError: a device was named that is not there.
    """
    word = str(asked)
    if asked.kind is Kind.CPU:
        return Choice(word, (), ASKED_FOR)
    if asked.kind is not None:
        devices = asked.devices()
        if _works(jobs, asked.kind):
            return Choice(word, devices, ASKED_FOR)
        return Choice(word, (), NOTHING_TO_DO.format(kind=asked.kind.value))
    count = seen()
    if not count:
        return Choice(word, (), NO_DEVICE)
    works = _works(jobs, Kind.CUDA)
    if not works:
        return Choice(word, (), "no job here can use a device")
    if not pays(total(works), workers=workers, devices=count):
        return Choice(word, (), "the transfers would cost more than a device saves")
    devices = usable()
    if not devices:
        return Choice(word, (), "there is a CUDA device, but this build of torch cannot use it")
    return Choice(word, devices, "they save more than the transfers cost")


def choose_elsewhere(asked: Asked, jobs: Iterable[Job[Any]]) -> Choice:
    """The devices of a cluster's workers for some jobs: CUDA devices where these were asked for, or none.

    What stands for them here is the first device of the kind: which one it is, each worker knows.
    """
    word = str(asked)
    if asked.kind is not Kind.CUDA:
        return Choice(word, (), ON_WORKERS if asked.kind is None else ASKED_FOR)
    if not _works(jobs, asked.kind):
        return Choice(word, (), NOTHING_TO_DO.format(kind=asked.kind.value))
    return Choice(word, (Device(Kind.CUDA),), ASKED_FOR)


def _works(jobs: Iterable[Job[Any]], kind: Kind) -> list[Work]:
    found = (job.device_work(kind) for job in jobs if isinstance(job, DeviceJob))
    return [work for work in found if work is not None]


class Placement:
    """The places of a run: gives each job that can use one to that with the fewest, and runs it there.

    Without places all jobs run on the processor, and nothing here imports torch.
    """

    def __init__(self, choice: Choice, places: Sequence[Place] | None = None) -> None:
        self.choice = choice
        self.places = tuple(map(Place, choice.devices) if places is None else places)
        self._lock = Lock()
        self._given = [0] * len(self.places)
        self._too_large: list[str] = []
        if choice.kind is Kind.CUDA:
            os.environ.setdefault(*_REPRODUCIBLE)

    @classmethod
    def on_processor(cls) -> Placement:
        return cls(Choice(Kind.CPU.value, (), "nothing else was asked for"))

    @property
    def kind(self) -> Kind:
        return self.places[0].kind if self.places else Kind.CPU

    @property
    def threads(self) -> int:
        """Threads that keep all devices at work."""
        return AT_ONCE * len(self.places)

    def run(self, job: Job[Result], workspace: Path) -> Result:
        """The job's result, from a device where it can use one."""
        if not self.places or not isinstance(job, DeviceJob) or job.device_work(self.kind) is None:
            return job.run(workspace)
        number = self._take()
        try:
            done: tuple[Result] | None = self.places[number].run(job, workspace)
        finally:
            with self._lock:
                self._given[number] -= 1
        if done is not None:
            return done[0]
        self.give_up(job.name)
        return job.run(workspace)

    def give_up(self, job: str) -> None:
        """Takes down that a job, by its name, was too large for its device."""
        with self._lock:
            self._too_large.append(job)

    def gave_up(self, job: str) -> bool:
        """Whether a job, by its name, was too large for its device."""
        with self._lock:
            return job in self._too_large

    @property
    def mark(self) -> str:
        """What has to be the same where a run is resumed: the kind, and the library that computes there."""
        if not self.places:
            return self.kind.value
        import torch

        return f"{self.kind.value} with torch {torch.__version__}"

    def warnings(self) -> tuple[str, ...]:
        """What a user should know of this run: at most one line."""
        if not self._too_large:
            return ()
        first, more = min(self._too_large), len(self._too_large) - 1
        named = f"{first} and {more} more" if more else first
        return (
            f"{named}: {self.kind.value} ran out of memory, in smaller blocks too, so the CPU did that work "
            "(last bits may differ from a run that fits)",
        )

    def _take(self) -> int:
        """The place with the fewest jobs; the first of several."""
        with self._lock:
            number = min(range(len(self.places)), key=self._given.__getitem__)
            self._given[number] += 1
            return number
