"""Faults: each call to the system of each command that writes fails in turn; outputs are whole or absent.

    python tests/benchmarks/faults.py --jobs 2 --write

From the first call to the system that changes anything on, every call that a command makes (open, read,
write, stat, rename, fsync, ...) fails in one run with EIO, and in another with one of the other kinds of
fault, which take turns; of the calls before, when all is only looked at, a quarter. With `--all` every call
fails with each of them, which takes ten times as long. Two kinds let every later call fail, too. Interrupted
calls, and reads and writes that fall short, must not fail the command at all. After each fault the target is
held against an undisturbed run's, inputs against what they were, and where anything was left, the command
runs again. Some ten minutes on one core; `--write` keeps the figures for the documentation.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Figures
from fixtures.fault_injection import KINDS, Kind, calls_of, sweep
from fixtures.fault_runs import RUNS, Workplace

COLUMNS = ("command", *(kind.name for kind in KINDS), "faults", "lost")


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
            rows.append((name, *counts, sum(counts), len(wrongs)))
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
        calls = calls_of(workplace, run)
        for kind in KINDS:
            for one in sweep(workplace, run, kind, _chosen(kind, calls, everything)):
                injected[kind.name] += 1
                if one.wrongs:
                    told = ", ".join(one.wrongs)
                    wrongs.append(f"{run.name}: {kind.name} at call {one.number}, {one.call}: {told}")
    return run.name, injected, wrongs


def _chosen(kind: Kind, calls: list[str], everything: bool) -> Iterator[int]:
    """Which calls are hit, by their numbers; of reads and writes that fall short, every one."""
    if everything or kind.code is None:
        yield from range(1, len(calls) + 1)
        return
    place, turns = KINDS.index(kind), len(KINDS) - 1
    changing = calls.index("mkdir") + 1
    for number in range(1, len(calls) + 1):
        turn, odd = (number, 0) if number >= changing else divmod(number, _AHEAD)
        if not odd and (place == 0 or turn % turns == place % turns):
            yield number


_AHEAD = 4
"""Of how many calls that change nothing one is hit."""


if __name__ == "__main__":
    main()
