"""Two commands timed in turn, A B A B ..., in one run: wall clock, processor time and peak anonymous memory.

The machine's speed drifts; the ratio of neighbours does not. Memory is the sum of RssAnon over the command's
process tree, sampled every 20 ms (Linux only): page cache, which any reader of files fills, is not in it.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One run of a command: seconds of wall clock and of processor time, peak bytes of anonymous memory."""

    wall: float
    processor: float
    peak: int


@dataclass(frozen=True)
class Contender:
    """A command, and what has to be cleared away before it can run again."""

    name: str
    command: Sequence[str]
    output: Path
    environment: dict[str, str] | None = None


def run(contender: Contender) -> Run:
    """Runs the command once, in a process of its own. Raises RuntimeError, with its stderr, if it fails."""
    clear(contender.output)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(contender.environment or {})}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(contender.command), stdout=subprocess.DEVNULL, stderr=errors, env=environment
        )
        peak = _peak_until_end(process)
        wall = time.perf_counter() - start
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{contender.name} exited {process.returncode}: {errors.read()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, processor, peak)


def pairs(
    first: Contender, second: Contender, count: int, *, between: Callable[[], None] | None = None
) -> tuple[list[Run], list[Run]]:
    """One uncounted run of each, then `count` of each in turn; `between` is called before every run."""
    runs: tuple[list[Run], list[Run]] = ([], [])
    for turn in range(count + 1):
        for contender, kept in zip((first, second), runs, strict=True):
            if between:
                between()
            result = run(contender)
            if turn:
                kept.append(result)
            print(f"  {contender.name}: {result.wall:.2f} s", file=sys.stderr)
    return runs


def table(first: Contender, second: Contender, runs: tuple[list[Run], list[Run]]) -> str:
    """A Markdown table of medians (and ranges), with the ratio first / second taken pair by pair."""
    lines = [f"| | {first.name} | {second.name} | ratio, median (range) |", "|---|---|---|---|"]
    columns: tuple[tuple[str, Callable[[Run], float]], ...] = (
        ("wall clock, s", lambda one: one.wall),
        ("processor time, s", lambda one: one.processor),
        ("peak anonymous memory, MB", lambda one: one.peak / 1e6),
    )
    for label, figure in columns:
        one, other = ([figure(result) for result in results] for results in runs)
        ratios = [a / b for a, b in zip(one, other, strict=True)]
        lines.append(
            f"| {label} | {statistics.median(one):.2f} | {statistics.median(other):.2f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    return "\n".join(lines)


def clear(output: Path) -> None:
    """Removes what an earlier run wrote."""
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)


def _peak_until_end(process: subprocess.Popen[bytes]) -> int:
    """Waits for the process and returns the peak of its tree's anonymous memory, in bytes."""
    peak = 0
    while True:
        peak = max(peak, sum(_anonymous(one) for one in _tree(process.pid)))
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        return peak


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def _anonymous(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
