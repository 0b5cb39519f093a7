"""One thread for numpy's and scipy's OpenBLAS: parallelism is across jobs.

Threads inside of a product or a factorization add in an order that depends on how many there are, and where
jobs already take every processor they only wait for each other (merging a 272 MB checkpoint took 2.7 times
the processor time). OpenBLAS is asked by its own functions, as threadpoolctl does it; other builds of BLAS
are left as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "")
_MAPS = Path("/proc/self/maps")


class OpenBlas:
    """A loaded OpenBLAS, by the names that its functions have in it."""

    def __init__(self, library: ctypes.CDLL, prefix: str, suffix: str) -> None:
        self._get = getattr(library, f"{prefix}_get_num_threads{suffix}")
        self._set = getattr(library, f"{prefix}_set_num_threads{suffix}")
        self._kind = getattr(library, f"{prefix}_get_corename{suffix}", None)

    @property
    def threads(self) -> int:
        return int(self._get())

    @threads.setter
    def threads(self, count: int) -> None:
        self._set(count)

    @property
    def kind(self) -> str | None:
        """The processor that its kernels are for, such as `SkylakeX`; they round otherwise on another."""
        if self._kind is None:
            return None
        self._kind.restype = ctypes.c_char_p
        told: bytes | None = self._kind()
        return None if told is None else told.decode(errors="replace")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Every OpenBLAS that is loaded when the block begins has one thread until it ends."""
    found = [(library, library.threads) for library in loaded()]
    for library, _ in found:
        library.threads = 1
    try:
        yield
    finally:
        for library, before in found:
            library.threads = before


def loaded() -> list[OpenBlas]:
    """The OpenBLAS libraries of this process; none where the system does not list them (but on Linux)."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    paths = sorted({line[line.index("/") :] for line in lines if "openblas" in line and "/" in line})
    return [library for path in paths if (library := _open(path)) is not None]


def _open(path: str) -> OpenBlas | None:
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(path)
        for prefix in _PREFIXES:
            for suffix in _SUFFIXES:
                if hasattr(library, f"{prefix}_set_num_threads{suffix}"):
                    return OpenBlas(library, prefix, suffix)
    return None
