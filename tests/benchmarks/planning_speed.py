"""Plans of 10,000 tensors and of 1,000 adapters, and verbs on factors alone, as whole commands.

    python tests/benchmarks/planning_speed.py
    python tests/benchmarks/planning_speed.py --tensors 100 --adapters 3 --modules 4 --runs 1  # smoke test

Medians of wall clock, of processor time and of the peak of anonymous memory, start of the interpreter
included; Python's bytecode lies in a folder of its own, warm, as an installed package's does. What
`python -c pass` and `--help` take, all take. A dry run reads headers alone; its table goes to /dev/null.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from fixtures.load import many_adapters, many_tensors, moved
from fixtures.lora_files import write_adapter
from tests.benchmarks.paired import Contender, run

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tensors", type=int, default=10_000)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--modules", type=int, default=200, help="of width 2048 and rank 16, for factors")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="planning-speed-") as name:
        folder = Path(name)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
        environment["PYTHONDONTWRITEBYTECODE"] = ""
        print("| command | wall clock, s | processor, s | peak memory, MB |\n|---|---|---|---|")
        for what, words in _commands(folder, options):
            contender = Contender(what, [sys.executable, *words], folder / "out", environment)
            run(contender)  # warm: page cache, bytecode
            found = [run(contender) for _ in range(options.runs)]
            figures = (
                f"{statistics.median(one.wall for one in found):.2f}",
                f"{statistics.median(one.processor for one in found):.2f}",
                f"{statistics.median(one.peak for one in found) / 1e6:.0f}",
            )
            print(f"| {what} | {' | '.join(figures)} |", flush=True)


def _commands(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """(what is measured, words after the interpreter)."""
    wide = many_tensors(folder / "wide", options.tensors, shards=4)
    moved(folder / "wide-tuned", wide, shards=4)
    adapter = str(many_adapters(folder / "wide-adapters", wide, 1)[0])
    few = many_tensors(folder / "few", 40)
    adapters = list(map(str, many_adapters(folder / "adapters", few, options.adapters)))
    base, tuned, small = (str(folder / name) for name in ("wide", "wide-tuned", "few"))
    yield "python -c pass", ["-c", "pass"]
    yield "--help", _verb("--help")
    yield "merge --dry-run of 40 tensors", _verb("merge", small, adapters[0], "--dry-run", "--quiet")
    merge = ["merge", base, adapter, "--dry-run"]
    yield f"merge --dry-run of {options.tensors:,} tensors, --quiet", _verb(*merge, "--quiet")
    yield "the same, every tensor in a table", _verb(*merge)
    yield "the same, --json", _verb(*merge, "--json")
    extract = ["extract", base, tuned, "--rank", "2", "--dry-run", "--quiet"]
    yield f"extract --dry-run of {options.tensors:,} tensors", _verb(*extract)
    many = ["merge", small, *adapters, "--dry-run", "--quiet"]
    yield f"merge --dry-run of {options.adapters:,} adapters", _verb(*many)
    one, two = (_factors(folder / f"factors-{seed}", options.modules, seed) for seed in range(2))
    yield f"analyze ADAPTER ADAPTER, {options.modules} modules", _verb("analyze", one, two, "--quiet")
    yield "analyze ADAPTER", _verb("analyze", one, "--quiet")
    yield "inspect ADAPTER ADAPTER", _verb("inspect", one, two, "--quiet")
    out = str(folder / "out")
    yield "resize ADAPTER --rank 8", _verb("resize", one, "--rank", "8", "-o", out, "--quiet")
    yield "combine ADAPTER ADAPTER", _verb("combine", one, two, "-o", out, "--quiet")


def _verb(*words: str) -> list[str]:
    return ["-m", "loratools", *words]


def _factors(folder: Path, modules: int, seed: int) -> str:
    """An adapter of square linear layers."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        f"model.layers.{at}.self_attn.q_proj": (
            0.02 * torch.randn((16, 2048), generator=generator),
            0.02 * torch.randn((2048, 16), generator=generator),
        )
        for at in range(modules)
    }
    return str(write_adapter(folder, factors, base="some/base"))


if __name__ == "__main__":
    main()
