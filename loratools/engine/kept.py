"""What a worker's thread keeps from one job to the next: memory that its jobs use one after another.

What is allocated for a large array and freed after it goes back to the system, and every page of the next
one is first filled with zeros: a tenth of a merge's time (measured). So jobs of one thread, which run one
after another, share what lies under their largest arrays. It ends with the thread; with the run, where
threads outlive it (`let_go_everywhere`); and with the job, where memory is scarce (`let_go`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["kept_array", "kept_bytes", "let_go", "let_go_everywhere"]

_ALIGNED = 64
"""Bytes of a cache line: arrays begin with one, as torch's own do."""


class _Held:
    """One thread's memory, by what it is used for."""

    def __init__(self) -> None:
        self.memory: dict[str, NDArray[Any]] = {}


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.held = _Held()
        with _LISTING:
            _EVERYWHERE.add(self.held)


_LISTING = threading.Lock()
_EVERYWHERE: WeakSet[_Held] = WeakSet()
_of_thread = _OfThread()


def kept_array(use: str, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """An array of this thread's own, with whatever values were left in it.

    Args:
        use: what for; the array is valid until this thread asks for one of the same use again.
        shape: of the array, which lies row by row.
        dtype: numpy's, or its name.
    """
    import numpy as np

    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = _of_thread.held.memory
    held = memory.get(use)
    if held is None or held.nbytes < size:
        held = None
        memory.pop(use, None)  # before the larger one is there, the smaller one is gone
        room = np.empty(size + _ALIGNED, np.uint8)
        first = -room.ctypes.data % _ALIGNED
        held = memory[use] = room[first : first + size]
    found: NDArray[Any] = held[:size].view(dtype).reshape(tuple(shape))
    return found


def kept_bytes() -> int:
    """How much this thread keeps."""
    return sum(held.nbytes for held in _of_thread.held.memory.values())


def let_go() -> None:
    """Frees what this thread keeps: where memory is short, the next large job may be another worker's."""
    _of_thread.held.memory.clear()


def let_go_everywhere() -> None:
    """Frees what all threads of this process keep. An array that a job is using stays until it is done."""
    with _LISTING:
        everywhere = list(_EVERYWHERE)
    for held in everywhere:
        held.memory.clear()
