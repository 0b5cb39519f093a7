"""The fuzzing campaign: every reader in a process of its own, guided by coverage where atheris is here.

`python -m tests.fuzz.campaign --runs 60000 --out FOLDER` writes what was found (minimised, one file each) and
`figures.json`: executions and findings by reader. Without atheris (`pip install atheris`) the variations are
drawn blindly, from the seeds and from what they led to.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_KEPT = re.compile(r".*-[0-9a-f]{12}")
"""A file with a finding's document."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60_000, help="executions of each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reader", action="append", help="only these, by name")
    parser.add_argument("--write", action="store_true", help="only sum up what lies in OUT, for the docs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        _write_table(asked.out)
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.one:
        _fuzz(asked.one, asked.runs, asked.seed, asked.out)
        return
    for name in asked.reader or _names():
        words = ["--one", name, "--runs", str(asked.runs), "--seed", str(asked.seed), "--out", str(asked.out)]
        subprocess.run([sys.executable, "-m", "tests.fuzz.campaign", *words], check=False)
        _sum_up(asked.out)


def _names() -> list[str]:
    from tests.fuzz.readers import READERS

    return [reader.name for reader in READERS]


def _sum_up(out: Path) -> None:
    parts = [json.loads(path.read_text()) for path in sorted(out.glob("figures-*.json"))]
    (out / "figures.json").write_text(json.dumps(parts, indent=2) + "\n")


def _write_table(out: Path) -> None:
    """The table of all rounds in a folder; what they found is tried again."""
    from fixtures.campaign_figures import Figures
    from tests.fuzz.oracle import judge
    from tests.fuzz.readers import READERS

    parts = [json.loads(path.read_text()) for path in sorted(out.rglob("figures-*.json"))]
    rows: list[tuple[str, int, int, int]] = []
    for reader in READERS:
        own = [part for part in parts if part["reader"] == reader.name]
        found = {one["what"] for part in own for one in part["findings"]}
        kept = [path for path in out.rglob(f"{_plain(reader.name)}-*") if _KEPT.fullmatch(path.name)]
        left = sum(judge(reader, path.read_bytes()) is not None for path in kept)
        rows.append((reader.name, sum(part["executions"] for part in own), len(found), left))
    total = ("all", *(sum(int(row[column]) for row in rows) for column in (1, 2, 3)))
    Figures(
        "python -m tests.fuzz.campaign --runs 60000 --out FOLDER",
        ("reader", "executions", "found", "found and still there"),
        (*rows, total),
    ).write("fuzzing")


class _Round:
    """The executions of one reader so far, and what they found."""

    def __init__(self, name: str, runs: int, out: Path, *, guided: bool) -> None:
        from tests.fuzz import oracle, readers

        self._judge = oracle.judge
        self.reader = next(reader for reader in readers.READERS if reader.name == name)
        self._runs, self._out, self._guided = runs, out, guided
        self._found: dict[tuple[str, str], Any] = {}
        self._started = time.monotonic()
        self.executions = 0
        oracle.limit_memory()

    def once(self, document: bytes) -> None:
        self.executions += 1
        finding = self._judge(self.reader, document)
        if finding is not None and finding.slow:  # once may be the machine's own doing
            finding = self._judge(self.reader, document)
        if finding is not None and finding.key not in self._found:
            small = _minimised(self, finding)
            self._found[finding.key] = small
            name = hashlib.sha256(small.document).hexdigest()[:12]
            (self._out / f"{_plain(self.reader.name)}-{name}").write_bytes(small.document)
            print(f"{self.reader.name}: {small.what} at {small.where}: {small.document[:200]!r}", flush=True)
        if self.executions % 1000 == 0 or self.executions == self._runs:
            self._write()
        if self.executions >= self._runs:
            atexit._run_exitfuncs()
            os._exit(0)

    def again(self, document: bytes) -> Any:
        return self._judge(self.reader, document)

    def _write(self) -> None:
        figures = {
            "reader": self.reader.name,
            "executions": self.executions,
            "guided": self._guided,
            "seconds": round(time.monotonic() - self._started, 1),
            "findings": [{"what": one.what, "where": one.where} for one in self._found.values()],
        }
        path = self._out / f"figures-{_plain(self.reader.name)}.json"
        path.write_text(json.dumps(figures, indent=2) + "\n")


def _fuzz(name: str, runs: int, seed: int, out: Path) -> None:
    try:
        import atheris
    except ImportError:
        _blindly(_Round(name, runs, out, guided=False), seed)
        return
    with atheris.instrument_imports(include=["loratools"]):
        round_ = _Round(name, runs, out, guided=True)
    from tests.fuzz.variations import varied

    corpus = out / f"corpus-{_plain(name)}"
    corpus.mkdir(exist_ok=True)
    for number, document in enumerate(round_.reader.seeds):
        (corpus / f"seed-{number}").write_bytes(document)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.7:
            return varied(data, round_.reader.kind, rng)[:most]
        return atheris.Mutate(data, most)

    words = [
        sys.argv[0],
        str(corpus),
        f"-seed={seed}",
        "-max_len=6000",
        "-timeout=60",
        "-print_final_stats=0",
    ]
    with contextlib.suppress(SystemExit):
        atheris.Setup(words, round_.once, custom_mutator=mutate)
        atheris.Fuzz()


def _blindly(round_: _Round, seed: int) -> None:
    from tests.fuzz.variations import varied

    rng = random.Random(seed)
    pool = list(round_.reader.seeds)
    while True:
        document = varied(rng.choice(pool), round_.reader.kind, rng)[:6000]
        round_.once(document)
        if len(pool) < 500 or rng.random() < 0.01:
            pool[len(pool) % 500 :] = [document]


def _minimised(round_: _Round, finding: Any) -> Any:
    """The finding with as little of its document as still leads to it; half a minute at most."""
    best, size, until = finding, len(finding.document) // 2, time.monotonic() + 30
    while size and time.monotonic() < until:
        at = 0
        while at < len(best.document) and time.monotonic() < until:
            shorter = best.document[:at] + best.document[at + size :]
            found = round_.again(shorter)
            if found is not None and found.key == finding.key:
                best = found
            else:
                at += size
        size //= 2
    return best


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


if __name__ == "__main__":
    main()
