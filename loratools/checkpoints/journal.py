"""The journal of a run: what it was asked to do, and each job that it finished, a line each.

A line is JSON after a hash of it, so that one that a kill tore, or that was damaged since, is passed over.
None is flushed to the disk by itself: what a line says is believed only where the bytes that it speaks of
have the hashes that it states. Nothing in it is a path that anybody follows.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from loratools.checkpoints import system
from loratools.checkpoints.files import again, close_handle, named, open_handle, reading, write_all
from loratools.checkpoints.jsonfile import parse_object
from loratools.errors import LoratoolsError

SCHEMA = 1

LINE_BYTES = 16_000_000
"""The longest line that is looked at; a job on a vocabulary of a million tokens writes half of it."""

JOURNAL_BYTES = 256_000_000
"""How much of a journal is looked at: some hundred thousand jobs. What comes after it was not done, then."""

_SEAL = 32
"""Hexadecimal digits of the hash before each line."""

_APPENDING = threading.Lock()


@dataclass(frozen=True)
class Line:
    """A job that was finished: its key, the hashes of the files that it left, and its result."""

    job: str
    files: Mapping[str, str]
    result: Any


@dataclass(frozen=True)
class Journal:
    """The file of that name in a run's partial folder; nothing is kept open, so it travels with jobs."""

    path: Path

    def begin(self, header: Mapping[str, Any]) -> None:
        """Writes the first line. Raises OSError, as everything here that writes."""
        self._append({"schema": SCHEMA, **header}, create=True)

    def go_on(self) -> None:
        """Ends a line that a kill may have torn, so that the next one is whole."""
        self._write(b"\n", 0)

    def note(self, event: str, **facts: Any) -> None:
        """Writes a line that is about the run itself."""
        self._append({"event": event, **facts})

    def add(self, line: Line) -> None:
        self._append({"job": line.job, "files": dict(line.files), "result": line.result})

    def header(self) -> dict[str, Any] | None:
        """The first line; None where there is none that holds, of a schema that is known."""
        first = next(self._lines(), None)
        return first if first is not None and first.get("schema") == SCHEMA else None

    def events(self) -> dict[str, dict[str, Any]]:
        """The last line of each event, by its name."""
        return {str(line["event"]): line for line in self._lines() if "event" in line}

    def jobs(self) -> dict[str, Line]:
        """The jobs that were finished, by key; a later line holds instead of an earlier one."""
        return {line.job: line for line in map(_line, self._lines()) if line is not None}

    def has_jobs(self) -> bool:
        return any(_line(line) is not None for line in self._lines())

    def _append(self, content: Mapping[str, Any], *, create: bool = False) -> None:
        self._write(sealed(content), os.O_CREAT if create else 0)

    def _write(self, data: bytes, flags: int) -> None:
        with _APPENDING:
            handle = open_handle(self.path, os.O_WRONLY | system.NO_LINK | flags)
            try:
                with named(self.path):
                    write_all(handle, memoryview(data), again(system.calls.fstat, handle).st_size)
            finally:
                close_handle(handle)

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The lines that hold; nothing where the file is missing."""
        with contextlib.suppress(FileNotFoundError), reading(self.path) as file:
            looked_at = 0
            while data := file.readline(LINE_BYTES + 1):
                looked_at += len(data)
                if looked_at > JOURNAL_BYTES:
                    return
                found = unsealed(data, self.path)
                if found is not None:
                    yield found


def sealed(content: Mapping[str, Any]) -> bytes:
    """A line of the journal: the hash of the text, and the text."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return _seal(text) + b" " + text + b"\n"


def unsealed(data: bytes, path: Path) -> dict[str, Any] | None:
    """What a line says; None where it is torn, damaged or no object."""
    if not data.endswith(b"\n") or data[_SEAL : _SEAL + 1] != b" ":
        return None
    text = data[_SEAL + 1 : -1]
    if data[:_SEAL] != _seal(text):
        return None
    try:
        return parse_object(text, path)
    except LoratoolsError:
        return None


def _seal(text: bytes) -> bytes:
    return blake3(text).hexdigest()[:_SEAL].encode()


def _line(found: Mapping[str, Any]) -> Line | None:
    job, files = found.get("job"), found.get("files")
    if not isinstance(job, str) or not isinstance(files, dict):
        return None
    if not all(isinstance(root, str) for root in files.values()):
        return None
    return Line(job, files, found.get("result"))
