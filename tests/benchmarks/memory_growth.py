"""Peak anonymous memory of extract and merge beside the checkpoint's size, at 0.25, 0.5 and 1 GB.

    python tests/benchmarks/memory_growth.py --write

Llama layers of one shape, 2, 4 and 8 of them, in bf16, rank 16 on all linear layers. Memory is the RssAnon
of the command's processes, sampled every 20 ms, the interpreter and its libraries included and the page
cache not; the median of several runs, the sizes in turn. The goal is at most a tenth more from the least to
the largest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from safetensors.torch import load_file

from fixtures.campaign_figures import Figures
from fixtures.lora_files import lora_factors, write_adapter
from fixtures.pairs import llama_pair
from tests.benchmarks.merge_speed import MODULES
from tests.benchmarks.paired import Contender, clear, run

LAYERS = (2, 4, 8)
COLUMNS = ("verb", *(f"{layers} layers, MB" for layers in LAYERS), "largest over least")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--ffn", type=int, default=8192)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memory-growth-") as scratch:
        folders = [_prepared(Path(scratch) / str(layers), layers, options) for layers in LAYERS]
        sizes = [sum(path.stat().st_size for path in (one / "base").iterdir()) for one in folders]
        rows: list[tuple[str | int | float, ...]] = [
            ("checkpoint", *(f"{size / 1e6:.0f}" for size in sizes), f"{sizes[-1] / sizes[0]:.2f}")
        ]
        for verb, others in (("extract", ("base", "tuned")), ("merge", ("base", "adapter"))):
            more = ["--rank", str(options.rank)] if verb == "extract" else []
            peaks = [
                [_peak(verb, one, others, more, options) for one in folders] for _ in range(options.runs)
            ]
            medians = [statistics.median(each) for each in zip(*peaks, strict=True)]
            rows.append((verb, *(f"{peak / 1e6:.0f}" for peak in medians), f"{medians[-1] / medians[0]:.2f}"))
    figures = Figures("python tests/benchmarks/memory_growth.py --write", COLUMNS, rows)
    print(figures.markdown())
    if options.write:
        figures.write("memory-growth")


def _prepared(folder: Path, layers: int, options: argparse.Namespace) -> Path:
    """base, tuned and adapter below the folder."""
    pair = llama_pair(folder, layers=layers, hidden=options.hidden, ffn=options.ffn, shards=layers)
    tensors = {
        name: tensor
        for shard in sorted(pair.base.glob("*.safetensors"))
        for name, tensor in load_file(shard).items()
    }
    factors = lora_factors(tensors, rank=options.rank, modules=MODULES)
    write_adapter(folder / "adapter", factors, base=str(pair.base))
    return folder


def _peak(
    verb: str, folder: Path, inputs: tuple[str, str], more: list[str], options: argparse.Namespace
) -> int:
    """Bytes of one run."""
    output = folder / "out"
    command = [sys.executable, "-m", "loratools", verb, *(str(folder / one) for one in inputs)]
    command += [*more, "-o", str(output), "--workers", str(options.workers)]
    peak = run(Contender(verb, command, output)).peak
    clear(output)
    return peak


if __name__ == "__main__":
    main()
