"""Jobs side by side never hold more than the budget; big ones run alone, results stay in order."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from loratools.engine.admission import Admission, ClosedError
from loratools.engine.kept import kept_array, kept_bytes
from loratools.engine.local import LocalEngine


class Meter:
    """What is held at once, and the most that ever was."""

    def __init__(self, expected: int) -> None:
        self._lock = threading.Lock()
        self.held, self.inside = 0, 0
        self.most, self.most_inside = 0, 0
        self.meet = threading.Barrier(expected)

    def enter(self, memory: int) -> None:
        with self._lock:
            self.held += memory
            self.inside += 1
            self.most, self.most_inside = max(self.most, self.held), max(self.most_inside, self.inside)

    def leave(self, memory: int) -> None:
        with self._lock:
            self.held -= memory
            self.inside -= 1


@dataclass(frozen=True)
class Holding:
    name: str
    memory: int
    meter: Meter = field(repr=False)
    together: bool = False
    bytes: int = 1
    cost: float = 0.0

    def run(self, workspace: Path) -> str:
        self.meter.enter(self.memory)
        if self.together:
            self.meter.meet.wait(30)  # only passes where as many run side by side
        threading.Event().wait(0.002)
        self.meter.leave(self.memory)
        return self.name


def test_no_more_is_held_than_the_budget(tmp_path: Path) -> None:
    meter = Meter(1)
    sizes = [5, 60, 40, 5, 100, 30, 30, 30, 10, 70, 5, 5] * 4
    jobs = [Holding(str(number), size, meter) for number, size in enumerate(sizes)]
    engine = LocalEngine(4)
    engine.allow(100)
    results = [result for _, result in engine.run("holding", jobs, tmp_path, torch=False)]
    assert results == [job.name for job in jobs]
    assert meter.most <= 100
    assert meter.most_inside > 1


def test_small_ones_run_together_and_a_large_one_alone(tmp_path: Path) -> None:
    small, large = Meter(3), Meter(1)
    jobs = [Holding(f"small {n}", 30, small, together=True) for n in range(3)]
    jobs.append(Holding("larger than all of it", 500, large))
    engine = LocalEngine(3)
    engine.allow(100)
    list(engine.run("holding", jobs, tmp_path, torch=False))
    assert small.most == 90
    assert large.most == 500


def test_without_a_budget_nobody_waits(tmp_path: Path) -> None:
    meter = Meter(4)
    jobs = [Holding(str(number), 10**12, meter, together=True) for number in range(4)]
    list(LocalEngine(4).run("holding", jobs, tmp_path, torch=False))
    assert meter.most_inside == 4


def test_nobody_overtakes() -> None:
    admission = Admission(100)
    order: list[str] = []
    inside, waits = threading.Event(), threading.Event()

    def run(name: str, memory: int) -> None:
        with admission.room(memory):
            order.append(name)

    def hold() -> None:
        with admission.room(60):
            inside.set()
            waits.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(30)
    large = threading.Thread(target=run, args=("large", 80))
    large.start()
    while admission._next < 2:
        threading.Event().wait(0.001)
    small = threading.Thread(target=run, args=("small", 10))  # would fit beside the first
    small.start()
    while admission._next < 3:
        threading.Event().wait(0.001)
    assert order == []
    waits.set()
    for thread in (holder, large, small):
        thread.join(30)
    assert order == ["large", "small"]


@dataclass(frozen=True)
class Failing:
    name: str = "failing"
    bytes: int = 1
    memory: int = 100
    cost: float = 0.0

    def run(self, workspace: Path) -> str:
        raise ValueError("mine")


def test_a_failure_turns_away_those_who_wait(tmp_path: Path) -> None:
    meter = Meter(1)
    engine = LocalEngine(4)
    engine.allow(100)
    jobs = [Failing(), *(Holding(str(number), 100, meter) for number in range(8))]
    with pytest.raises(ValueError, match="mine"):
        list(engine.run("failing", jobs, tmp_path, torch=False))
    assert meter.held == 0
    again = [result for _, result in engine.run("again", jobs[1:], tmp_path, torch=False)]
    assert again == [job.name for job in jobs[1:]]


@dataclass(frozen=True)
class Keeping:
    """Leaves something with its thread, and says what the one before left."""

    name: str
    memory: int
    bytes: int = 1
    cost: float = 0.0

    def run(self, workspace: Path) -> bool:
        before = kept_bytes() > 0
        kept_array("this", (10,), "uint8")
        return before


@pytest.mark.parametrize("budget", [15, 100, None], ids=["scarce", "enough", "none"])
def test_where_memory_is_scarce_threads_keep_nothing(budget: int | None, tmp_path: Path) -> None:
    engine = LocalEngine(2)
    engine.allow(budget)
    jobs = [Keeping(str(number), 10) for number in range(9)]
    kept = [before for _, before in engine.run("keeping", jobs, tmp_path, torch=False)]
    assert any(kept) == (budget != 15)


def test_what_is_closed_lets_nobody_in() -> None:
    admission = Admission(1)
    admission.close()
    with pytest.raises(ClosedError), admission.room(1):
        pass
