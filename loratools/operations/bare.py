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
from loratools.checkpoints import provenance, system
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import again, has_name, read_bytes, status, write_text
from loratools.checkpoints.jsonfile import read_json
from loratools.checkpoints.reference import SAMPLE
from loratools.checkpoints.trees import remove
from loratools.errors import LoratoolsError

BASE, TUNED, ADAPTER = (SAMPLE + name for name in ("base", "tuned", "lora-r8"))
"""The members of the sample that bare runs work on."""

OTHER_ADAPTER = SAMPLE + "lora-r8-seed2"
"""The one that is combined with the first: the same training from another seed."""

FOLDER = Path("loratools-sample")
"""Where bare runs write, in the current folder."""

_LEDGER = ".bare-runs.json"
_LEDGER_BYTES = 1_000_000


def everything() -> tuple[str, ...]:
    """References of all that the sample holds."""
    return tuple(SAMPLE + name for name in sample.names())


@dataclass(frozen=True)
class Target:
    """Where a run writes (None in a dry run that names nothing), and whether it may replace what is there."""

    path: Path | None
    force: bool

    def identity(self) -> tuple[int, int] | None:
        """What stands there now, as the file system tells it from all else; None where nothing does."""
        try:
            found = None if self.path is None else status(self.path, follow=False)
        except OSError:
            return None
        return None if found is None else (found.st_dev, found.st_ino)


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
    with disk_errors(target, "look at the output"):
        there = has_name(target)
    if there and not ours and not force:
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
        told = read_bytes(output / provenance.FILE, provenance.SIZE_LIMIT)
    except OSError:
        return None
    return hashlib.sha256(told).hexdigest()


def _read(ledger: Path) -> dict[str, str]:
    try:
        entries = read_json(ledger, _LEDGER_BYTES)
    except LoratoolsError:
        return {}
    return {name: value for name, value in entries.items() if isinstance(value, str)}


def _write(ledger: Path, entries: dict[str, str]) -> None:
    partial = ledger.with_name(f"{ledger.name}.new-{os.urandom(4).hex()}")
    with disk_errors(ledger):
        try:
            write_text(partial, json.dumps(entries, indent=2, sort_keys=True) + "\n")
            again(system.calls.rename, partial, ledger)
        except BaseException:
            remove(partial)
            raise
