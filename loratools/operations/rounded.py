"""Rounding the blocks of a merged tensor, with what rounding added, in arrays that are used again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loratools.checkpoints.spec import TensorSpec
from loratools.engine.kept import kept_array
from loratools.operations.precision import (
    Rounding,
    Stored,
    Wide,
    largest,
    largest_stored,
    round_into,
    stored_dtype,
    widened,
)
from loratools.operations.streaming import parts

if TYPE_CHECKING:
    from loratools.linalg.stochastic import Draws

__all__ = ["Rounded", "Rounder", "finite_squares", "sum_of_squares"]

_PIECE = 8192
"""Numbers that are squared and added up in float32: few sums, that lose little."""

_SAFE = (1e-25, 1e30)
"""Sums of squares in float32 between these lost nothing to underflow or overflow."""


@dataclass(frozen=True)
class Rounded:
    """Some rows that a merge rounded; its arrays are valid until the next ones.

    Args:
        original: the base's as stored; perhaps fewer than are written.
        after: all of them after the updates, in wide arithmetic.
        result: as written.
        error: what rounding added, in the wide arithmetic, in which it is an exact number.
        lost: the sum of its squares, of those that are finite.
        finite: whether all of `after` and `result` are.
        first: the number of the first row.
        draws: those by which they were rounded; None where that was to nearest.
    """

    original: Stored
    after: Wide
    result: Stored
    error: Wide
    lost: float
    finite: bool
    first: int
    draws: Stored | None

    def largest_between(self, dtype: str) -> tuple[float, float]:
        """Bounds of the largest magnitude of `after`, from what was written in `dtype`: cheaply had."""
        if self.finite:
            return largest_stored(self.result, dtype)
        found = largest(self.after)
        return found, found


class Rounder:
    """Rounds the blocks of one tensor.

    `draws` are those of rounding by chance, None rounds to nearest even; `target` is what is written.
    """

    def __init__(self, rounding: Rounding, target: TensorSpec, draws: Draws | None) -> None:
        self._rounding = rounding
        self._draws, self._columns = draws, target.elements // max(1, target.rows)

    def round(
        self, after: Wide, original: Stored, first: int, *, whole: bool = False
    ) -> tuple[Stored, list[Rounded]]:
        """The block as it is written, and its parts; all of it is valid until the next.

        `whole`: as one part, where nobody makes temporaries of its size, and draws are not needed.

        Counts values that are not finite, as `Rounding` does.

        Args:
            after: the rows from `first` on, in wide arithmetic.
            original: the same of the input as stored, perhaps fewer.
        """
        result: Stored = kept_array("result", after.shape, stored_dtype(self._rounding.dtype))
        error: Wide = kept_array("error", after.shape, after.dtype)
        if self._draws is None:
            self._round(after, None, result, error)
        found = [
            self._part(after[rows], original[rows], result[rows], error[rows], first + rows.start)
            for rows in ([slice(0, len(after))] if whole and self._draws is None else parts(after))
        ]
        return result, found

    def _part(self, after: Wide, original: Stored, result: Stored, error: Wide, first: int) -> Rounded:
        draws = self._drawn(after, first)
        if draws is not None:
            self._round(after, draws, result, error)
        lost, finite = _squares(error)
        if not finite:
            result[...] = self._rounding.round(after, original, draws)
            self._error(after, result, error)
            lost = _squares(error)[0]
        return Rounded(original, after, result, error, lost, finite, first, draws)

    def _round(self, after: Wide, draws: Stored | None, result: Stored, error: Wide) -> None:
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore"):
            round_into(after, self._rounding.dtype, draws, result=result, back=error)
            error -= after

    def _error(self, after: Wide, result: Stored, error: Wide) -> None:
        import numpy as np

        widened(result, self._rounding.dtype, str(after.dtype), out=error)
        with np.errstate(invalid="ignore"):
            error -= after

    def _drawn(self, rows: Wide, first: int) -> Stored | None:
        """The draws of some rows; None where rounding is to nearest."""
        if self._draws is None:
            return None
        drawn: Stored = self._draws.at(first * self._columns, rows.size).reshape(rows.shape)
        return drawn


def _squares(values: Wide) -> tuple[float, bool]:
    """`finite_squares`, piece by piece, and all pieces by one call: threads wait for each other at each."""
    import numpy as np

    flat = values.reshape(-1)
    whole = flat.size - flat.size % _PIECE
    pieces = flat[:whole].reshape(-1, _PIECE)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.vecdot(pieces, pieces)
        least, most = _SAFE
        safe = (least < squares) & (squares < most)
        found = [finite_squares(piece) for piece in (*pieces[~safe], flat[whole:])]
    total = float(squares[safe].sum(dtype=np.float64)) + sum(squares for squares, _ in found)
    return total, all(finite for _, finite in found)


def sum_of_squares(values: Wide) -> float:
    """Of all finite ones; of float32 values to six digits, else in float64."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        return finite_squares(values)[0]


def finite_squares(values: Wide) -> tuple[float, bool]:
    """The sum of squares of all finite ones, and whether that is all; numpy must not warn of overflow."""
    import numpy as np

    flat = values.reshape(-1)
    total = float(np.dot(flat, flat))
    least, most = _SAFE
    if least < total < most:
        return total, True
    if not flat.any():
        return 0.0, True
    wide = flat.astype(np.float64)
    finite = np.isfinite(wide)
    wide = wide[finite]
    return float(np.dot(wide, wide)), bool(finite.all())
