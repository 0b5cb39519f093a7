"""What dry runs foretell beside what runs take: seconds, peak memory and bytes written, with the errors.

    python tests/benchmarks/estimates.py --write
    python tests/benchmarks/estimates.py --layers 1 --hidden 256 --ffn 512     # a smoke test
    python tests/benchmarks/estimates.py --models FOLDER      # that holds base, tuned and adapter

Every command runs once on the pair of fewer layers, which calibrates; then a dry run of each, on both
pairs, stands beside a run, as a user starts them: seconds are wall clock of the process, the start of Python
and all imports included. Memory is what `peak_bytes` says. What the measured runs teach is not used.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Figures
from fixtures.lora_files import lora_factors, write_adapter
from fixtures.pairs import llama_pair

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
COLUMNS = (
    "command", "layers",
    "seconds foretold", "taken", "off by",
    "memory foretold, MB", "peak, MB", "off by",
    "bytes foretold", "written", "off by",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command by what the table calls it; `{base}` and the like stand for folders of the model.

    `long`: it takes minutes, and so runs on the first model alone.
    """

    name: str
    words: tuple[str, ...]
    writes: bool = True
    long: bool = False


CASES = (
    Case("extract --rank 4", ("extract", "{base}", "{tuned}", "--rank", "4")),
    Case("extract --rank 16", ("extract", "{base}", "{tuned}", "--rank", "16")),
    Case("extract --rank 64", ("extract", "{base}", "{tuned}", "--rank", "64"), long=True),
    Case("merge", ("merge", "{base}", "{adapter}")),
    Case("merge --undo", ("merge", "{base}", "{adapter}", "--undo")),
    Case("unmerge, by its record", ("unmerge", "{merged}")),
    Case("unmerge, by subtraction", ("unmerge", "{plain}", "{adapter}")),
    Case("resize --rank 8", ("resize", "{adapter}", "--rank", "8")),
    Case("combine --method svd", ("combine", "{adapter}", "{adapter}", "--method", "svd")),
    Case("analyze, a fine-tune", ("analyze", "{base}", "{tuned}", "--rank", "16"), writes=False),
    Case("verify", ("verify", "{merged}"), writes=False),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--ffn", type=int, default=8192)
    parser.add_argument("--rank", type=int, default=16, help="of the adapter")
    parser.add_argument("--models", type=Path, nargs="+", help="folders to take instead, the smallest first")
    parser.add_argument("--only", default="", help="commands whose names hold this")
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    rows: list[tuple[str | int | float, ...]] = []
    with tempfile.TemporaryDirectory(prefix="estimates-") as scratch:
        work = Path(scratch)
        models = options.models or [_model(work / f"l{layers}", layers, options) for layers in options.layers]
        cases = [case for case in CASES if options.only in case.name]
        os.sync()  # what was just made is written now, and not beside the first runs
        for place, model in enumerate(models):
            layers = json.loads((model / "base" / "config.json").read_text())["num_hidden_layers"]
            folders = _folders(model, work)
            for case in cases if place == 0 else ():
                _run(case, folders, work, cache="known", output=True)  # calibrates
            for case in (case for case in cases if place == 0 or not case.long):
                rows.append((case.name, layers, *_compared(case, folders, work)))
                print(*rows[-1], sep=" | ", flush=True)
            shutil.rmtree(work / "merged")
            shutil.rmtree(work / "plain")
    figures = Figures("python tests/benchmarks/estimates.py --write", COLUMNS, rows)
    print(figures.markdown())
    if options.write:
        figures.write("estimates")


def _model(folder: Path, layers: int, options: argparse.Namespace) -> Path:
    """A pair and an adapter of all its linear layers."""
    from safetensors.torch import load_file

    pair = llama_pair(folder, layers=layers, hidden=options.hidden, ffn=options.ffn, shards=max(1, layers))
    shards = sorted(pair.base.glob("*.safetensors"))
    tensors = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    write_adapter(folder / "adapter", lora_factors(tensors, rank=options.rank, modules=MODULES), base="base")
    return folder


def _folders(model: Path, work: Path) -> dict[str, str]:
    """What the cases call the model's folders; merges once, for what comes after a merge."""
    merged = work / "merged"
    folders = {name: str(model / name) for name in ("base", "tuned", "adapter")}
    words = ["merge", folders["base"], folders["adapter"], "--undo", "-o", str(merged)]
    _loratools(words, work / "nowhere")
    plain = work / "plain"  # the same without its record
    plain.mkdir()
    for path in merged.iterdir():
        if path.name != "loratools-undo":
            (plain / path.name).hardlink_to(path)
    return {**folders, "merged": str(merged), "plain": str(plain)}


def _compared(case: Case, folders: dict[str, str], work: Path) -> Iterator[str | int | float]:
    """The cells of a row behind its name."""
    foretold, _, _ = _run(case, folders, work, cache="known", output=False)
    plan = foretold["plan"]
    report, seconds, written = _run(case, folders, work, cache="thrown away", output=True)
    yield from _beside(plan["estimated_seconds"], seconds, 1)
    yield from _beside(plan["memory_bytes"] / 1e6, report["peak_bytes"] / 1e6, 0)
    if not case.writes:
        yield from ("", "", "")
        return
    off = plan["write_bytes"] - written
    yield from (
        f"{plan['written']} {plan['write_bytes']:,}",
        written,
        "0" if not off else _percent(off, written),
    )


def _beside(foretold: float, found: float, digits: int) -> Iterator[str]:
    yield from (f"{foretold:.{digits}f}", f"{found:.{digits}f}", _percent(foretold - found, found))


def _percent(off: float, found: float) -> str:
    return f"{100 * off / found:+.1f} %"


def _run(
    case: Case, folders: dict[str, str], work: Path, *, cache: str, output: bool
) -> tuple[dict[str, Any], float, int]:
    """(the report, seconds of the process, bytes written); a dry run where no output is wanted."""
    words = [word.format(**folders) for word in case.words]
    target = work / "out"
    if not output:
        words.append("--dry-run")
    elif case.writes:
        words += ["-o", str(target)]
    report, seconds = _loratools(words, work / cache)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) if target.exists() else 0
    if target.exists():
        shutil.rmtree(target)
    return report, seconds, size


def _loratools(words: list[str], cache: Path) -> tuple[dict[str, Any], float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LORATOOLS_CACHE": str(cache)}
    before = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "loratools", *words, "--json"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - before
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr[-1000:]}")
    return json.loads(done.stdout), seconds


if __name__ == "__main__":
    main()
