"""Faults: each call to the system of each command that writes fails in turn; outputs are whole or absent.

    python tests/benchmarks/faults.py --jobs 2 --write

Every call to the system that a command makes (open, read, write, stat, list, rename, fsync, ...) fails in one
run with EIO, and in another with one of the other kinds of fault, which take turns. With `--all` it fails
with each of them, which takes five times as long. Two kinds let every later call fail, too. Interrupted
calls, and reads and writes that fall short, must not fail the command at all. After each fault the target is
held against an undisturbed run's, inputs against what they were, and the command runs again. A quarter of an
hour on one core; `--write` keeps the figures for the documentation.
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
from fixtures.fault_injection import KINDS, Kind, sweep
from fixtures.fault_runs import RUNS, Workplace

COLUMNS = ("command", "calls", *(kind.name for kind in KINDS), "faults", "lost")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--all", action="store_true", help="every kind of fault at every call")
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    rows: list[tuple[str | int, ...]] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        campaigns = pool.map(campaign, range(len(RUNS)), itertools.repeat(options.all))
        for name, injected, wrongs in campaigns:
            for wrong in wrongs:
                print(wrong, file=sys.stderr, flush=True)
            counts = [injected[kind.name] for kind in KINDS]
            rows.append((name, injected[KINDS[0].name], *counts, sum(counts), len(wrongs)))
            print(*rows[-1], sep=" | ", flush=True)
    rows.append(("all", *(sum(int(row[place]) for row in rows) for place in range(1, len(COLUMNS)))))
    command = f"python tests/benchmarks/faults.py --jobs 2{' --all' if options.all else ''} --write"
    figures = Figures(command, COLUMNS, rows)
    print(figures.markdown())
    if options.write:
        figures.write("faults")
    sys.exit(1 if rows[-1][-1] else 0)


def campaign(place: int, everything: bool) -> tuple[str, Counter[str], list[str]]:
    """All faults in one command: how many of each kind, and what went wrong."""
    run = RUNS[place]
    injected: Counter[str] = Counter()
    wrongs: list[str] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as root:
        workplace = Workplace(Path(root))
        workplace.prepare([run])
        for kind in KINDS:
            for one in sweep(workplace, run, kind, _calls(kind, everything)):
                injected[kind.name] += 1
                if one.wrongs:
                    told = ", ".join(one.wrongs)
                    wrongs.append(f"{run.name}: {kind.name} at call {one.number}, {one.call}: {told}")
    return run.name, injected, wrongs


def _calls(kind: Kind, everything: bool) -> itertools.count[int]:
    """Which calls are hit: all by the first kind, and by each of the others those whose turn it is."""
    place = KINDS.index(kind)
    if everything or place == 0:
        return itertools.count(1)
    return itertools.count(place, len(KINDS) - 1)


if __name__ == "__main__":
    main()
