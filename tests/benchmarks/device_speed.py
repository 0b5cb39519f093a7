"""`loratools extract` and `merge` on CUDA devices beside mergekit `--cuda`, with the bus's and disk's limits.

    python tests/benchmarks/device_speed.py --peers VENV --write      # 32 layers: 80 GB of room on the disk
    python tests/benchmarks/device_speed.py --layers 8                # a quarter of an 8B model
    python tests/benchmarks/device_speed.py --simulated               # tries this script, anywhere

Commands are timed in turn, imports included, in one run; what bounds them stands below: what the bus moves
to and from pinned memory, and what the disk reads and writes. `--peers` names an environment with mergekit
and a CUDA build of torch; without it only loratools runs: on the CPU, on one device and on all. Where there
is no CUDA device it says so in one line and exits with code 1. `--simulated` runs the whole path on two
simulated devices in this process, on a pair of toys: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from fixtures.campaign_figures import Cell, Figures
from fixtures.pairs import SavedPair, llama_pair
from fixtures.simulated_device import SimulatedPlace, simulated
from fixtures.streamed_pairs import streamed_pair
from loratools import extract, merge
from loratools.engine.execution import Execution
from loratools.engine.local import LocalEngine
from tests.benchmarks.paired import Contender, Run, run

COLUMNS = ("what", "wall clock, s", "processor time, s", "anonymous memory, GB")
_COPIED = 2**28
"""Bytes of one copy over the bus."""
_WRITTEN = 2**30
"""Bytes of the file that shows what the disk does."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", type=Path, metavar="VENV", help="an environment with mergekit")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="where to put the checkpoints")
    parser.add_argument("--simulated", action="store_true", help="try this script without a device")
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    if not (options.simulated or torch.cuda.is_available()):
        sys.exit("there is no CUDA device: nothing was measured (--simulated only tries this script)")
    with tempfile.TemporaryDirectory(prefix="device-speed-", dir=options.scratch) as scratch:
        rows = tried(Path(scratch)) if options.simulated else measured(Path(scratch), options)
    words = f"--layers {options.layers} --rank {options.rank} --runs {options.runs}"
    figures = Figures(f"python tests/benchmarks/device_speed.py {words}", COLUMNS, rows)
    print(figures.markdown())
    if options.write and not options.simulated:
        figures.write("device_speed")


def tried(work: Path) -> list[tuple[Cell, ...]]:
    """Both verbs in this process on two simulated devices."""
    pair = llama_pair(work, layers=1, hidden=336, ffn=352, vocab=64)
    places = [SimulatedPlace(0), SimulatedPlace(1)]
    own = Execution.engine
    Execution.engine = lambda self, progress: LocalEngine(  # type: ignore[method-assign]
        self.workers, progress, placement=simulated(*places)
    )
    try:
        rows = []
        for name, call in {
            "extract, simulated": lambda: extract(pair.base, pair.tuned, work / "adapter", rank=8),
            "merge, simulated": lambda: merge(pair.base, [work / "adapter"], work / "merged"),
        }.items():
            started = time.perf_counter()
            report = call()
            assert report.details["devices"]["taken"] == ["cuda:0", "cuda:1"]
            rows.append((name, f"{time.perf_counter() - started:.2f}", "-", "-"))
    finally:
        Execution.engine = own  # type: ignore[method-assign]
    return rows


def measured(work: Path, options: argparse.Namespace) -> list[tuple[Cell, ...]]:
    """Medians of all contenders, each once in every round, and the limits."""
    pair = streamed_pair(work / "pair", layers=options.layers)
    contenders = [*extractions(pair, work, options), *merges(pair, work, options)]
    runs: dict[str, list[Run]] = {one.name: [] for one in contenders}
    for turn in range(options.runs + 1):
        for contender in contenders:
            done = run(contender)
            print(f"  {contender.name}: {done.wall:.2f} s", file=sys.stderr)
            if turn:
                runs[contender.name].append(done)
    return [*(row(name, found) for name, found in runs.items()), *limits(work)]


def row(name: str, runs: list[Run]) -> tuple[Cell, ...]:
    walls = sorted(one.wall for one in runs)
    processor = statistics.median(one.processor for one in runs)
    peak = max(one.peak for one in runs) / 1e9
    wall = f"{statistics.median(walls):.1f} ({walls[0]:.1f} to {walls[-1]:.1f})"
    return name, wall, f"{processor:.1f}", f"{peak:.2f}"


def devices() -> Iterator[str]:
    yield from ("cpu", "cuda:0")
    if torch.cuda.device_count() > 1:
        yield "cuda"


def extractions(pair: SavedPair, work: Path, options: argparse.Namespace) -> Iterator[Contender]:
    """The first one's adapter stays for the merges."""
    rank = ("--rank", str(options.rank))
    for device in devices():
        output = work / f"adapter {device}"
        line = [*_OURS, "extract", str(pair.base), str(pair.tuned), "-o", str(output), *rank]
        yield Contender(f"loratools extract --device {device}", [*line, "--device", device], output)
    if options.peers is not None:
        output = work / "adapter of mergekit"
        line = [str(options.peers / "bin" / "mergekit-extract-lora"), "--cuda"]
        line += ["--model", str(pair.tuned), "--base-model", str(pair.base), "--out-path", str(output)]
        line += ["--max-rank", str(options.rank), "--no-write-model-card", "--no-copy-tokenizer"]
        yield Contender("mergekit-extract-lora --cuda", line, output)


def merges(pair: SavedPair, work: Path, options: argparse.Namespace) -> Iterator[Contender]:
    adapter = work / "adapter cpu"
    for device in devices():
        output = work / f"merged {device}"
        line = [*_OURS, "merge", str(pair.base), str(adapter), "-o", str(output), "--device", device]
        yield Contender(f"loratools merge --device {device}", line, output)
    if options.peers is not None:
        output, recipe = work / "merged by mergekit", work / "recipe.yaml"
        one = {"model": f"{pair.base}+{adapter}", "parameters": {"weight": 1.0}}
        recipe.write_text(json.dumps({"models": [one], "merge_method": "linear", "dtype": "bfloat16"}))
        line = [str(options.peers / "bin" / "mergekit-yaml"), str(recipe), str(output), "--cuda"]
        line += ["--lora-merge-cache", str(work / "merged by mergekit" / "cache")]
        yield Contender("mergekit-yaml --cuda, base+adapter", line, output)


_OURS = (sys.executable, "-m", "loratools")


def limits(work: Path) -> Iterator[tuple[Cell, ...]]:
    """What no run can be faster than: bytes a second over the bus and from and to the disk."""
    host = torch.empty(_COPIED, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(_COPIED, dtype=torch.uint8, device="cuda:0")
    for name, one, other in (("to the device", there, host), ("from the device", host, there)):
        seconds = []
        for _ in range(6):
            torch.cuda.synchronize()
            started = time.perf_counter()
            one.copy_(other, non_blocking=True)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        yield f"bus, {name}: {_COPIED / min(seconds) / 1e9:.1f} GB/s", "-", "-", "-"
    path = work / "of the disk"
    block = os.urandom(2**24)
    started = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(_WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        yield f"disk, written: {_WRITTEN / (time.perf_counter() - started) / 1e9:.2f} GB/s", "-", "-", "-"
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    started = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(2**24):
            pass
    yield f"disk, read: {_WRITTEN / (time.perf_counter() - started) / 1e9:.2f} GB/s", "-", "-", "-"


if __name__ == "__main__":
    main()
