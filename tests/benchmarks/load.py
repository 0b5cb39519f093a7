"""Load: plans of very many tensors and adapters, very many shards under few open files, eight runs at once.

    python tests/benchmarks/load.py --write

Wall-clock seconds of whole commands and those that they kept a processor busy, the start of Python
included, and the most files that they had open, sampled. Eight runs at once share inputs, and each must
write what a run alone writes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.campaign_figures import Figures
from fixtures.fault_runs import tree, write_inputs
from fixtures.load import many_adapters, many_tensors, moved

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("what", "seconds", "of a processor", "open files at most")


@dataclass(frozen=True)
class Measured:
    """A command that ran: seconds, those of a processor, and files open at most."""

    seconds: float
    processor: float
    files: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep the figures for the documentation")
    options = parser.parse_args()
    rows: list[tuple[str | int | float, ...]] = []
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        folder = Path(name)
        for what, words, few in _commands(folder):
            found = measure(words, few_open_files if few else None)
            seconds, processor = round(found.seconds, 1), round(found.processor, 1)
            rows.append((what, seconds, processor, found.files))
            print(*rows[-1], sep=" | ", flush=True)
        alone, together = _eight_at_once(folder)
        size = round((folder / "inputs" / "base" / "model.safetensors").stat().st_size / 1e6)
        rows.append((f"merge a base of {size} MB", round(alone.seconds, 1), round(alone.processor, 1), ""))
        rows.append(("eight of these at once, on the same inputs", round(together, 1), "", ""))
    figures = Figures("python tests/benchmarks/load.py --write", COLUMNS, rows)
    print(figures.markdown())
    if options.write:
        figures.write("load")


def _commands(folder: Path) -> list[tuple[str, list[str], bool]]:
    """(what is measured, the command, whether it may have 128 files open)."""
    wide = many_tensors(folder / "wide", 10_000, shards=4)
    moved(folder / "wide-tuned", wide, shards=4)
    wide_adapter = str(many_adapters(folder / "wide-adapters", wide, 1)[0])
    few = many_tensors(folder / "few", 40)
    adapters = [str(path) for path in many_adapters(folder / "adapters", few, 1000)]
    split = many_tensors(folder / "split", 1000, shards=1000)
    moved(folder / "split-tuned", split, shards=1000)
    split_adapter = str(many_adapters(folder / "split-adapters", split, 1)[0])
    base, tuned, parts = (str(folder / name) for name in ("wide", "wide-tuned", "split"))
    out = str(folder / "out")
    return [
        ("plan a merge of 10,000 tensors", ["merge", base, wide_adapter, "--dry-run"], False),
        ("plan an extraction of 10,000 tensors", ["extract", base, tuned, "--rank", "2", "--dry-run"], False),
        ("plan a merge of 1,000 adapters", ["merge", str(folder / "few"), *adapters, "--dry-run"], False),
        ("merge 10,000 tensors", ["merge", base, wide_adapter, "-o", f"{out}-1"], False),
        ("merge 1,000 adapters", ["merge", str(folder / "few"), *adapters, "-o", f"{out}-2"], True),
        ("merge 1,000 shards", ["merge", parts, split_adapter, "-o", f"{out}-3"], True),
        ("merge --undo 1,000 shards", ["merge", parts, split_adapter, "-o", f"{out}-4", "--undo"], True),
        ("unmerge 1,000 shards by record", ["unmerge", f"{out}-4", "-o", f"{out}-5"], True),
        ("extract from 1,000 shards",
         ["extract", parts, str(folder / "split-tuned"), "--rank", "2", "-o", f"{out}-6"], True),
    ]  # fmt: skip


def measure(words: list[str], limit: Callable[[], None] | None = None) -> Measured:
    """Runs a command and watches its open files."""
    before = time.perf_counter()
    process = _start(words, limit)
    most = 0
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        with contextlib.suppress(OSError):  # it is gone
            most = max(most, len(list(Path(f"/proc/{process.pid}/fd").iterdir())))
        time.sleep(0.005)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{words[:3]} ended with {process.returncode}")
    seconds = time.perf_counter() - before
    return Measured(seconds, usage.ru_utime + usage.ru_stime, most)


def few_open_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))


def _eight_at_once(folder: Path) -> tuple[Measured, float]:
    """One run, and the seconds of eight at once on the same inputs; all must write the same."""
    write_inputs(folder / "inputs", hidden=1024, layers=3)
    words = ["merge", str(folder / "inputs" / "base"), str(folder / "inputs" / "adapter"), "-o"]
    alone = measure([*words, str(folder / "alone")])
    before = time.perf_counter()
    runs = [_start([*words, str(folder / f"at-once-{number}")], None) for number in range(8)]
    codes = [run.wait() for run in runs]
    together = time.perf_counter() - before
    expected = tree(folder / "alone")
    same = all(tree(folder / f"at-once-{number}") == expected for number in range(8))
    if any(codes) or not same:
        raise RuntimeError(f"eight runs at once ended with {codes}, their outputs alike: {same}")
    return alone, together


def _start(words: list[str], limit: Callable[[], None] | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "loratools", *words, "--quiet"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        preexec_fn=limit,
    )


if __name__ == "__main__":
    main()
