"""A round trip: three adapters merged on one another with `--undo`, `unmerge --all`, sha256 of each file.

    python tests/benchmarks/round_trip.py

On the bundled sample, and on Llama layers in bf16 with Gaussian weights, in shards: by default 1 GB of them.
Ranks 8, 16 and 64; updates of 1e-3, 1e-2 and 3e-2 of the weights on all linear layers. The commands are
processes; memory is what they hold at most of their own, files' pages not counted.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.lora_files import lora_factors, write_adapter
from fixtures.pairs import llama_pair
from loratools import sample
from tests.benchmarks.paired import Contender, run

ADAPTERS = ((8, 1e-3), (16, 1e-2), (64, 3e-2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=8, help="of 137 MB each")
    options = parser.parse_args()
    loratools = shutil.which("loratools", path=sysconfig.get_path("scripts"))
    if loratools is None:
        parser.error("loratools is not installed beside this Python")
    print("| base | bytes | files | merges | unmerge --all | memory at most | files that differ |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="round-trip-") as work:
        print(_row(loratools, Path(work), "the sample", sample.path("base")), flush=True)
    with tempfile.TemporaryDirectory(prefix="round-trip-") as work:
        pair = llama_pair(Path(work), layers=options.layers, shards=options.layers + 1)
        shutil.rmtree(pair.tuned)
        print(_row(loratools, Path(work), f"{options.layers} Llama layers", pair.base), flush=True)


def _row(loratools: str, work: Path, name: str, base: Path) -> str:
    runs, at = [], base
    for place, (rank, size) in enumerate(ADAPTERS):
        adapter = _adapter(work / f"adapter {place}", base, rank, size, seed=place)
        merged = work / f"merged {place}"
        command = [loratools, "merge", str(at), str(adapter), "-o", str(merged), "--undo"]
        runs.append(run(Contender("merge", command, merged)))
        at = merged
    back = work / "back"
    runs.append(run(Contender("unmerge", [loratools, "unmerge", str(at), "--all", "-o", str(back)], back)))
    before, after = dict(_hashes(base)), dict(_hashes(back))
    after.pop("loratools.json")  # says how the folder came to be; the base has none
    differ = sum(before.get(file) != after.get(file) for file in before.keys() | after.keys())
    merges = ", ".join(f"{one.wall:.1f}" for one in runs[:-1])
    size = sum(path.stat().st_size for path in base.iterdir())
    return (
        f"| {name} | {size:,} | {len(before)} | {merges} s | {runs[-1].wall:.1f} s "
        f"| {max(one.peak for one in runs) / 1e6:.0f} MB | {differ} |"
    )


def _adapter(folder: Path, base: Path, rank: int, size: float, *, seed: int) -> Path:
    factors = {}
    for shard in sorted(base.glob("*.safetensors")):  # one at a time: the base may be large
        factors |= lora_factors(load_file(shard), rank=rank, size=size, seed=seed)
    return write_adapter(folder, factors)


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
            yield str(path.relative_to(folder)), digest.hexdigest()


if __name__ == "__main__":
    main()
