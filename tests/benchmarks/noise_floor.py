"""Rank found by the storage noise floor against the true rank, under real rounding: a Markdown table.

    python tests/benchmarks/noise_floor.py [--seeds 3] [--shapes 768x512 2048x2048] [--processes 2]

Updates of rank 1 to 64 on Gaussian and heavy-tailed (Student, 3 degrees of freedom) weights, in float32,
float16, bfloat16 and bfloat16 stored as float32, from ||update|| / ||W|| = 1e-4 to 1. In each cell: cases
whose rank was found within 1 / cases where a lower bound was given / cases with a wrong rank.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.rounded_deltas import STORAGES, RoundedDelta
from fixtures.rounded_verdicts import Outcome, Verdict, judge

RATIOS = (1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 8e-3, 1e-2, 3e-2, 0.1, 1.0)
RANKS = ((1, 0.0), (2, 1.0), (4, 0.7), (8, 1.0), (16, 0.5), (32, 0.0), (64, 0.0))
"""Ranks, and how fast singular values fall."""


def cases(shapes: list[tuple[int, int]], seeds: int) -> Iterator[RoundedDelta]:
    grid = itertools.product(shapes, STORAGES, (False, True), ("gaussian", "student"), RATIOS, RANKS)
    for shape, storage, same_grid, tails, ratio, (rank, decay) in grid:
        for seed in range(seeds):
            yield RoundedDelta(shape, rank, ratio, storage, same_grid, tails, decay, 1000 * seed + rank)


def table(verdicts: list[Verdict]) -> str:
    cells: dict[tuple[str, bool, float], Counter[Outcome]] = defaultdict(Counter)
    for verdict in verdicts:
        case = verdict.case
        cells[case.storage, case.same_grid, case.ratio][verdict.outcome] += 1
    lines = ["| storage | rounding | " + " | ".join(f"{ratio:g}" for ratio in RATIOS) + " |"]
    lines.append("|" + "---|" * (2 + len(RATIOS)))
    for storage, same_grid in itertools.product(STORAGES, (False, True)):
        row = (cells[storage, same_grid, ratio] for ratio in RATIOS)
        rounding = "one grid" if same_grid else "independent"
        lines.append(f"| {storage} | {rounding} | " + " | ".join(map(shown, row)) + " |")
    return "\n".join(lines)


def shown(cell: Counter[Outcome]) -> str:
    bounds = cell[Outcome.BOUND] + cell[Outcome.FALSE_BOUND]
    return f"{cell[Outcome.RIGHT]} / {bounds} / {cell[Outcome.WRONG]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", default=["768x512", "1024x1024"])
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    shapes = [(int(height), int(width)) for height, width in (text.split("x") for text in options.shapes)]
    verdicts = []
    with ProcessPoolExecutor(options.processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for verdict in pool.map(judge, cases(shapes, options.seeds), chunksize=8):
            verdicts.append(verdict)
            if not verdict.good:
                print(f"{verdict.outcome.value}, asked: {verdict.asked}: {verdict}", file=sys.stderr)
    print(table(verdicts))
    asked = [verdict for verdict in verdicts if verdict.asked]
    right = sum(verdict.outcome is Outcome.RIGHT for verdict in asked)
    counts = Counter(verdict.outcome for verdict in verdicts if not verdict.asked)
    told = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome)
    print(f"\nAsked for: {right} of {len(asked)} right. Elsewhere: {told}.")


if __name__ == "__main__":
    main()
