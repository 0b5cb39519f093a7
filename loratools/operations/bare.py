"""Bare runs: a verb without references works on the sample, and the next one may replace what it wrote.

A ledger in `loratools-sample/` keeps the hash of each bare output's provenance. An output is replaced only
while it still is the one that a bare run left there; anything else is refused, as everywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loratools import sample
from loratools.checkpoints import provenance
from loratools.checkpoints.reference import SAMPLE
from loratools.errors import LoratoolsError

BASE, TUNED, ADAPTER = (SAMPLE + name for name in ("base", "tuned", "lora-r8"))
"""The members of the sample that bare runs work on."""

OTHER_ADAPTER = SAMPLE + "lora-r8-seed2"
"""The one that is combined with the first: the same training from another seed."""

FOLDER = Path("loratools-sample")
"""Where bare runs write, in the current folder."""

_LEDGER = ".bare-runs.json"


def everything() -> tuple[str, ...]:
    """References of all that the sample holds."""
    return tuple(SAMPLE + name for name in sample.names())


@dataclass(frozen=True)
class Target:
    """Where a run writes (None in a dry run that names nothing), and whether it may replace what is there."""

    path: Path | None
    force: bool


@contextmanager
def bare_run(name: str, *, force: bool, dry_run: bool = False, folder: Path = FOLDER) -> Iterator[Target]:
    """Yields the target `folder/name`; once the block has run, what was written there counts as a bare run's.

    Args:
        name: the verb, or a path of its own below the folder (`demo/merged`).
        force: replace what stands there even if no bare run left it.
        dry_run: nothing will be written, so nothing is to be remembered.

    Raises:
        LoratoolsError: something stands there that no bare run left, and `force` is not given.
    """
    target = folder / name
    ledger = _read(folder / _LEDGER)
    ours = name in ledger and ledger[name] == _fingerprint(target)
    if target.exists() and not ours and not force:
        raise LoratoolsError(
            "exists, and no run without references left it",
            file=target,
            hint="move it, name another folder with -o, or replace it with --force",
        )
    yield Target(target, force or ours)
    fingerprint = _fingerprint(target)
    if fingerprint is not None and not dry_run:
        _write(folder / _LEDGER, {**_read(folder / _LEDGER), name: fingerprint})


def _fingerprint(output: Path) -> str | None:
    try:
        return hashlib.sha256((output / provenance.FILE).read_bytes()).hexdigest()
    except OSError:
        return None


def _read(ledger: Path) -> dict[str, str]:
    try:
        entries = json.loads(ledger.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {str(name): str(value) for name, value in entries.items()}


def _write(ledger: Path, entries: dict[str, str]) -> None:
    partial = ledger.with_name(f"{ledger.name}.partial-{os.getpid()}")
    partial.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(ledger)
