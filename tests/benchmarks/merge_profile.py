"""Where the time of a merge goes, stage by stage, beside what reading, hashing and writing alone cost.

    python tests/benchmarks/merge_profile.py --layers 8 --write

Processor seconds of every thread, system calls included, without those of the stages inside of a stage; the
medians of several runs, each in a process of its own. The clocks that are read at every stage cost about one
part in fifty. The floor reads each tensor, hashes what was read, writes it, hashes what was written and
flushes, on the same engine; it and `cp` with `sync` are run in the same turns.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Figures

STAGES = {
    "open the inputs": ["operations.merge:open_inputs"],
    "plan": ["operations.merge:plan_merge"],
    "hash the adapter": ["operations.merge:hash_tensors", "operations.rewrite_record:hash_tensors"],
    "lay the files out": ["operations.rewrite:_lay_out"],
    "copy side files": ["operations.rewrite:_copy_side_files"],
    "read the base": ["checkpoints.raw:TensorReader.read"],
    "hash what was read": ["operations.streaming:Source.read"],
    "widen to float32": ["operations.streaming:widened"],
    "read the factors": ["adapters.values:Values._read"],
    "multiply and add": ["adapters.lowrank:LowRank.apply"],
    "norm of the update": ["adapters.lowrank:LowRank.norm"],
    "round": ["operations.rounded:round_into"],
    "what rounding added": ["operations.rounded:Rounder.round"],
    "its norm": ["operations.rounded:_squares"],
    "count what changed": ["operations.tally:Tally.count"],
    "tally": ["operations.tally:Tally.add"],
    "write": ["checkpoints.parts:PartWriter.write"],
    "begin to flush": ["checkpoints.parts:begin_flush"],
    "hash what is written": ["operations.streaming:Target.write"],
    "rest of the jobs": ["operations.merge_job:MergeJob.run", "operations.streaming:CopyJob.run"],
    "journal": ["checkpoints.journal:Journal.add"],
    "provenance": ["operations.merge:merge_record", "operations.rewrite:_write_provenance"],
    "flush": ["checkpoints.publication:flush_file", "checkpoints.publication:flush_folder"],
    "publish": ["checkpoints.publication:Publication.publish"],
}
"""What is timed, by stage: functions of the package as `module:name`."""

COLUMNS = ("stage", "processor, s", "share, %")


class Stopwatch:
    """Processor seconds of calls by stage, less those of the stages that they call; one for all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._inner = threading.local()

    def watch(self, stage: str, place: str) -> None:
        module, _, name = place.partition(":")
        owner = importlib.import_module(f"loratools.{module}")
        *outer, last = name.split(".")
        for part in outer:
            owner = getattr(owner, part)
        setattr(owner, last, self._timed(stage, getattr(owner, last)))

    def _timed(self, stage: str, call: Any) -> Any:
        @functools.wraps(call)
        def timed(*words: Any, **options: Any) -> Any:
            inner = self._inner.__dict__.setdefault("stack", [])
            inner.append(0.0)
            start = time.thread_time()
            try:
                return call(*words, **options)
            finally:
                took = time.thread_time() - start
                self.seconds[stage] += took - inner.pop()
                if inner:
                    inner[-1] += took

        return timed


@dataclass(frozen=True)
class Floor:
    """A job that does all of a merge but the merging."""

    source: Any
    target: Any

    @property
    def name(self) -> str:
        return str(self.target.name)

    @property
    def bytes(self) -> int:
        return int(self.source.bytes)

    def run(self, workspace: Path) -> str:
        from loratools.operations.streaming import Source, Target, blocks

        with Source(self.source) as source, Target(self.target, workspace) as target:
            for first, count in blocks(self.target):
                target.write(source.read(first, count).buffer)
            return source.root() + target.root()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--ffn", type=int, default=8192)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--inputs", type=Path, help="a folder with base and adapter, instead of new ones")
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="merge-profile-") as scratch:
        base, adapter = inputs(Path(scratch), options)
        figures = profile(base, adapter, Path(scratch), options.runs)
    print(figures.markdown())
    if options.write:
        figures.write("merge-profile")


def inputs(work: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    if options.inputs is not None:
        return options.inputs / "base", options.inputs / "adapter"
    from tests.benchmarks.merge_speed import prepare

    return prepare(work, options)


def profile(base: Path, adapter: Path, work: Path, count: int) -> Figures:
    """The table: a row for each stage, then the whole, the floor and `cp`."""
    from tests.benchmarks.merge_speed import copying
    from tests.benchmarks.paired import Contender, run

    floor = Contender("", _inside("--floor", base, adapter, work / "floor"), work / "floor")
    merged, floors, copies = [], [], []
    for turn in range(count + 1):
        stages = _measured(base, adapter, work / "merged")
        others = run(floor), run(copying(base, work / "copy"))
        if turn:
            merged.append(stages)
            floors.append(others[0])
            copies.append(others[1])
    medians = {stage: statistics.median(one[stage] for one in merged) for stage in merged[0]}
    whole = sum(seconds for stage, seconds in medians.items() if stage != WALL)
    rows: list[tuple[str | int | float, ...]] = [
        (stage, f"{seconds:.3f}", f"{100 * seconds / whole:.1f}")
        for stage, seconds in medians.items()
        if stage != WALL
    ]
    rows.append((f"**all of it**, {medians[WALL]:.2f} s by the clock", f"{whole:.2f}", "100"))
    for name, runs in (
        ("floor: read, hash, write, hash and flush", floors),
        ("`cp` and `sync`", copies),
    ):
        wall, processor = (
            statistics.median(getattr(one, what) for one in runs) for what in ("wall", "processor")
        )
        rows.append(
            (f"{name}, {wall:.2f} s by the clock", f"{processor:.2f}", f"{100 * processor / whole:.1f}")
        )
    return Figures("python tests/benchmarks/merge_profile.py --write", COLUMNS, rows)


WALL = "wall"


def _inside(what: str, base: Path, adapter: Path, output: Path) -> list[str]:
    return [sys.executable, __file__, what, *map(str, (base, adapter, output))]


def _measured(base: Path, adapter: Path, output: Path) -> Mapping[str, float]:
    """Processor seconds by stage of one merge, and those of its clock."""
    from tests.benchmarks.paired import clear

    clear(output)
    before, start = _children(), time.perf_counter()
    told = subprocess.run(
        _inside("--merge", base, adapter, output), check=True, capture_output=True, text=True
    )
    wall, whole = time.perf_counter() - start, _children() - before
    stages: dict[str, float] = json.loads(told.stdout)
    rest = whole - sum(stages.values())
    return {**stages, "the rest: waiting for locks, the end of the process": rest, WALL: wall}


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def merge_in_stages(base: Path, adapter: Path, output: Path) -> None:
    """Merges, and prints the seconds of each stage as JSON."""
    for module in ("cli.app", "cli.merge", "cli.render", "cli.sources", "linalg.factors", "operations.merge"):
        importlib.import_module(f"loratools.{module}")
    began = time.process_time()
    watch = Stopwatch()
    for stage, places in STAGES.items():
        for place in places:
            watch.watch(stage, place)
    from loratools.operations.merge import merge

    merge(base, adapter, output)
    print(json.dumps({"start Python and import": began, **watch.seconds}))


def floor(base: Path, output: Path) -> None:
    """Reads, hashes, writes, hashes and flushes every tensor of the base, and nothing else."""
    from loratools.checkpoints.flushing import flush_file
    from loratools.checkpoints.reference import open_checkpoint
    from loratools.engine.local import LocalEngine
    from loratools.operations.rewrite_layout import Outgoing, laid_out, shards_as_they_are

    checkpoint = open_checkpoint(base)
    tensors = [Outgoing(name, spec.dtype, spec.shape, spec) for name, spec in checkpoint.tensors.items()]
    shards = laid_out(shards_as_they_are(checkpoint, tensors), {})
    output.mkdir()
    for shard in shards:
        shard.layout.create(output / shard.file)
    jobs = [Floor(tensor.source, shard.place(tensor)) for shard in shards for tensor in shard.tensors]
    for _ in LocalEngine().run("floor", jobs, output, torch=False):
        pass
    for shard in shards:
        flush_file(output / shard.file)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--merge"]:
        merge_in_stages(*map(Path, sys.argv[2:5]))
    elif sys.argv[1:2] == ["--floor"]:
        floor(Path(sys.argv[2]), Path(sys.argv[4]))
    else:
        main()
