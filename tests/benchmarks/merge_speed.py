"""Merging an adapter, beside PEFT's load, merge and save, and beside `cp` of the base.

    python tests/benchmarks/merge_speed.py --layers 2

All are timed as a user runs them, start of the interpreter and imports included, in turn, in one run; the
page cache is warm. `cp` is followed by `sync` of what it wrote, since a merge is on the disk when it returns.
Beyond imports is what a merge takes less what a process takes, run beside it in the same turn, that imports
the modules which a merge uses and ends.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from safetensors.torch import load_file

from fixtures.lora_files import lora_factors, write_adapter
from fixtures.pairs import llama_pair
from tests.benchmarks.paired import Contender, pairs, run, table

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

IMPORTS = """
import numpy
import loratools.cli.app, loratools.cli.merge, loratools.cli.render, loratools.cli.sources
import loratools.linalg.factors, loratools.linalg.products, loratools.operations.merge
"""
"""What a merge imports."""

PEFT = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=8, help="8 are 1.07 GB")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--ffn", type=int, default=8192)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="merge-speed-") as scratch:
        work = Path(scratch)
        base, adapter = prepare(work, options)
        ours = merge(base, adapter, work / "ours")
        peer = peft(base, adapter, work / "peft")
        print(table(peer, ours, pairs(peer, ours, options.pairs)), end="\n\n")
        print(beside_copying(ours, copying(base, work / "copy"), options.pairs))


def prepare(work: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    """A base of one shard a layer, and an adapter of all its linear layers."""
    pair = llama_pair(
        work, layers=options.layers, hidden=options.hidden, ffn=options.ffn, shards=max(1, options.layers)
    )
    shutil.rmtree(pair.tuned)
    shards = sorted(pair.base.glob("*.safetensors"))
    tensors = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    factors = lora_factors(tensors, rank=options.rank, modules=MODULES)
    return pair.base, write_adapter(work / "adapter", factors, base=str(pair.base))


def beside_copying(ours: Contender, copy: Contender, count: int) -> str:
    """A Markdown table of medians of `count` turns, and of the ratios of each turn."""
    contenders = (ours, copy, imports(copy.output))
    turns = [[run(contender) for contender in contenders] for _ in range(count + 1)][1:]
    lines = ["| | wall clock, s | processor time, s |", "|---|---|---|"]
    for place, contender in enumerate(contenders):
        wall, processor = (
            statistics.median(getattr(turn[place], what) for turn in turns) for what in ("wall", "processor")
        )
        lines.append(f"| {contender.name} | {wall:.2f} | {processor:.2f} |")
    ratios = {
        "merge / cp": [merged.wall / copied.wall for merged, copied, _ in turns],
        "merge beyond imports / cp": [
            (merged.wall - start.wall) / copied.wall for merged, copied, start in turns
        ],
    }
    for name, each in ratios.items():
        lines.append(f"| {name} | {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f}) | |")
    return "\n".join(lines)


def merge(base: Path, adapter: Path, output: Path) -> Contender:
    command = [sys.executable, "-m", "loratools", "merge", str(base), str(adapter), "-o", str(output)]
    return Contender("loratools merge", command, output)


def peft(base: Path, adapter: Path, output: Path) -> Contender:
    command = [sys.executable, "-c", PEFT, str(base), str(adapter), str(output)]
    return Contender("PEFT merge_and_unload + save", command, output)


def copying(base: Path, output: Path) -> Contender:
    line = 'cp -r "$0" "$1" && sync "$1"/*'
    return Contender("cp + sync", ["sh", "-c", line, str(base), str(output)], output)


def imports(nothing: Path) -> Contender:
    return Contender("imports alone", [sys.executable, "-c", IMPORTS], nothing)


if __name__ == "__main__":
    main()
