"""What finished runs taught about this machine: a small file in the user's cache folder.

It holds no path, no name and no model: a number by which the seconds of each kind of work differ from what a
plan expects, and bytes that a verb holds beside its jobs. Estimates are all that it is used for, so a file
that is missing, damaged or not to be written is as if nothing were known, and never fails a run.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from loratools.engine.limits import processors

__all__ = ["Calibration", "Learnt", "file", "load", "save"]

_MOST_BYTES = 2**20
_MOST_MACHINES = 16
_MOST_KEYS = 400
_VALUES = 1e13
"""No value is larger: a hundred thousand gigabytes, or a rate far beyond any."""

_NEWEST = 0.3
"""The weight of the newest run: a busy one does not spoil what ten taught."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A value, smoothed over runs, and how many of them there were."""

    value: float
    runs: int

    def after(self, value: float) -> Learnt:
        """With one more run: the mean of the first few, then exponential smoothing."""
        weight = max(_NEWEST, 1.0 / (self.runs + 1))
        return Learnt(self.value + weight * (value - self.value), self.runs + 1)


@dataclass(frozen=True)
class Calibration:
    """Values by key. A key is a path of words, from what matters most to what matters least."""

    values: Mapping[str, Learnt]

    def find(self, key: str) -> Learnt | None:
        """The value of the key; else the mean of those that differ from it in the fewest last words.

        The first two words, a verb and a kind of work, have to be the same.
        """
        if key in self.values:
            return self.values[key]
        words = key.split("/")
        for kept in range(len(words) - 1, 1, -1):
            start = "/".join(words[:kept]) + "/"
            alike = [one for name, one in self.values.items() if name.startswith(start)]
            if alike:
                mean = sum(one.value for one in alike) / len(alike)
                return Learnt(mean, sum(one.runs for one in alike))
        return None

    def knows(self, key: str) -> bool:
        return key in self.values

    def after(self, told: Mapping[str, float]) -> Calibration:
        """With what one more run told."""
        values = dict(self.values)
        for key, value in told.items():
            before = values.pop(key, None)  # the latest stands last
            values[key] = Learnt(value, 1) if before is None else before.after(value)
        return Calibration(dict(list(values.items())[-_MOST_KEYS:]))


def file() -> Path | None:
    """Where it lies; None where `LORATOOLS_CALIBRATION` is `off` or there is no place for it."""
    if os.environ.get("LORATOOLS_CALIBRATION", "").lower() in ("off", "0", "no"):
        return None
    if own := os.environ.get("LORATOOLS_CACHE"):
        return Path(own) / _NAME
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) / "loratools" / _NAME if local else None
    home = os.environ.get("HOME")
    if sys.platform == "darwin":
        return Path(home) / "Library" / "Caches" / "loratools" / _NAME if home else None
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if Path(shared).is_absolute():  # the specification: a relative one is to be ignored
        return Path(shared) / "loratools" / _NAME
    return Path(home) / ".cache" / "loratools" / _NAME if home else None


_NAME = "calibration.json"


def load() -> Calibration:
    """What was learnt on this machine with these libraries; nothing where there is nothing to be read."""
    path = file()
    held = {} if path is None else _read(path).get(machine(), {})
    return Calibration({key: Learnt(*value) for key, value in held.items()})


def save(told: Mapping[str, float]) -> None:
    """Adds what a run told. Whatever goes wrong is no matter: the next run may be luckier."""
    path = file()
    told = {key: value for key, value in told.items() if math.isfinite(value) and abs(value) <= _VALUES}
    if path is None or not told:
        return
    machines = _read(path)
    known = {key: Learnt(*value) for key, value in machines.pop(machine(), {}).items()}
    learnt = Calibration(known).after(told).values
    machines[machine()] = {key: (one.value, one.runs) for key, one in learnt.items()}
    kept = dict(list(machines.items())[-_MOST_MACHINES:])
    with contextlib.suppress(OSError, ValueError):
        _write(path, json.dumps({"version": 1, "machines": kept}, allow_nan=False))


@cache
def machine() -> str:
    """A fingerprint of what rates depend on: processors and the libraries that compute."""
    versions = _versions()
    libraries = [f"{name} {versions.get(name, '')}" for name in ("loratools", "numpy", "torch", "blake3")]
    python = ".".join(map(str, sys.version_info[:2]))
    told = "\n".join([sys.platform, _model(), str(processors()), python, *libraries])
    return blake2b(told.encode(), digest_size=16).hexdigest()


def _versions() -> dict[str, str]:
    """Of what is installed, by the names of the folders that installers leave; `importlib.metadata`, which
    reads what is in them, takes 15 ms to import."""
    found: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder or "."):  # noqa: PTH208
                package, _, version = name.removesuffix(_INSTALLED).partition("-")
                if name.endswith(_INSTALLED):
                    found.setdefault(package.lower(), version)
    return found


_INSTALLED = ".dist-info"


def _model() -> str:
    """What the processor calls itself, where the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    told = (line for line in lines if line.startswith(("model name", "CPU part")))
    return next(told, "").partition(":")[2].strip()


def _read(path: Path) -> dict[str, dict[str, tuple[float, int]]]:
    """Values and runs by machine and key, whatever the file holds."""
    try:
        content = json.loads(_bytes(path))
        machines = content["machines"] if content["version"] == 1 else {}
        return {str(one): _keys(held) for one, held in machines.items() if isinstance(held, dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _keys(held: Mapping[Any, Any]) -> dict[str, tuple[float, int]]:
    return {str(key): (float(pair[0]), pair[1]) for key, pair in held.items() if _sound(pair)}


def _sound(pair: Any) -> bool:
    if not (isinstance(pair, list) and len(pair) == 2):
        return False
    value, runs = pair
    if isinstance(value, bool) or not isinstance(value, (int, float)) or type(runs) is not int:
        return False
    return abs(value) <= _VALUES and 0 < runs <= 10**9  # and no NaN, which is not below anything


def _bytes(path: Path) -> bytes:
    """What the file holds. Raises OSError where it is no plain file, or larger than it can be."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise OSError("no such file of ours")
        return os.read(handle, _MOST_BYTES)
    finally:
        os.close(handle)


def _write(path: Path, text: str) -> None:
    """Replaces the file whole, so that nobody ever reads half of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="ascii")
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
