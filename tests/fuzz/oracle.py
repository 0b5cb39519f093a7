"""What a reader may do with any bytes: answer, or refuse in one printable line, soon and in little memory."""

from __future__ import annotations

import resource
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from loratools.errors import LoratoolsError
from tests.fuzz.readers import Reader

__all__ = ["Finding", "judge", "limit_memory"]

MOST_SECONDS = 1.0
SLOW = f"more than {MOST_SECONDS} s"
LONGEST_LINE = 8000
MEMORY = 512_000_000


@dataclass(frozen=True)
class Finding:
    """Something else than an answer or a refusal: what, and where, which tells findings apart."""

    reader: str
    what: str
    where: str
    document: bytes

    @property
    def key(self) -> tuple[str, str]:
        return self.what, self.where

    @property
    def slow(self) -> bool:
        return self.what == SLOW


def judge(reader: Reader, document: bytes) -> Finding | None:
    """None if the reader did what it may."""
    started = time.perf_counter()
    try:
        reader.read(document)
    except LoratoolsError as error:
        line = str(error)
        if not line.isprintable() or len(line) > LONGEST_LINE:
            return Finding(reader.name, "no printable line", _where(error), document)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Finding(reader.name, f"{type(error).__name__}: {str(error)[:80]}", _where(error), document)
    if time.perf_counter() - started > MOST_SECONDS:
        return Finding(reader.name, SLOW, "", document)
    return None


def limit_memory() -> None:
    """From here on the process may take so much more than it has: what needs more is a MemoryError."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))


def _where(error: BaseException) -> str:
    """The last line of the package that the error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "loratools/" in frame.filename]
    last = frames[-1] if frames else None
    return "" if last is None else f"{last.filename.rpartition('loratools/')[2]}:{last.lineno} {last.name}"
