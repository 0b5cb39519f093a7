"""Memory that a worker's jobs use one after another: fresh pages of a large array cost as much as filling it.

Jobs of one thread run one after another, and so may share what lies under their largest arrays. It is freed
with the thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from loratools.engine.kept import of_thread

__all__ = ["reused"]


def reused(use: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """An array of this thread's own, with whatever values were left in it, on the CPU.

    Args:
        use: what for; the array lasts until this thread asks for one of the same use again.
        shape: of the array, which is contiguous.
        dtype: of its values.
    """
    size = math.prod(shape) * dtype.itemsize
    memory: torch.Tensor | None = getattr(of_thread, use, None)
    if memory is None or memory.numel() < size:
        memory = None
        setattr(of_thread, use, None)  # before the larger one is there, the smaller one is gone
        memory = torch.empty(size, dtype=torch.uint8)
        setattr(of_thread, use, memory)
    return memory[:size].view(dtype).view(tuple(shape))
