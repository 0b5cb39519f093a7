"""What a run will take: seconds and memory, from its plan, the limits and what earlier runs taught."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loratools.engine.calibration import Calibration
from loratools.engine.plan import Plan, cost_of, memory_of
from loratools.errors import LoratoolsError

__all__ = ["FINISHING", "Forecast", "Load", "Room", "foretell"]

FINISHING = "finishing"
"""The phase after the last job: assembly, flushing, publication."""

_STEP = 10**7
"""Bytes to whose next multiple the least memory is rounded up: a run differs from the next by less."""


@dataclass(frozen=True)
class Load:
    """The jobs of one phase: seconds and bytes of each, in their order."""

    name: str
    costs: tuple[float, ...]
    memory: tuple[int, ...]

    @classmethod
    def of(cls, name: str, jobs: Sequence[Any]) -> Load:
        return cls(name, tuple(map(cost_of, jobs)), tuple(map(memory_of, jobs)))

    def seconds(self, workers: int, budget: int | None) -> float:
        """Seconds until the last job ends, jobs being taken in their order as workers and memory come free.

        This is what the engine does, but that it knows no times beforehand.
        """
        running: list[tuple[float, int]] = []  # (end, memory)
        now, held = 0.0, 0
        for cost, memory in zip(self.costs, self.memory, strict=True):
            full = budget is not None and held + memory > budget
            while running and (len(running) >= workers or full):
                now, freed = heapq.heappop(running)
                held -= freed
                full = budget is not None and held + memory > budget
            heapq.heappush(running, (now + cost, memory))
            held += memory
        return max((end for end, _ in running), default=now)

    def held(self, workers: int, budget: int | None) -> int:
        """Bytes that the largest jobs hold together, as far as they may run side by side."""
        largest = heapq.nlargest(workers, self.memory)
        together = sum(largest)
        return together if budget is None else max(min(together, budget), *largest[:1], 0)

    def side_by_side(self, workers: int, budget: int | None) -> int:
        """How many of the largest jobs fit at once."""
        held, count = 0, 0
        for memory in heapq.nlargest(workers, self.memory):
            held += memory
            if count and budget is not None and held > budget:
                break
            count += 1
        return count


@dataclass(frozen=True)
class Room:
    """What a run may use. `workers` at most; `held` is what the process holds already, in bytes.

    `most` is the bytes that it was told to stay below, `left` those that the machine has to give beyond
    `held`; None where nobody says.
    """

    workers: int
    held: int
    most: int | None = None
    left: int | None = None


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    `seconds` from now on, `finishing` those of them after the last job; `phases` the seconds of each phase.
    `memory_bytes` is the peak of the process's anonymous memory, `least_bytes` the least that it could do
    with, `jobs_bytes` what jobs hold of the peak, `budget` what they may hold at most. `workers` is how many
    of the largest jobs run side by side. `runs` of this machine stand behind it; `alike` if they were of the
    same kind and on as many workers.
    """

    seconds: float
    phases: dict[str, float]
    memory_bytes: int
    least_bytes: int
    jobs_bytes: int
    budget: int | None
    workers: int
    runs: int
    alike: bool


def seconds_key(plan: Plan[Any], phase: str, workers: int) -> str:
    """Where a calibration has the logarithm of a phase's seconds over those that its jobs' costs tell."""
    return f"{plan.command} {phase}/seconds/{plan.likeness or 'all'}/{workers}"


def memory_key(plan: Plan[Any], workers: int) -> str:
    """Where it has the bytes that a verb holds beside its jobs and what the process held before."""
    return f"{plan.command}/memory/{plan.likeness or 'all'}/{workers}"


def foretell(plan: Plan[Any], loads: Sequence[Load], room: Room, calibration: Calibration) -> Forecast:
    """The forecast.

    Raises:
        LoratoolsError: not even one job at a time stays below `room.most`; says what would do.
    """
    beside = calibration.find(memory_key(plan, room.workers))
    overhead = plan.overhead_bytes if beside is None else round(beside.value)
    floor = room.held + max(0, overhead) + plan.kept_bytes
    least = -(-(floor + max((load.held(1, None) for load in loads), default=0)) // _STEP) * _STEP
    if room.most is not None and room.most < least - _STEP:
        raise LoratoolsError(
            f"{room.most / 1e6:,.0f} MB of memory are too few for {plan.command}, "
            f"of which the least takes {least / 1e6:,.0f} MB",
            hint=f"--max-memory {least // 10**6}MB would do",
        )
    limits = [room.held + room.left] if room.left is not None else []
    limits += [room.most] if room.most is not None else []
    budget = max(0, min(limits) - floor) if limits else None
    phases = {}
    keys = [seconds_key(plan, load.name, room.workers) for load in loads]
    for load, key in zip(loads, keys, strict=True):
        phases[load.name] = load.seconds(room.workers, budget) * _factor(calibration, key)
    key = seconds_key(plan, FINISHING, room.workers)
    phases[FINISHING] = plan.finishing_seconds * _factor(calibration, key)
    jobs = max((load.held(room.workers, budget) for load in loads), default=0)
    longest = max(loads, key=lambda load: phases[load.name], default=None)
    main = key if longest is None else seconds_key(plan, longest.name, room.workers)
    known = calibration.find(main)
    return Forecast(
        seconds=plan.loading_seconds + sum(phases.values()),
        phases=phases,
        memory_bytes=max(room.held, room.held + overhead + plan.kept_bytes + jobs),
        least_bytes=least,
        jobs_bytes=jobs,
        budget=budget,
        workers=min((load.side_by_side(room.workers, budget) for load in loads if load.costs), default=0),
        runs=0 if known is None else known.runs,
        alike=calibration.knows(main),
    )


def _factor(calibration: Calibration, key: str) -> float:
    found = calibration.find(key)
    return 1.0 if found is None else math.exp(min(10.0, max(-10.0, found.value)))
