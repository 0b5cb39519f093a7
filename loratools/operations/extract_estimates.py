"""What a module's factoring holds and how long it takes: told from shapes and options."""

from __future__ import annotations

from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.linalg.choices import SvdMethod
from loratools.operations.extract_options import Truncation
from loratools.operations.rates import MULTIPLY_RATE, READ_RATE

__all__ = ["factoring_memory", "factoring_seconds", "likeness"]


def likeness(cut: Truncation) -> str:
    """What decides, beside shapes, how long a decomposition takes: runs that agree in it cost alike."""
    amount = "rank auto" if cut.above_noise else "energy" if cut.rank is None else f"rank {cut.rank}"
    return amount if cut.method is SvdMethod.AUTO else f"{amount}, {cut.method.value}"


def factoring_memory(base: TensorSpec, tuned: TensorSpec, cut: Truncation) -> int:
    """Bytes held at most.

    The delta and, for a Krylov space, some blocks of its sides; for LAPACK a few copies in float64. The
    storage noise is told from both sides as they are stored, and at times from two drawn matrices.
    """
    rows, columns = tuned.shape
    item = 4 if ITEM_BYTES[base.dtype] == ITEM_BYTES[tuned.dtype] == 2 else 8
    delta = rows * columns * item
    dense = cut.method is SvdMethod.EXACT or min(rows, columns) < 320 or cut.rank is None
    block = min(cut.rank or 0, rows, columns) + 8
    noise = base.bytes + tuned.bytes + 2 * delta if cut.above_noise else 0
    return delta + noise + (4 * rows * columns * 8 if dense else 12 * block * (rows + columns) * item)


def factoring_seconds(base: TensorSpec, tuned: TensorSpec, cut: Truncation) -> float:
    """Seconds that one worker needs."""
    rows, columns = tuned.shape
    least = min(rows, columns)
    width = min(least, (cut.rank or least // 4) + 8)
    return (base.bytes + tuned.bytes) / READ_RATE + 4 * rows * columns * width / MULTIPLY_RATE
