"""The directions of a module's factors as they are stored, and which of them are more than rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loratools.operations.analysis.options import Directions
from loratools.operations.analysis.skinny import UNIT_ROUNDOFF, SkinnyModule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from loratools.linalg.subspaces import DirectionSet

    Matrix = NDArray[np.float64]

__all__ = ["SIDES", "TYPICAL_ROUNDING", "StoredDirections", "product_noise", "stored_directions"]

SIDES = ("A", "B")
"""Right-singular directions, in the space of inputs, and left-singular ones, in that of outputs."""

TYPICAL_ROUNDING = 0.42
"""Root mean square of the relative rounding error of a number, in units of the largest possible, where all
mantissas are as likely on a logarithmic scale: sqrt((1/3) (3/8) / ln 2)."""

_TELLING = 4.0
"""How many times the entries of the error two singular values must differ by to be told apart: between values
that were equal it makes gaps of up to about so much, and at that gap it still turns them by a quarter."""


@dataclass(frozen=True)
class StoredDirections:
    """Those of one side. The first `above` have singular values beyond what rounding alone makes; `tied` is
    the first i of these for which the values i and i + 1 coincide up to rounding, None where none do."""

    directions: DirectionSet
    above: int
    tied: int | None


def stored_directions(module: SkinnyModule, directions: Directions) -> dict[str, StoredDirections]:
    """Reads a module's factors and decomposes them.

    A factor is stored as F + E, with E the rounding; its entries are as good as independent, of root mean
    square e. In any orthonormal basis an entry of E is then of size e too, which turns directions into each
    other whose singular values are not much farther apart; and ||E||_2 is about e (sqrt(rows) +
    sqrt(columns)) (Rudelson and Vershynin 2010): what is below that is E's. Of a product it is dB A + B dA.

    Returns:
        By side.

    Raises:
        LoratoolsError: a file cannot be read, or values are not finite.
    """
    lora_A, lora_B = module.read()
    return _DECOMPOSED[directions](module, lora_A, lora_B)


def _of_factors(module: SkinnyModule, lora_A: Matrix, lora_B: Matrix) -> dict[str, StoredDirections]:
    from loratools.linalg.subspaces import left_directions, right_directions

    return {
        "A": _told_apart(right_directions(lora_A), _off(lora_A, module.A.dtype), _sides(lora_A)),
        "B": _told_apart(left_directions(lora_B), _off(lora_B, module.B.dtype), _sides(lora_B)),
    }


def _of_product(module: SkinnyModule, lora_A: Matrix, lora_B: Matrix) -> dict[str, StoredDirections]:
    from loratools.linalg.subspaces import product_directions

    entry, norm = product_noise(lora_A, lora_B, (module.A.dtype, module.B.dtype))
    right, left = product_directions(lora_A, lora_B)
    ratio = norm / entry if entry else 0.0
    return {"A": _told_apart(right, entry, ratio), "B": _told_apart(left, entry, ratio)}


def product_noise(lora_A: Matrix, lora_B: Matrix, dtypes: tuple[str, str]) -> tuple[float, float]:
    """What rounding to the dtypes of A and B does to B A: to an entry, in any basis, root mean square; and in
    norm (spectral)."""
    from loratools.linalg.subspaces import left_directions, right_directions

    largest_A, largest_B = (_largest(one) for one in (right_directions(lora_A), left_directions(lora_B)))
    dB_A = _off(lora_B, dtypes[1]) * largest_A
    B_dA = _off(lora_A, dtypes[0]) * largest_B
    return math.hypot(dB_A, B_dA), math.hypot(dB_A * _sides(lora_B), B_dA * _sides(lora_A))


_DECOMPOSED = {Directions.FACTOR: _of_factors, Directions.PRODUCT: _of_product}


def _told_apart(found: DirectionSet, entry: float, sides: float) -> StoredDirections:
    """The directions, given the root mean square of the error's entries; its norm is `sides` times that."""
    above = sum(value > entry * sides for value in found.values.tolist())
    return StoredDirections(found, above, next(iter(found.leading(above).ties(_TELLING * entry)), None))


def _off(factor: Matrix, dtype: str) -> float:
    """Root mean square of what rounding to `dtype` does to an entry."""
    import numpy as np

    size = math.sqrt(float(np.vdot(factor, factor)) / factor.size) if factor.size else 0.0
    return TYPICAL_ROUNDING * UNIT_ROUNDOFF[dtype] * size


def _sides(factor: Matrix) -> float:
    return math.sqrt(factor.shape[0]) + math.sqrt(factor.shape[1])


def _largest(directions: DirectionSet) -> float:
    return float(directions.values[0]) if directions.count else 0.0
