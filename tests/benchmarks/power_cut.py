"""Power cuts: what a run did to the disk, replayed with any part of it missing that a crash may drop.

    python tests/benchmarks/power_cut.py --samples 2000 --write

Every command that writes is traced at the seam; then, after each of its operations, states are drawn that the
disk could be found in (the model stands in fixtures/power_cut.py). In each the target must be as it was, or
new and whole; once the command has ended, new and whole. As a control, the same without flushes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Figures
from fixtures.fault_runs import RUNS, Run, Workplace, loratools
from fixtures.power_cut import states_after_a_cut, without_flushes, wrong_with
from fixtures.system_trace import Trace

COLUMNS = ("command", "operations", "states", "neither old nor whole", "the same, without flushes")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=200, help="states drawn after each operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    rows: list[tuple[str | int, ...]] = []
    with tempfile.TemporaryDirectory(prefix="power-") as root:
        workplace = Workplace(Path(root))
        workplace.prepare()
        for run in RUNS:
            for swaps, name in ((True, run.name), (False, f"{run.name}, in two renames")):
                if swaps or run.old:
                    rows.append((name, *_checked(workplace, run, swaps, options.samples, options.seed)))
                    print(*rows[-1], sep=" | ", flush=True)
    rows.append(("all", *(sum(int(row[place]) for row in rows) for place in range(1, len(COLUMNS)))))
    figures = Figures(
        f"python tests/benchmarks/power_cut.py --samples {options.samples} --write", COLUMNS, rows
    )
    print(figures.markdown())
    if options.write:
        figures.write("power-cut")
    sys.exit(1 if rows[-1][3] else 0)


def _checked(
    workplace: Workplace, run: Run, swaps: bool, samples: int, seed: int
) -> tuple[int, int, int, int]:
    """(operations, states, wrong ones, wrong ones of the control)."""
    folder = workplace.place(run)
    with Trace(folder, swaps=swaps).installed() as trace:
        outcome = loratools(run.words(workplace.inputs, folder))
    assert outcome.code == 0, outcome
    operations = len(trace.operations)
    states, wrong = _counted(workplace, run, trace, samples, seed)
    without_flushes(trace, files=True, folders=True)
    _, control = _counted(workplace, run, trace, min(samples, 50), seed)
    return operations, states, wrong, control


def _counted(workplace: Workplace, run: Run, trace: Trace, samples: int, seed: int) -> tuple[int, int]:
    old, new = workplace.states[run.name]
    states = wrong = 0
    for state in states_after_a_cut(trace, samples=samples, seed=seed):
        states += 1
        told = wrong_with(state, run.target, old, new)
        if told is not None:
            wrong += 1
    return states, wrong


if __name__ == "__main__":
    main()
