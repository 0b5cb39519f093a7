"""Forecasts: how long jobs take side by side, what they hold, and what would do at the least."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from loratools.engine.calibration import Calibration, Learnt
from loratools.engine.coverage import Coverage
from loratools.engine.forecast import Forecast, Load, Room, foretell
from loratools.engine.plan import Plan, cost_of, memory_of
from loratools.errors import LoratoolsError

MB = 10**6
NOTHING = Calibration({})


@dataclass(frozen=True)
class Planned:
    name: str
    cost: float
    memory: int
    bytes: int = 4 * 10**8

    def run(self, workspace: Path) -> None: ...


@dataclass(frozen=True)
class Plain:
    name: str = "plain"
    bytes: int = 10**9

    def run(self, workspace: Path) -> None: ...


def plan_of(*jobs: Planned, **more: object) -> Plan[Planned]:
    fields = {"overhead_bytes": 20 * MB, "kept_bytes": 5 * MB, "finishing_seconds": 1.0, **more}
    return Plan("merge", None, jobs, Coverage.of(()), 1, 2, **fields)


def forecast_of(
    plan: Plan[Planned], *, workers: int = 2, known: Calibration = NOTHING, **room: int | None
) -> Forecast:
    loads = [Load.of(name, jobs) for name, jobs in plan.stages]
    return foretell(plan, loads, Room(workers, 30 * MB, **room), known)


SCHEDULES = {
    "none": ((), 2, None, 0.0),
    "one worker": (((1, 5), (2, 5), (3, 5)), 1, None, 6.0),
    "two workers": (((1, 5), (2, 5), (3, 5)), 2, None, 4.0),
    "as many as jobs": (((1, 5), (2, 5), (3, 5)), 3, None, 3.0),
    "the longest last": (((1, 5), (1, 5), (9, 5)), 2, None, 10.0),
    "memory for one": (((1, 5), (2, 5), (3, 5)), 3, 9, 6.0),
    "memory for two": (((1, 5), (2, 5), (3, 5)), 3, 10, 4.0),
    "a large one alone": (((1, 2), (1, 2), (4, 9), (1, 2), (1, 2)), 2, 10, 6.0),
    "larger than all of it": (((1, 50), (1, 50)), 2, 10, 2.0),
}


@pytest.mark.parametrize(("jobs", "workers", "budget", "seconds"), SCHEDULES.values(), ids=SCHEDULES)
def test_seconds_of_jobs_side_by_side(
    jobs: tuple[tuple[float, int], ...], workers: int, budget: int | None, seconds: float
) -> None:
    load = Load("working", tuple(cost for cost, _ in jobs), tuple(memory for _, memory in jobs))
    assert load.seconds(workers, budget) == seconds


def test_memory_is_that_of_the_largest_side_by_side() -> None:
    load = Load("working", (1.0,) * 4, (10, 40, 20, 30))
    assert [load.held(workers, None) for workers in (1, 2, 9)] == [40, 70, 100]
    assert [load.held(3, budget) for budget in (1000, 65, 5)] == [90, 65, 40]
    assert [load.side_by_side(3, budget) for budget in (None, 90, 89, 69, 5)] == [3, 3, 2, 1, 1]
    assert Load("working", (), ()).held(2, 10) == 0


def test_the_peak_is_all_that_is_held() -> None:
    found = forecast_of(plan_of(Planned("a", 2.0, 10 * MB), Planned("b", 3.0, 40 * MB)))
    assert found.memory_bytes == (30 + 20 + 5 + 10 + 40) * MB
    assert found.least_bytes == 100 * MB  # 95 and to the next ten
    assert found.seconds == 3.0 + 1.0
    assert (found.workers, found.runs, found.alike, found.budget) == (2, 0, False, None)


def test_what_is_loaded_first_takes_its_time() -> None:
    job = Planned("a", 2.0, 10 * MB)
    later = forecast_of(plan_of(job, loading_seconds=1.5)).seconds - forecast_of(plan_of(job)).seconds
    assert later == pytest.approx(1.5)


def test_a_limit_makes_jobs_wait_and_runs_longer() -> None:
    plan = plan_of(*(Planned(str(number), 1.0, 40 * MB) for number in range(4)))
    free, tight = forecast_of(plan), forecast_of(plan, most=100 * MB)
    assert (free.workers, free.seconds) == (2, 2.0 + 1.0)
    assert (tight.workers, tight.seconds) == (1, 4.0 + 1.0)
    assert tight.budget == 45 * MB
    assert tight.memory_bytes <= 100 * MB
    assert free.memory_bytes == 135 * MB


def test_what_is_too_little_is_refused_with_what_would_do() -> None:
    plan = plan_of(Planned("a", 1.0, 40 * MB), Planned("b", 1.0, 40 * MB))
    with pytest.raises(LoratoolsError) as refused:
        forecast_of(plan, most=80 * MB)
    assert refused.value.hint == "--max-memory 100MB would do"
    assert "80 MB of memory are too few for merge" in refused.value.message
    assert forecast_of(plan, most=100 * MB).workers == 1


def test_what_the_machine_has_left_is_no_reason_to_refuse() -> None:
    plan = plan_of(Planned("a", 1.0, 40 * MB), Planned("b", 1.0, 40 * MB))
    found = forecast_of(plan, left=10 * MB)
    assert (found.workers, found.budget) == (1, 0)
    assert forecast_of(plan, left=500 * MB, most=100 * MB).budget == 45 * MB
    assert forecast_of(plan, left=70 * MB, most=500 * MB).budget == 45 * MB


def test_what_runs_taught_is_used() -> None:
    plan = plan_of(Planned("a", 2.0, 10 * MB), Planned("b", 2.0, 40 * MB), likeness="plain")
    known = {
        "merge merge/seconds/plain/2": Learnt(math.log(3.0), 4),
        "merge finishing/seconds/plain/2": Learnt(math.log(0.5), 4),
        "merge/memory/plain/2": Learnt(7.0 * MB, 2),
    }
    found = forecast_of(plan, known=Calibration(known))
    assert found.seconds == pytest.approx(2.0 * 3.0 + 1.0 * 0.5)
    assert found.memory_bytes == (30 + 7 + 5 + 50) * MB
    assert (found.runs, found.alike) == (4, True)
    similar = forecast_of(plan, workers=1, known=Calibration(known))
    assert similar.seconds == pytest.approx(4.0 * 3.0 + 1.0 * 0.5)
    assert (similar.runs, similar.alike) == (4, False)


def test_absurd_values_do_not_make_it_absurd() -> None:
    plan = plan_of(Planned("a", 2.0, 10 * MB))
    known = {"merge merge/seconds/all/2": Learnt(1e12, 1), "merge/memory/all/2": Learnt(-1e12, 1)}
    found = forecast_of(plan, known=Calibration(known))
    assert math.isfinite(found.seconds)
    assert found.memory_bytes == 30 * MB


def test_jobs_that_do_not_say_what_they_cost() -> None:
    assert (memory_of(Plain()), cost_of(Plain())) == (0, 1.0)
    assert (memory_of(Planned("a", 2.0, 3)), cost_of(Planned("a", 2.0, 3))) == (3, 2.0)
