"""`Foresight`: watches a run beside its forecast, tells what time is left, and learns from the outcome."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from loratools.engine import calibration
from loratools.engine.engine import Engine
from loratools.engine.forecast import (
    FINISHING,
    Forecast,
    Load,
    Room,
    foretell,
    memory_key,
    seconds_key,
)
from loratools.engine.limits import memory_left
from loratools.engine.memory import anonymous_bytes
from loratools.engine.plan import Plan
from loratools.engine.progress import Progress, Silent

__all__ = ["Foreseeing", "Foresight"]

_TELLING_PHASE = 0.1
"""Seconds from which on a phase tells more than the noise of a machine."""

_TELLING_RUN = 0.25
"""The same of a run: its peak of memory is sampled."""

_runs_before = 0
"""Runs of this process that have ended: what libraries they loaded is no part of what a next one adds."""


@runtime_checkable
class Foreseeing(Protocol):
    """A watcher that wants to know how long the run will still take, by the plan and the pace so far."""

    def left(self, seconds: float) -> None: ...


class Outcome(Protocol):
    """What a report says of the run's cost."""

    @property
    def seconds(self) -> float: ...

    @property
    def peak_bytes(self) -> int | None: ...


Result = TypeVar("Result", bound=Outcome)


class Foresight:
    """A watcher that stands between an engine and the caller's own, from the moment that a verb begins.

    Args:
        progress: the caller's.
        learn: whether the run tells what runs cost: one that takes over what an earlier one did does not.
    """

    def __init__(self, progress: Progress | None, *, learn: bool = True) -> None:
        self._shown = progress or Silent()
        self._learn = learn
        self._began = time.perf_counter()
        self._plan: Plan[Any] | None = None
        self._pace = _Pace({}, {}, 1)
        self._phase, self._phase_began = "", 0.0
        self._took: dict[str, float] = {}
        self._planned = 0.0

    def expect(self, plan: Plan[Any], engine: Engine, most: int | None) -> Forecast:
        """Foretells the run, and holds the engine to the memory that there is, or that was allowed.

        Args:
            most: bytes that the process may hold, as its user said; None for what the machine has.

        Raises:
            LoratoolsError: it cannot be done in that.
        """
        loads = [Load.of(name, jobs) for name, jobs in plan.stages]
        if engine.elsewhere:
            loads = [replace(load, memory=(0,) * len(load.memory)) for load in loads]
            self._learn = False
        self._held = anonymous_bytes() or 0
        room = Room(engine.workers, self._held, most, memory_left())
        forecast = foretell(plan, loads, room, calibration.load())
        engine.allow(forecast.budget)
        self._plan, self._loads, self._engine, self.forecast = plan, loads, engine, forecast
        costs = {
            load.name: {job.name: cost for job, cost in zip(jobs, load.costs, strict=True)}
            for load, (_, jobs) in zip(loads, plan.stages, strict=True)
        }
        self._pace = _Pace(forecast.phases, costs, forecast.workers)
        self._planned = time.perf_counter() - self._began
        return forecast

    def start(self, what: str, jobs: int, bytes: int) -> None:
        self._shown.start(what, jobs, bytes)
        self._phase, self._phase_began = what, time.perf_counter()
        self._pace.begin(what)
        self._tell()

    def advance(self, job: str, bytes: int) -> None:
        self._shown.advance(job, bytes)
        self._pace.done(job)
        self._tell()

    def finish(self) -> None:
        self._shown.finish()
        took = time.perf_counter() - self._phase_began
        self._took[self._phase] = self._took.get(self._phase, 0.0) + took
        self._pace.end()
        self._tell()

    def learnt(self, report: Result) -> Result:
        """Takes down what the run cost, for the next estimates; gives the report back."""
        global _runs_before
        first, _runs_before = not _runs_before, _runs_before + 1
        if not self._learn or self._plan is None or report.seconds < _TELLING_RUN:
            return report
        plan, workers = self._plan, self._engine.workers
        rest = report.seconds - self._planned - sum(self._took.values())
        took = {**self._took, FINISHING: rest}
        costs = {load.name: load.seconds(workers, self.forecast.budget) for load in self._loads}
        costs[FINISHING] = plan.finishing_seconds
        told = {
            seconds_key(plan, phase, workers): math.log(took[phase] / cost)
            for phase, cost in costs.items()
            if cost > 0.0 and took.get(phase, 0.0) > _TELLING_PHASE
        }
        if first and report.peak_bytes is not None:
            beside = report.peak_bytes - self._held - plan.kept_bytes - self.forecast.jobs_bytes
            told[memory_key(plan, workers)] = float(beside)
        calibration.save(told)
        return report

    def _tell(self) -> None:
        if self._plan is not None and isinstance(self._shown, Foreseeing):
            self._shown.left(self._pace.left())


class _Pace:
    """How much of the expected seconds is done, and how much slower or faster than expected that went."""

    def __init__(self, phases: dict[str, float], costs: dict[str, dict[str, float]], workers: int) -> None:
        self._ahead = dict(phases)  # seconds of the phases that have not begun
        self._costs, self._workers = costs, max(1, workers)
        self._trust = 0.5 + 0.2 * sum(phases.values())  # seconds that the forecast weighs as if seen
        self._began = time.perf_counter()
        self._expected = 0.0
        self._open: dict[str, float] = {}
        self._ratio = 1.0
        self._under_way = 0.0

    def begin(self, phase: str) -> None:
        if not self._expected and not self._open:
            self._began = time.perf_counter()
        seconds = self._ahead.pop(phase, 0.0)
        costs = self._costs.get(phase, {})
        whole = sum(costs.values())
        self._open = {name: seconds * cost / whole for name, cost in costs.items()} if whole else {}

    def done(self, job: str) -> None:
        cost = self._open.pop(job, 0.0)
        self._expected += cost
        # Those beside it are about half way.
        self._under_way = min(0.5 * (self._workers - 1) * cost, sum(self._open.values()))

    def end(self) -> None:
        self._expected += sum(self._open.values())
        self._open, self._under_way = {}, 0.0

    def left(self) -> float:
        elapsed = time.perf_counter() - self._began
        seen = self._expected + self._under_way
        pace = (self._trust + elapsed) / (self._trust + seen) if seen else 1.0
        ahead = sum(self._open.values()) - self._under_way + sum(self._ahead.values())
        return max(0.0, ahead) * pace
