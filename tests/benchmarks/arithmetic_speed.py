"""`loratools resize` and `combine` beside a copy of what they read, on adapters of 200 modules.

    python tests/benchmarks/arithmetic_speed.py
    python tests/benchmarks/arithmetic_speed.py --modules 3900 --pairs 3    # 1 GB
    python tests/benchmarks/arithmetic_speed.py --modules 4 --width 64 --pairs 1    # a smoke test

All are timed as a user runs them, start of the interpreter and imports included, in turn, in one run; the
page cache is warm. `cp` is followed by `sync` of what it wrote, since an output is on the disk when a verb
returns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from fixtures.campaign_figures import Figures
from fixtures.lora_files import write_adapter
from tests.benchmarks.paired import COLUMNS, Contender, Rows, compared, pairs, table

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modules", type=int, default=200)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()

    rows: Rows = []
    with tempfile.TemporaryDirectory(prefix="arithmetic-speed-") as scratch:
        work = Path(scratch)
        one, two = (adapter(work / str(seed), options, seed) for seed in range(2))
        weights = one / "adapter_model.safetensors"
        size = f"{options.modules} modules, {weights.stat().st_size / 1e6:.0f} MB an adapter, float32"
        print(f"{size}\n")
        half = str(max(1, options.rank // 2))
        contenders = (
            (loratools(work, "resize", one, "--rank", half), [one]),
            (loratools(work, "combine", one, two, "--weight", "0.5", "--weight", "-1"), [one, two]),
            (loratools(work, "combine", one, two, "--method", "svd"), [one, two]),
        )
        for ours, read in contenders:
            peer = copying(read, work / "copy")
            runs = pairs(peer, ours, options.pairs)
            print(table(peer, ours, runs), end="\n\n")
            rows += compared(peer, ours, runs)
    if options.write:
        words = f"--modules {options.modules} --pairs {options.pairs} --write"
        Figures(
            f"python tests/benchmarks/arithmetic_speed.py {words}",
            COLUMNS,
            rows,
            f"{size}; medians of {options.pairs} pairs.",
        ).write(f"arithmetic_speed-{options.modules}-modules")


def adapter(folder: Path, options: argparse.Namespace, seed: int) -> Path:
    """An adapter of square linear layers, in float32."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        f"model.layers.{at // 4}.self_attn.{KINDS[at % 4]}": (
            0.02 * torch.randn((options.rank, options.width), generator=generator),
            0.02 * torch.randn((options.width, options.rank), generator=generator),
        )
        for at in range(options.modules)
    }
    return write_adapter(folder, factors, base="some/base")


def loratools(work: Path, verb: str, *words: object) -> Contender:
    output = work / "ours"
    command = [sys.executable, "-m", "loratools", verb, *map(str, words), "-o", str(output), "--quiet"]
    return Contender(f"loratools {verb} {words[-1] if verb == 'combine' else ''}".strip(), command, output)


def copying(folders: list[Path], output: Path) -> Contender:
    script = 'out=$1; shift; mkdir "$out" && cp -r "$@" "$out" && sync "$out"/*/*'
    return Contender("cp + sync", ["sh", "-c", script, "sh", str(output), *map(str, folders)], output)


if __name__ == "__main__":
    main()
