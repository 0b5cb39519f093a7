"""What of the machine this process may use: processors and memory, limits of containers included.

Linux tells it in files: `/proc/meminfo`, and the control groups of the process (version 2 or 1, each of which
may lie within others that are narrower). Elsewhere processors are counted, and no limit of memory is known.

Sources: the kernel's `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`, and proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["memory_left", "processors"]

_ROOT = Path("/")
_UNLIMITED = 2**60
"""Bytes from which on a limit is none: version 1 says so with the largest multiple of a page."""


def processors(root: Path = _ROOT) -> int:
    """Processors that this process may keep busy: those it may run on, or a container's share of them.

    A share of one and a half is two: the second one is idle half of the time, and not all of it.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [share for group in _groups(root) for share in [group.processors()] if share is not None]
    return max(1, min([allowed, *shares]))


def memory_left(root: Path = _ROOT) -> int | None:
    """Bytes that can still be allocated before the system or a container refuses; None where nobody says.

    Pages of files that the kernel caches count as free: it takes them back when it needs them.
    """
    known = [_available(root), *(group.memory_left() for group in _groups(root))]
    return min((left for left in known if left is not None), default=None)


@dataclass(frozen=True)
class _Group:
    """A control group: one folder of a mounted hierarchy. `unified` is version 2."""

    folder: Path
    unified: bool

    def processors(self) -> int | None:
        """The share of processors, rounded up; None where it has no limit."""
        if self.unified:
            words = _text(self.folder / "cpu.max").split()
            quota, period = (words[0], words[1]) if len(words) == 2 else ("max", "")
        else:
            quota = _text(self.folder / "cpu.cfs_quota_us")
            period = _text(self.folder / "cpu.cfs_period_us")
        of, in_all = _count(quota), _count(period)
        return None if not of or not in_all else -(-of // in_all)

    def memory_left(self) -> int | None:
        """Bytes below its limit, cached pages taken as free; None where it has no limit."""
        names = ("memory.max", "memory.current") if self.unified else _OF_VERSION_1
        limit, used = (_count(_text(self.folder / name)) for name in names)
        if limit is None or limit >= _UNLIMITED:
            return None
        return max(0, limit - max(0, (used or 0) - self._cached()))

    def _cached(self) -> int:
        prefix = "" if self.unified else "total_"
        wanted = {f"{prefix}inactive_file", f"{prefix}active_file"}
        rows = (line.split() for line in _text(self.folder / "memory.stat").splitlines())
        return sum(_count(row[1]) or 0 for row in rows if len(row) == 2 and row[0] in wanted)


_OF_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _groups(root: Path) -> Iterator[_Group]:
    """The groups that this process is in, and all that they lie within, of every hierarchy."""
    places = dict(_places(root))
    for hierarchy, inside, folder in _mounts(root):
        place = places.get(hierarchy)
        if place is None:
            continue
        # What a container sees of a hierarchy begins at its own group; else the path is below the mount.
        parts = Path(place).parts[1:]
        hidden = Path(inside).parts[1:]
        below = parts[len(hidden) :] if parts[: len(hidden)] == hidden else ()
        if ".." in below:
            below = ()
        for depth in range(len(below), -1, -1):
            yield _Group(folder.joinpath(*below[:depth]), hierarchy == "")


def _places(root: Path) -> Iterator[tuple[str, str]]:
    """(controller, path of this process's group in its hierarchy); version 2's controller is empty."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        words = line.split(":", 2)
        if len(words) == 3 and words[2].startswith("/"):
            yield from ((controller, words[2]) for controller in words[1].split(","))


def _mounts(root: Path) -> Iterator[tuple[str, str, Path]]:
    """(controller, the group that is mounted, where) of every hierarchy that can be seen."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        first, _, second = line.partition(" - ")
        words, more = first.split(), second.split()
        if len(words) < 5 or len(more) < 3:
            continue
        folder = root / words[4].lstrip("/")
        if more[0] == "cgroup2":
            yield "", words[3], folder
        elif more[0] == "cgroup":
            yield from ((one, words[3], folder) for one in more[2].split(",") if one in ("cpu", "memory"))


def _available(root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "MemAvailable:" and words[2] == "kB":
            kibibytes = _count(words[1])
            return None if kibibytes is None else 1024 * kibibytes
    return None


def _text(path: Path) -> str:
    """What a file of the kernel says; nothing where there is none, or it is not to be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _count(word: str) -> int | None:
    """A count that is not negative; None for `max`, `-1` and whatever else stands there."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 20 else None
