"""Kills: commands as processes, ended by KILL, TERM or INT at random moments; outputs are whole or absent.

    python tests/benchmarks/kills.py --kills 216 --jobs 2 --write

Half of the signals come at a moment drawn from the whole life of the process, half from the time in which it
writes. After each: the target is absent, as it was, or whole; inputs are what they were; TERM exits with 143
and INT with 130, or with 0 where the output was published, and nothing is left behind; a new run succeeds.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Figures
from fixtures.ended_runs import SIGNALS, Ending, end, seconds_of
from fixtures.fault_runs import RUNS, Workplace

NAMES = (
    "merge, shards",
    "merge --undo",
    "extract",
    "unmerge by record",
    "merge over an older one",
    "unmerge by subtraction",
    "merge --undo --resume",
    "extract --resume",
)
COLUMNS = ("command", "signal", "sent", "while writing", "published all the same", "leftovers", "lost")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=216)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--hidden", type=int, default=256, help="size of the model; 3 layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    endings: list[Ending] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        share = -(-options.kills // options.jobs)
        seeds = range(options.seed, options.seed + options.jobs)
        for done in [pool.submit(campaign, share, options.hidden, seed) for seed in seeds]:
            endings += done.result()
    command = f"python tests/benchmarks/kills.py --kills {options.kills} --jobs {options.jobs} --write"
    figures = Figures(command, COLUMNS, _rows(endings))
    print(figures.markdown())
    if options.write:
        figures.write("kills")
    sys.exit(1 if any(one.wrongs for one in endings) else 0)


def campaign(kills: int, hidden: int, seed: int) -> list[Ending]:
    """So many kills, one after the other, at moments that the seed draws."""
    draw = random.Random(seed)
    runs = [next(run for run in RUNS if run.name == name) for name in NAMES]
    endings = []
    with tempfile.TemporaryDirectory(prefix="kills-") as root:
        workplace = Workplace(Path(root))
        workplace.prepare(runs, hidden=hidden, layers=3)
        lives = {run.name: seconds_of(workplace, run) for run in runs}
        for turn in range(kills):
            run = runs[(seed + turn) % len(runs)]
            number = draw.choice(list(SIGNALS))
            begun = draw.random() < 0.5
            before, writing = lives[run.name]
            delay = draw.random() * (1.1 * writing if begun else before + writing)
            one = end(workplace, run, number, delay=delay, begun=begun)
            endings.append(one)
            print(turn + 1, run.name, number.name, one.code, *one.wrongs, flush=True)
    return endings


def _rows(endings: list[Ending]) -> list[tuple[str | int, ...]]:
    rows = []
    for name in NAMES:
        for number in SIGNALS:
            of = [one for one in endings if one.run.name == name and one.number is number]
            rows.append((name, number.name, *_counted(of)))
    return [*rows, ("all", "", *_counted(endings))]


def _counted(endings: list[Ending]) -> tuple[int, ...]:
    return (
        len(endings),
        sum(one.begun for one in endings),
        sum(one.published for one in endings),
        sum(one.left for one in endings),
        sum(bool(one.wrongs) for one in endings),
    )


if __name__ == "__main__":
    main()
