"""Growth: time and memory along parameters, width, rank, adapters, modules and workers, beside theory.

    python tests/benchmarks/growth.py all --write                # all curves
    python tests/benchmarks/growth.py rank modules --write       # some
    python tests/benchmarks/growth.py all --quick --rounds 1     # a smoke test

Whole commands as a user runs them, hashes, certificates and publication included. In each turn every point
runs once, and so does the same verb on almost nothing, which tells what it takes to start. Inputs are written
below `--folder` and removed; the page cache is warm. `parameters` needs 9 GB of disk, the others up to 2.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.growth_curves import Curve, Point
from fixtures.growth_inputs import SIDES, Place, nothing
from fixtures.growth_tables import about_curve, curve_as_table
from tests.benchmarks.paired import Contender, Run, run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sides", nargs="+", choices=["all", *SIDES])
    parser.add_argument("--verb", action="append", help="only these; repeatable")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny inputs: whether it runs, and no more")
    parser.add_argument("--folder", help="where inputs are written; the system's temporary folder by default")
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("tiny inputs tell nothing that is to be kept: --quick or --write")
    for side in SIDES if "all" in options.sides else dict.fromkeys(options.sides):
        with tempfile.TemporaryDirectory(prefix="growth-", dir=options.folder) as work:
            curves = measured(side, Path(work), options)
        for curve in curves:
            print(f"\n{curve.verb} by {side}\n\n{curve_as_table(curve)}\n\n{about_curve(curve)}", flush=True)
            if options.write:
                curve.write()
    if options.write:
        from fixtures import growth_pictures

        growth_pictures.main()


def measured(side: str, work: Path, options: argparse.Namespace) -> list[Curve]:
    """The curves of all verbs along a side."""
    places = SIDES[side](work, options.quick)
    start = nothing(work)
    verbs = [verb for verb in start if any(verb in place.commands for place in places)]
    chosen = [verb for verb in verbs if not options.verb or verb in options.verb]
    return [_curve(side, verb, start[verb], places, work / "out", options.rounds) for verb in chosen]


def _curve(
    side: str, verb: str, start: Sequence[str], places: Sequence[Place], output: Path, rounds: int
) -> Curve:
    points = [place for place in places if verb in place.commands]
    commands = [start, *(place.commands[verb] for place in points)]
    _once(points[0].commands[verb], output)  # uncounted: what is imported and read is in the page cache then
    turns = [[_once(words, output) for words in commands] for _ in range(rounds)]
    print(f"  {verb}:", *(f"{one.wall:.2f}" for one in turns[-1]), "s", file=sys.stderr, flush=True)
    begun, *runs = zip(*turns, strict=True)
    told = [_point(place.at, place.told, own) for place, own in zip(points, runs, strict=True)]
    made_by = f"python tests/benchmarks/growth.py {side} --rounds {rounds} --write"
    processors = len(os.sched_getaffinity(0))
    return Curve(verb, side, made_by, _point(0.0, "almost nothing", begun), told, processors)


def _point(at: float, told: str, runs: Sequence[Run]) -> Point:
    walls, processors = ([round(one.wall, 3) for one in runs], [round(one.processor, 3) for one in runs])
    return Point(at, told, walls, processors, [one.peak for one in runs])


def _once(words: Sequence[str], output: Path) -> Run:
    verb = words[0]
    written = ["-o", str(output)] if verb != "analyze" else []
    command = [sys.executable, "-m", "loratools", *words, *written, "--quiet"]
    result = run(Contender(verb, command, output))
    shutil.rmtree(output, ignore_errors=True)
    return result


if __name__ == "__main__":
    main()
