"""Every verb that writes, with a fault at some of its calls to the system: a selection that takes seconds.

`python tests/benchmarks/faults.py` lets every call of every command fail in turn.
"""

from __future__ import annotations

import itertools

import pytest

from fixtures.fault_injection import KINDS, Kind, sweep
from fixtures.fault_runs import RUNS, Run, Workplace

STRIDE = 499
"""Of how many calls one is hit; each pair of a command and a fault begins at another one of them."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = Workplace(tmp_path_factory.mktemp("faults"))
    found.prepare()
    return found


PAIRS = [(run, kind) for place, run in enumerate(RUNS) for kind in KINDS[place % 3 :: 3]]


@pytest.mark.parametrize(("run", "kind"), PAIRS, ids=[f"{run.name}, {kind.name}" for run, kind in PAIRS])
def test_the_target_is_absent_or_whole(run: Run, kind: Kind, workplace: Workplace) -> None:
    begin = 1 + PAIRS.index((run, kind)) * 13 % STRIDE
    attempts = list(sweep(workplace, run, kind, itertools.count(begin, STRIDE)))
    assert not [(one.call, one.number, one.wrongs) for one in attempts if one.wrongs]
    assert attempts or "short" in kind.name
