"""`loratools merge` beside PEFT's merge_and_unload and save, and beside a copy, on Llama layers in bf16.

    python tests/benchmarks/merge_speed.py
    python tests/benchmarks/merge_speed.py --hidden 128 --ffn 256 --pairs 1     # a smoke test

All are timed as a user runs them, start of the interpreter and imports included, in turn, in one run; the
page cache is warm. `cp` is followed by `sync` of what it wrote, since a merge is on the disk when it returns.
Beyond imports is what a merge takes less what, run beside it in the same turn, a process takes that imports
what a merge imports, and ends.
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

from fixtures.campaign_figures import Figures
from fixtures.lora_files import lora_factors, write_adapter
from fixtures.pairs import llama_pair
from tests.benchmarks.paired import COLUMNS, Contender, Rows, compared, pairs, run, table

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

IMPORTS = """
import numpy
import loratools.cli.app, loratools.cli.merge, loratools.cli.render, loratools.cli.sources
import loratools.linalg.factors, loratools.linalg.products, loratools.operations.merge
"""

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
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--ffn", type=int, default=8192)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()

    rows: Rows = []
    with tempfile.TemporaryDirectory(prefix="merge-speed-") as scratch:
        work = Path(scratch)
        base, adapter = prepare(work, options)
        ours = merge(base, adapter, work / "ours")
        for peer in (peft(base, adapter, work / "peft"), copying(base, work / "copy")):
            runs = pairs(peer, ours, options.pairs)
            print(table(peer, ours, runs), end="\n\n")
            rows += compared(peer, ours, runs)
        rows.append(beyond_imports(ours, copying(base, work / "copy"), options.pairs))
        print(" | ".join(rows[-1]))
    if options.write:
        words = f"--layers {options.layers} --pairs {options.pairs} --write"
        Figures(
            f"python tests/benchmarks/merge_speed.py {words}",
            COLUMNS,
            rows,
            f"{options.layers} layers, rank {options.rank}; medians of {options.pairs} pairs.",
        ).write(f"merge_speed-{options.layers}-layers")


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


def beyond_imports(ours: Contender, copy: Contender, count: int) -> tuple[str, ...]:
    """A row of the merge without its imports, beside the copy, of `count` turns: here ours over theirs."""
    imports = Contender("imports", [sys.executable, "-c", IMPORTS], copy.output)
    turns = [[run(one).wall for one in (copy, ours, imports)] for _ in range(count + 1)][1:]
    beyond = [merged - begun for _, merged, begun in turns]
    ratios = [left / copied for left, (copied, _, _) in zip(beyond, turns, strict=True)]
    medians = (statistics.median(copied for copied, _, _ in turns), statistics.median(beyond))
    span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    what = "wall clock beyond imports, s; ratio of ours to theirs"
    return (ours.name, copy.name, what, *(f"{seconds:.2f}" for seconds in medians), span)


def merge(base: Path, adapter: Path, output: Path) -> Contender:
    command = [sys.executable, "-m", "loratools", "merge", str(base), str(adapter), "-o", str(output)]
    return Contender("loratools merge", command, output)


def peft(base: Path, adapter: Path, output: Path) -> Contender:
    command = [sys.executable, "-c", PEFT, str(base), str(adapter), str(output)]
    return Contender("PEFT merge_and_unload + save", command, output)


def copying(base: Path, output: Path) -> Contender:
    line = 'cp -r "$0" "$1" && sync "$1"/*'
    return Contender("cp + sync", ["sh", "-c", line, str(base), str(output)], output)


if __name__ == "__main__":
    main()
