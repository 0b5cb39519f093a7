"""`loratools extract --rank 16` on a pair shaped as Llama 8B: time beyond reading, memory, residuals.

    python tests/benchmarks/extract_8b.py --write

32 layers are 2 x 16 GB of real shards, for which the disk must have room; otherwise 8 layers are written,
and what a layer costs tells the rest. The files are read alone first (`cat` to /dev/null) and then by the
command, as it is run by users, both times from the same state of the page cache: cold where both sides
together take more than half of the memory, and warm otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Cell, Figures
from fixtures.pairs import SavedPair
from fixtures.streamed_pairs import LLAMA_8B, layer_bytes, streamed_pair
from tests.benchmarks.paired import Contender, Run, run

LAYERS, FEWER = 32, 8
COLUMNS = ("what", "measured")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, help="32 where the disk has room for them, else 8")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="write the pair there, or use what is there"
    )
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="extract-8b-") as work:
        folder = options.keep or Path(work)
        folder.mkdir(parents=True, exist_ok=True)
        layers = options.layers or layers_for(shutil.disk_usage(folder).free, folder)
        pair = SavedPair(folder / "base", folder / "tuned")
        if not (folder / "complete").exists():
            for side in (pair.base, pair.tuned):
                shutil.rmtree(side, ignore_errors=True)
            streamed_pair(folder, layers=layers)
            os.sync()
            (folder / "complete").write_text(str(layers))
        layers = int((folder / "complete").read_text())
        rows = measured(pair, layers, options.rank, Path(work))
    words = f"--layers {layers} --rank {options.rank} --write"
    figures = Figures(f"python tests/benchmarks/extract_8b.py {words}", COLUMNS, rows)
    print(figures.markdown())
    if options.write:
        figures.write(f"extract_8b-{layers}-layers")


def layers_for(free: int, folder: Path) -> int:
    """All of them if both sides and a tenth more fit into the free bytes, or lie there already."""
    ends = 2 * 2 * LLAMA_8B.vocabulary * LLAMA_8B.hidden
    needed = 2 * (LAYERS * layer_bytes(LLAMA_8B) + ends)
    return LAYERS if free > 1.1 * needed or (folder / "complete").exists() else FEWER


@dataclass(frozen=True)
class Extraction:
    """One run of the command: what it took, what it read from the disk, what it reported."""

    run: Run
    disk: int
    report: dict[str, Any]


def measured(pair: SavedPair, layers: int, rank: int, work: Path) -> list[tuple[Cell, ...]]:
    """Rows of `COLUMNS`."""
    files = sorted([*pair.base.glob("*.safetensors"), *pair.tuned.glob("*.safetensors")])
    size = sum(file.stat().st_size for file in files)
    cold = size > memory() / 2
    prepare: Callable[[Sequence[Path]], object] = forget if cold else read
    prepare(files)
    reading = read(files)
    prepare(files)
    found = extracted(pair, rank, work)
    beyond = found.run.wall - reading
    modules = found.report["modules"]
    workers = len(os.sched_getaffinity(0))
    slope = layer_seconds(modules) / workers
    whole = found.run.wall + (LAYERS - layers) * slope
    return [
        ("layers", layers),
        ("bytes of both sides", size),
        ("page cache", "cold" if cold else "warm"),
        ("bytes read from the disk", found.disk),
        ("reading both sides alone, s", round(reading, 1)),
        (f"wall clock on {workers} cores, s", round(found.run.wall, 1)),
        ("wall clock beyond reading, s", round(beyond, 1)),
        ("processor time, s", round(found.run.processor, 1)),
        ("a layer more, s", round(slope, 2)),
        *([] if layers == LAYERS else [(f"wall clock of {LAYERS} layers by that slope, s", round(whole, 1))]),
        ("peak anonymous memory, MB", round(found.run.peak / 1e6)),
        ("modules", len(modules)),
        ("modules with a certificate", sum(module["excess"] is not None for module in modules)),
        ("worst excess over the optimal residual, bound", f"{max(one['excess'] for one in modules):.1e}"),
        ("worst residual", f"{max(one['residual'] for one in modules):.4f}"),
    ]


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read(files: Sequence[Path]) -> float:
    """Seconds that it takes to read the files, and no more."""
    started = time.perf_counter()
    subprocess.run(["cat", *map(str, files)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def forget(files: Sequence[Path]) -> None:
    """Takes the files out of the page cache; they are on the disk."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def extracted(pair: SavedPair, rank: int, work: Path) -> Extraction:
    output, told = work / "adapter", work / "report.json"
    words = [sys.executable, "-m", "loratools", "extract", str(pair.base), str(pair.tuned), "-o", str(output)]
    line = f"{shlex.join([*words, '--rank', str(rank), '--json'])} > {shlex.quote(str(told))}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock
    took = run(Contender("loratools extract", ["sh", "-c", line], output))
    disk = (resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock - before) * 512
    return Extraction(took, disk, json.loads(told.read_text()))


def layer_seconds(modules: Sequence[dict[str, Any]]) -> float:
    """Seconds that a worker spends on one layer: the median over layers of the sums over their modules."""
    layers: dict[str, float] = {}
    for module in modules:
        layer = module["name"].partition("layers.")[2].partition(".")[0]
        layers[layer] = layers.get(layer, 0.0) + module["seconds"]
    return statistics.median(layers.values())


if __name__ == "__main__":
    main()
