"""What stands between a run and its watcher: time left, and what a finished run teaches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from loratools.engine import calibration, foresight
from loratools.engine.coverage import Coverage
from loratools.engine.foresight import Foresight
from loratools.engine.local import LocalEngine
from loratools.engine.plan import Plan

MB = 10**6


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(foresight.time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(foresight, "anonymous_bytes", lambda: 100 * MB)
    monkeypatch.setattr(foresight, "_runs_before", 0)
    return Clock(monkeypatch)


@dataclass
class Watcher:
    """Takes down what it is told."""

    seconds: list[float] = field(default_factory=list)
    told: list[tuple[object, ...]] = field(default_factory=list)

    def start(self, what: str, jobs: int, bytes: int) -> None:
        self.told.append((what, jobs, bytes))

    def advance(self, job: str, bytes: int) -> None:
        self.told.append((job, bytes))

    def finish(self) -> None:
        self.told.append(())

    def left(self, seconds: float) -> None:
        self.seconds.append(seconds)


@dataclass(frozen=True)
class Job:
    name: str
    cost: float
    memory: int = 10 * MB
    bytes: int = 5

    def run(self, workspace: Path) -> None: ...


@dataclass(frozen=True)
class Ended:
    seconds: float
    peak_bytes: int | None


def plan_of(*costs: float) -> Plan[Job]:
    jobs = tuple(Job(str(number), cost) for number, cost in enumerate(costs))
    return Plan("merge", None, jobs, Coverage.of(()), 1, 2, finishing_seconds=2.0, overhead_bytes=MB)


def run(watched: Foresight, plan: Plan[Job], clock: Clock, slower: float = 1.0) -> None:
    """A run of one worker, as an engine tells it, and the phase after it."""
    watched.start("merge", len(plan.jobs), 5 * len(plan.jobs))
    for job in plan.jobs:
        clock.now += slower * job.cost
        watched.advance(job.name, job.bytes)
    watched.finish()


def test_the_watcher_is_told_what_it_was_told_before(clock: Clock) -> None:
    watcher, plan = Watcher(), plan_of(1.0, 2.0)
    watched = Foresight(watcher)
    watched.expect(plan, LocalEngine(1), None)
    run(watched, plan, clock)
    assert watcher.told == [("merge", 2, 10), ("0", 5), ("1", 5), ()]


def test_the_time_left_follows_the_costs_of_jobs_and_not_their_bytes(clock: Clock) -> None:
    watcher, plan = Watcher(), plan_of(1.0, 7.0, 10.0)
    watched = Foresight(watcher)
    watched.expect(plan, LocalEngine(1), None)
    run(watched, plan, clock)
    assert watcher.seconds == pytest.approx([20.0, 19.0, 12.0, 2.0, 2.0])


def test_a_slower_run_is_noticed_by_and_by(clock: Clock) -> None:
    watcher, plan = Watcher(), plan_of(*[1.0] * 20)
    watched = Foresight(watcher)
    watched.expect(plan, LocalEngine(1), None)
    run(watched, plan, clock, slower=2.0)
    true = [2.0 * left + 2.0 for left in range(20, -1, -1)]
    told = watcher.seconds[:21]
    assert told[0] == pytest.approx(22.0)
    for before, after in pairwise(told):
        assert after - before < 3.0  # it never leaps
    assert told[15] == pytest.approx(true[15], rel=0.25)


def test_a_verb_without_a_plan_is_watched_as_before(clock: Clock) -> None:
    watcher = Watcher()
    watched = Foresight(watcher)
    watched.start("outputs", 1, 2)
    watched.advance("one", 2)
    watched.finish()
    assert watcher.seconds == []
    assert watched.learnt(Ended(100.0, None)) == Ended(100.0, None)


def test_a_run_teaches_its_phases_and_its_memory(clock: Clock, own_cache: Path) -> None:
    plan = plan_of(1.0, 2.0)
    watched = Foresight(None)
    clock.now += 0.5  # planning
    watched.expect(plan, LocalEngine(1), None)
    run(watched, plan, clock, slower=4.0)
    watched.learnt(Ended(0.5 + 12.0 + 3.0, 130 * MB))
    found = {key: one.value for key, one in calibration.load().values.items()}
    assert found == pytest.approx(
        {
            "merge merge/seconds/all/1": math.log(4.0),
            "merge finishing/seconds/all/1": math.log(3.0 / 2.0),
            "merge/memory/all/1": 20.0 * MB,
        }
    )
    again = Foresight(None).expect(plan, LocalEngine(1), None)
    assert again.seconds == pytest.approx(12.0 + 3.0)
    assert again.memory_bytes == 130 * MB
    assert again.alike


@pytest.mark.parametrize(
    ("learn", "ended"), [(False, Ended(20.0, 1)), (True, Ended(0.2, 1))], ids=["resumed", "short"]
)
def test_what_tells_nothing_teaches_nothing(learn: bool, ended: Ended, clock: Clock, own_cache: Path) -> None:
    plan = plan_of(1.0)
    watched = Foresight(None, learn=learn)
    watched.expect(plan, LocalEngine(1), None)
    run(watched, plan, clock)
    watched.learnt(ended)
    assert not own_cache.exists()


def test_the_second_run_of_a_process_says_nothing_of_memory(clock: Clock) -> None:
    for _ in range(2):
        plan = plan_of(1.0)
        watched = Foresight(None)
        watched.expect(plan, LocalEngine(1), None)
        run(watched, plan, clock)
        watched.learnt(Ended(5.0, 130 * MB))
    values = calibration.load().values
    assert values["merge merge/seconds/all/1"].runs == 2
    assert values["merge/memory/all/1"].runs == 1
