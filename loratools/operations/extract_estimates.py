"""What a module's factoring holds and how long it takes: told from shapes and options."""

from __future__ import annotations

import math

from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.linalg.choices import SvdMethod, block_width, krylov_pays
from loratools.operations.extract_options import DEFAULT_RANK, Truncation
from loratools.operations.rates import MULTIPLY_RATE, READ_RATE

__all__ = ["factoring_memory", "factoring_seconds", "likeness"]


def likeness(cut: Truncation) -> str:
    """What decides, beside shapes, how long a decomposition takes: runs that agree in it cost alike."""
    amount = "rank auto" if cut.above_noise else "energy" if cut.rank is None else f"rank {cut.rank}"
    return amount if cut.method is SvdMethod.AUTO else f"{amount}, {cut.method.value}"


def factoring_memory(base: TensorSpec, tuned: TensorSpec, cut: Truncation) -> int:
    """Bytes held at most, as far as shapes and options tell.

    A rank up to the default is taken to be within the change's own, and so to be certified within a few
    passes; a higher one needs the spectrum beyond it, and where both sides are stored in 16 bits that drowns
    in float32's rounding, so that the delta is there in float64 too. What chooses its own rank may come to
    LAPACK. The storage noise is told from both sides as they are stored.
    """
    rows, columns = tuned.shape
    item = 4 if ITEM_BYTES[base.dtype] == ITEM_BYTES[tuned.dtype] == 2 else 8
    delta = rows * columns * item
    sides = base.bytes + tuned.bytes if cut.above_noise else 0
    least, most = sorted((rows, columns))
    if cut.rank is None or cut.method is SvdMethod.EXACT or not krylov_pays(least, cut.rank, None):
        return delta + sides + _by_lapack(least, most)
    if cut.rank <= DEFAULT_RANK:
        return delta + _in_krylov_space(least, most, cut.rank, _FEW_PASSES * block_width(cut.rank), item)
    double = 0 if item == 8 else 2 * delta
    return delta + double + _in_krylov_space(least, most, cut.rank, _size_beyond(least, cut.rank), 8)


_FEW_PASSES = 3
"""Passes that certify a rank that is not above the change's own [measured: 2 or 3]."""

_CHAIN_ROWS = 4 * 24
"""Of the block Lanczos chain that bounds what a space leaves, as it is stacked: a few passes of it, twice."""

_SMALL_MATRICES = 8
"""Square matrices of the space's size that judging it takes [measured: 5 to 11]."""

_BLOCKS = 4
"""Copies of a block in float64, on either side: its image, and the stages of its orthogonalization."""

_TRIPLETS = 4
"""Copies of left vectors in float64 while triplets are made of a space."""


def _by_lapack(least: int, most: int) -> int:
    """The delta in float64, vectors of both sides, LAPACK's own copy, and what it works in [measured]."""
    return 8 * (3 * least * most + 5 * least * least)


def _size_beyond(least: int, rank: int) -> int:
    """Dimensions that a Krylov space needs for a rank above the change's own.

    [Measured: 448 at rank 24, 768 at 64 and 1408 at 256 of 2048.] The gaps of a spectrum of noise at its edge
    shrink by side^(-2/3), and passes grow by their root.
    """
    width = block_width(rank)
    size = 96.0 * math.sqrt(rank) * math.pow(least / 2048.0, 1.0 / 3.0)
    return min(least, width * math.ceil(size / width))


def _in_krylov_space(least: int, most: int, rank: int, size: int, item: int) -> int:
    """The basis, its images in float64, and the most of what is made of them one after another."""
    basis = size * least * item + size * most * 8
    widened = size * least * 8 if item == 4 else 0
    judged = _SMALL_MATRICES * size * size * 8 + _TRIPLETS * rank * most * 8
    chain = 2 * _CHAIN_ROWS * least * item
    return basis + max(widened, judged, chain) + _BLOCKS * block_width(rank) * (least + most) * 8


def factoring_seconds(base: TensorSpec, tuned: TensorSpec, cut: Truncation) -> float:
    """Seconds that one worker needs."""
    rows, columns = tuned.shape
    least = min(rows, columns)
    width = min(least, (cut.rank or least // 4) + 8)
    return (base.bytes + tuned.bytes) / READ_RATE + 4 * rows * columns * width / MULTIPLY_RATE
