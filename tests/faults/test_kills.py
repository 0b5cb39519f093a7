"""Commands ended by signals: a handful; `python tests/benchmarks/kills.py` sends hundreds."""

from __future__ import annotations

import os
import signal

import pytest

from fixtures.ended_runs import end
from fixtures.fault_runs import RUNS, Run, Workplace

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

CASES = [
    ("merge, shards", signal.SIGKILL, 0.0),
    ("merge --undo", signal.SIGTERM, 0.02),
    ("merge --undo --resume", signal.SIGKILL, 0.05),
    ("merge over an older one", signal.SIGINT, 0.01),
    ("unmerge by record", signal.SIGKILL, 0.01),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = Workplace(tmp_path_factory.mktemp("kills"))
    names = {name for name, _, _ in CASES}
    found.prepare([run for run in RUNS if run.name in names], hidden=192, layers=2)
    return found


@pytest.mark.parametrize(
    ("name", "number", "delay"), CASES, ids=[f"{name}-{number.name}" for name, number, _ in CASES]
)
def test_what_a_signal_leaves_is_absent_or_whole(
    name: str, number: signal.Signals, delay: float, workplace: Workplace
) -> None:
    run: Run = next(one for one in RUNS if one.name == name)
    ending = end(workplace, run, number, delay=delay, begun=True)
    assert not ending.wrongs
    assert ending.begun or ending.published
