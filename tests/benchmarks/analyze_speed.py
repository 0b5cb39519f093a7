"""`loratools analyze BASE TUNED` beside `loratools extract` of the same rank, on Llama layers in bf16.

    python tests/benchmarks/analyze_speed.py --layers 2

Three commands in turn, in one run: extract, analyze without amplification, analyze; each as a user runs it,
start of the interpreter and imports included; the page cache is warm. What is allowed: 1.5 and 2.5 times the
extraction. The more layers, the less the start of Python counts, which all three have.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.pairs import SavedPair, llama_pair
from tests.benchmarks.paired import Contender, Run, run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()

    loratools = shutil.which("loratools", path=sysconfig.get_path("scripts"))
    if loratools is None:
        parser.error("loratools is not installed beside this Python")
    with tempfile.TemporaryDirectory(prefix="analyze-speed-") as work:
        pair = llama_pair(Path(work), layers=options.layers)
        contenders = _contenders(loratools, pair, Path(work) / "out", options.rank)
        print(table(contenders, in_turn(contenders, options.rounds)))


def _contenders(loratools: str, pair: SavedPair, output: Path, rank: int) -> list[Contender]:
    both = [str(pair.base), str(pair.tuned)]
    analyze = [loratools, "analyze", *both, "--rank", str(rank)]
    return [
        Contender("extract", [loratools, "extract", *both, "-o", str(output), "--rank", str(rank)], output),
        Contender("analyze --no-amplification", [*analyze, "--no-amplification"], output),
        Contender("analyze", analyze, output),
    ]


def in_turn(contenders: Sequence[Contender], rounds: int) -> list[list[Run]]:
    """One uncounted round, then the runs of each round, in the order of the contenders."""
    found = []
    for turn in range(rounds + 1):
        runs = [run(contender) for contender in contenders]
        print("  ", *(f"{one.wall:.2f} s" for one in runs), file=sys.stderr)
        if turn:
            found.append(runs)
    return found


def table(contenders: Sequence[Contender], rounds: Sequence[Sequence[Run]]) -> str:
    """A Markdown table of medians, and of ratios to the first, taken round by round, with their range."""
    lines = ["| | " + " | ".join(contender.name for contender in contenders) + " |"]
    lines.append("|---" * (len(contenders) + 1) + "|")
    columns: tuple[tuple[str, Callable[[Run], float]], ...] = (
        ("wall clock, s", lambda one: one.wall),
        ("processor time, s", lambda one: one.processor),
        ("peak anonymous memory, MB", lambda one: one.peak / 1e6),
    )
    for label, figure in columns:
        cells = []
        for place in range(len(contenders)):
            median = statistics.median(figure(runs[place]) for runs in rounds)
            ratios = sorted(figure(runs[place]) / figure(runs[0]) for runs in rounds)
            times = (
                f"; {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})" if place else ""
            )
            cells.append(f"{median:.2f}{times}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
