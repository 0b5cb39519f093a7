"""`--cluster`: extract and merge on 1, 2 and 4 workers of one thread beside local runs; the cost of a job.

    python tests/benchmarks/cluster_scaling.py --write                # 8 Llama layers, 1.07 GB a side
    python tests/benchmarks/cluster_scaling.py --layers 2 --rounds 1

Three clusters stand side by side on this machine, with 1, 2 and 4 workers, and take turns with the local
runs, after a round that is not counted; more workers than processors cannot be faster. The cost of a job is
that of thousands that do nothing. From these figures, and a shared disk that is assumed, the last table
reckons what 405B parameters cost on 16 nodes: see `fixtures/cluster_estimate.py` for the formulae.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import loratools
from fixtures.campaign_figures import Cell, Figures
from fixtures.cluster import Cluster
from fixtures.cluster_estimate import DISKS, Rates, estimates
from fixtures.cluster_jobs import Job
from fixtures.pairs import SavedPair, llama_pair
from loratools.engine.cluster import ClusterEngine
from loratools.engine.engine import Engine
from loratools.engine.local import LocalEngine

CREWS = (1, 2, 4)
LOCAL = "local, 1 thread"


@dataclass(frozen=True)
class Place:
    """Where jobs run, by name: the scheduler's address, or threads of this process."""

    name: str
    workers: int | None
    cluster: str | None = None

    def engine(self) -> Engine:
        return LocalEngine(self.workers) if self.cluster is None else ClusterEngine(self.cluster)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--empty", type=int, default=3000, help="jobs that do nothing")
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cluster-scaling-") as name, ExitStack() as stack:
        work = Path(name)
        places = [Place(LOCAL, 1), Place("local, 2 threads", 2), *_clusters(work, stack)]
        pair = llama_pair(work, layers=options.layers)
        loratools.extract(pair.base, pair.tuned, work / "adapter")
        size = sum(file.stat().st_size for file in pair.base.glob("*.safetensors"))
        seconds = {verb: in_turn(places, run, options.rounds) for verb, run in _verbs(pair, work).items()}
        costs = [(place, *cost_of_a_job(place, options.empty, work)) for place in places]
    words = f"--layers {options.layers} --rounds {options.rounds} --empty {options.empty} --write"
    command = f"python tests/benchmarks/cluster_scaling.py {words}"
    rows = [_job_row(*cost) for cost in costs]
    tables = {
        "cluster-scaling": scaling(command, seconds, size),
        "cluster-jobs": Figures(command, ("where", *_JOB_COLUMNS), rows),
        "cluster-405b": on_paper(command, seconds, size, costs[-1][2]),
    }
    for key, figures in tables.items():
        print(figures.markdown(), end="\n\n")
        if options.write:
            figures.write(key)


def _clusters(work: Path, stack: ExitStack) -> list[Place]:
    found = []
    for count in CREWS:
        folder = work / f"cluster-{count}"
        folder.mkdir()
        cluster = stack.enter_context(Cluster(folder))
        cluster.grow(count)
        name = f"cluster, {count} worker{'s' if count > 1 else ''}"
        found.append(Place(name, None, cluster.address))
    return found


def _verbs(pair: SavedPair, work: Path) -> dict[str, Callable[[Place], object]]:
    def extract(place: Place) -> object:
        out = _cleared(work / "extracted")
        return loratools.extract(pair.base, pair.tuned, out, workers=place.workers, cluster=place.cluster)

    def merge(place: Place) -> object:
        out = _cleared(work / "merged")
        adapter = work / "adapter"
        return loratools.merge(pair.base, [adapter], out, workers=place.workers, cluster=place.cluster)

    return {"extract": extract, "merge": merge}


def _cleared(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def in_turn(places: list[Place], run: Callable[[Place], object], rounds: int) -> dict[str, list[float]]:
    """Seconds of each place, round by round, after one that is not counted."""
    found: dict[str, list[float]] = {place.name: [] for place in places}
    for turn in range(rounds + 1):
        for place in places:
            os.sync()  # what the one before left to be written is not this one's
            start = time.perf_counter()
            run(place)
            if turn:
                found[place.name].append(time.perf_counter() - start)
        print("  ", *(f"{times[-1]:.2f} s" for times in found.values() if times), file=sys.stderr)
    return found


def cost_of_a_job(place: Place, jobs: int, work: Path) -> tuple[float, float, float]:
    """Seconds of a run of one job, those of each further one, and of this process's processor for it."""
    engine = place.engine()

    def seconds_of(count: int) -> tuple[float, float]:
        start, processor = time.perf_counter(), time.process_time()
        done = sum(1 for _ in engine.run("nothing", [Job(str(n)) for n in range(count)], work, torch=False))
        assert done == count
        return time.perf_counter() - start, time.process_time() - processor

    seconds_of(8 * max(CREWS))  # every worker has imported what it needs
    first, first_processor = seconds_of(1)
    wall, processor = seconds_of(jobs)
    return first, (wall - first) / jobs, (processor - first_processor) / jobs


_JOB_COLUMNS = ("a run of one empty job", "each job more", "of the coordinator's processor")


def _job_row(place: Place, first: float, each: float, processor: float) -> tuple[Cell, ...]:
    return place.name, f"{first * 1e3:.0f} ms", f"{each * 1e3:.2f} ms", f"{processor * 1e3:.2f} ms"


def scaling(command: str, seconds: dict[str, dict[str, list[float]]], size: int) -> Figures:
    """Medians, with the range of each place's ratio to the local run of one thread in the same round."""
    rows: list[tuple[Cell, ...]] = []
    for verb, times in seconds.items():
        for name, found in times.items():
            ratios = sorted(one / each for one, each in zip(times[LOCAL], found, strict=True))
            told = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            rows.append((verb, name, f"{statistics.median(found):.2f} s", told))
    columns = (f"a base of {size / 1e9:.2f} GB", "where", "median", "times as fast as one local thread")
    return Figures(command, columns, rows)


def on_paper(command: str, seconds: dict[str, dict[str, list[float]]], size: int, each: float) -> Figures:
    """405B on 16 nodes, from the rate of one worker's thread and the cost of a job on the largest crew."""
    one = f"cluster, {CREWS[0]} worker"
    rates = Rates(
        extract=2 * size / statistics.median(seconds["extract"][one]),
        merge=size / statistics.median(seconds["merge"][one]),
        job_seconds=each,
    )
    columns = ("verb", "shared disk", "disk", "arithmetic", "coordinator", "packing", "sum", "bound by")
    return Figures(command, columns, [row for disk in DISKS for row in estimates(rates, disk)])


if __name__ == "__main__":
    main()
