"""`loratools extract` beside mergekit-extract-lora, rank 16, on a pair of Llama layers in bf16.

    python tests/benchmarks/extract_speed.py --mergekit PEER/bin/mergekit-extract-lora

The peer lives in a virtual environment of its own (`pip install torch==2.13.0 mergekit`). Both are timed as a
user runs them, start of the interpreter and imports included, in turn, in one run; the page cache is warm.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Figures
from fixtures.pairs import llama_pair
from tests.benchmarks.paired import COLUMNS, Contender, compared, pairs, table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mergekit", required=True, help="the peer's mergekit-extract-lora")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()

    loratools = shutil.which("loratools", path=sysconfig.get_path("scripts"))
    if loratools is None:
        parser.error("loratools is not installed beside this Python")
    with tempfile.TemporaryDirectory(prefix="extract-speed-") as work:
        pair = llama_pair(Path(work), layers=options.layers)
        ours, theirs = Path(work) / "ours", Path(work) / "theirs"
        rank = str(options.rank)
        first = Contender(
            "mergekit-extract-lora",
            [
                options.mergekit,
                *("--model", str(pair.tuned), "--base-model", str(pair.base), "--out-path", str(theirs)),
                *("--max-rank", rank, "--no-write-model-card", "--no-copy-tokenizer"),
            ],
            theirs,
        )
        second = Contender(
            "loratools extract",
            [loratools, "extract", str(pair.base), str(pair.tuned), "-o", str(ours), "--rank", rank],
            ours,
        )
        runs = pairs(first, second, options.pairs)
        print(table(first, second, runs))
    if options.write:
        words = f"--mergekit mergekit-extract-lora --layers {options.layers} --pairs {options.pairs} --write"
        Figures(
            f"python tests/benchmarks/extract_speed.py {words}",
            COLUMNS,
            compared(first, second, runs),
            f"{options.layers} layers, rank {options.rank}; medians of {options.pairs} pairs.",
        ).write(f"extract_speed-{options.layers}-layers")


if __name__ == "__main__":
    main()
