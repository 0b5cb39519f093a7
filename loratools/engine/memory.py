"""The peak of anonymous memory of a run, sampled: what `peak_bytes` in every report is.

Anonymous memory is what a process allocates; pages of files that the kernel caches do not count, since it
takes them back when it needs them.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType

SAMPLE_SECONDS = 0.01
"""Time between samples: an allocation that lives for less may be missed."""

_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Samples the memory of this process in a thread of its own, for as long as the block runs.

    >>> with PeakMemory() as memory:
    ...     buffer = bytearray(1000)
    >>> memory.peak_bytes is None or memory.peak_bytes > 1000
    True

    `peak_bytes` is the largest sample so far in bytes. Where the system has no RssAnon (anything but Linux)
    it is the process's largest resident size since it began, and None where that is not known either.
    """

    def __init__(self) -> None:
        self._peak: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loratools-memory", daemon=True)

    @property
    def peak_bytes(self) -> int | None:
        if not self._stop.is_set():
            self._sample()
        return self._peak

    def __enter__(self) -> PeakMemory:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sample()
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        now = anonymous_bytes()
        if now is None:
            now = _largest_resident_bytes()
        if now is not None:
            self._peak = now if self._peak is None else max(self._peak, now)


def anonymous_bytes() -> int | None:
    """Anonymous resident memory of this process in bytes (RssAnon); None where the system does not say."""
    try:
        status = _STATUS.read_bytes()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(b"RssAnon:"):
            return int(line.split()[1]) * 1024
    return None


def _largest_resident_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
