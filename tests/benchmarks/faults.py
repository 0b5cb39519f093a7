"""Faults: each call to the system of each command that writes fails in turn; outputs are whole or absent.

    python tests/benchmarks/faults.py --jobs 2 --write

Every call to the system that a command makes (open, read, write, stat, list, rename, fsync, ...) fails in one
run with one error: the n-th call, for each n. Two kinds let every call from the n-th on fail. Interrupted
calls, and reads and writes that fall short, must not fail the command at all. After each fault the target is
held against an undisturbed run's, inputs against what they were, and the command runs again. Half an hour on
one core; `--stride` takes every so-manieth call only, and `--write` keeps the figures for the documentation.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Figures
from fixtures.fault_injection import KINDS, sweep
from fixtures.fault_runs import RUNS, Workplace

COMMAND = "python tests/benchmarks/faults.py --jobs 2 --write"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--stride", type=int, default=1, help="hit every so-manieth call only")
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    figures = Figures(COMMAND, ("command", *(kind.name for kind in KINDS), "not whole, not absent"), [])
    lost = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        for name, injected, wrongs in pool.map(campaign, range(len(RUNS)), itertools.repeat(options.stride)):
            for wrong in wrongs:
                print(wrong, file=sys.stderr)
            lost += len(wrongs)
            row = (name, *(injected[kind.name] for kind in KINDS), len(wrongs))
            figures.rows.append(row)  # type: ignore[attr-defined]
            print(*row, sep=" | ", flush=True)
    total = [sum(int(row[place]) for row in figures.rows) for place in range(1, len(figures.columns))]
    figures.rows.append(("all", *total))  # type: ignore[attr-defined]
    print(figures.markdown())
    if options.write and options.stride == 1:
        figures.write("faults")
    sys.exit(1 if lost else 0)


def campaign(place: int, stride: int) -> tuple[str, Counter[str], list[str]]:
    """All faults in one command: how many of each kind, and what went wrong."""
    run = RUNS[place]
    injected: Counter[str] = Counter()
    wrongs: list[str] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as root:
        workplace = Workplace(Path(root))
        workplace.prepare([run])
        for kind in KINDS:
            for one in sweep(workplace, run, kind, itertools.count(1, stride)):
                injected[kind.name] += 1
                if one.wrongs:
                    told = ", ".join(one.wrongs)
                    wrongs.append(f"{run.name}: {kind.name} at call {one.number}, {one.call}: {told}")
    return run.name, injected, wrongs


if __name__ == "__main__":
    main()
