"""Arrays that a worker thread uses again and again.

What numpy allocates for a block and frees after it goes back to the system, and every page of the next one
is first filled with zeros: a tenth of a merge's time (measured).
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scratch"]


class Scratch(threading.local):
    """Room for arrays, by the names of what they are for; each thread has its own, as long as it lives."""

    def __init__(self) -> None:
        self._held: dict[str, NDArray[Any]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array with any values in it, row by row; valid until the thread asks for the same name again."""
        import numpy as np

        size = math.prod(shape) * np.dtype(dtype).itemsize
        held = self._held.get(name)
        if held is None or held.nbytes < size:
            held = self._held[name] = np.empty(size, np.uint8)
        found: NDArray[Any] = held[:size].view(dtype).reshape(shape)
        return found
