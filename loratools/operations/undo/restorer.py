"""Taking one merge off again from blocks of rows, bit by bit, with what its record kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loratools.linalg.packing import MOST_BITS, unpack, widths
from loratools.linalg.predecessors import Predecessors, bits_of
from loratools.operations.precision import (
    Stored,
    Wide,
    arithmetic_dtype,
    rounded,
    widened,
)
from loratools.operations.streaming import PART_BYTES
from loratools.operations.undo.narrowing import AT_ONCE, Open, alone, middle
from loratools.operations.undo.steps import Steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from loratools.linalg.stochastic import Draws

__all__ = ["Restorer"]


class Restorer:
    """Gives the base's rows for those that a merge made of them, in order.

    Args:
        steps: what the merge did.
        dtype: of the tensor, before and after.
        columns: elements of a row.
        bits: those of the indices, one a byte.
        places: positions of elements that are kept apart, ascending.
        values: these elements, as stored.
        draws: those by which the merge rounded; None where it rounded to nearest.
    """

    def __init__(
        self,
        steps: Steps,
        dtype: str,
        columns: int,
        *,
        bits: NDArray[np.uint8],
        places: NDArray[np.int64],
        values: Stored,
        draws: Draws | None = None,
    ) -> None:
        self._steps, self._dtype, self._columns = steps, dtype, columns
        self._arithmetic = arithmetic_dtype(dtype)
        self._bits, self._places, self._values = bits, places, values
        self._draws = draws
        self._used = 0

    def rows(self, merged: Stored, first: int) -> Stored:
        """The rows from `first` on, as the base had them.

        Raises ValueError where the record has fewer bits than these rows need.
        """
        import numpy as np

        y = merged.reshape(len(merged), self._columns)
        result, opened = np.empty_like(y), []
        step = max(1, PART_BYTES * len(y) // max(1, 2 * y.nbytes))
        for start in range(0, len(y), step):  # in pieces that stay in the cache
            part = slice(start, start + step)
            result[part], open_ = self._guessed(y[part], first + start)
            if len(open_.places):
                opened.append(open_)
        if opened:
            closer = Open.joined(opened)
            found = closer.predecessors(self._steps, self._dtype, self._columns)
            places, flat = closer.places - first * self._columns, result.reshape(-1)
            for start in range(0, len(places), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                flat[places[part]] = self._told(found.part(part))
        return result.reshape(merged.shape)

    def finished(self) -> bool:
        """Whether all that the record kept has been used."""
        return self._used == len(self._bits)

    def _guessed(self, y: Stored, first: int) -> tuple[Stored, Open]:
        """Rows of the numbers nearest to what y was before, with those that are kept apart; and what of them
        needs a closer look."""
        import numpy as np

        drawn = self._drawn(y, first)
        centre = self._centre(y, first, drawn)
        before = rounded(centre, self._dtype)
        with np.errstate(all="ignore"):
            distance = widened(before, self._dtype, self._arithmetic)
            distance -= centre
            np.abs(distance, out=distance)
        open_ = ~alone(self._steps, self._dtype, before, y, distance, first, drawn).reshape(-1)
        at = first * self._columns
        begin, end = np.searchsorted(self._places, [at, at + y.size])
        apart = self._places[begin:end] - at
        open_[apart] = False
        before.reshape(-1)[apart] = self._values[begin:end]
        places = np.flatnonzero(open_)
        return before, Open(
            places + at,
            y.reshape(-1)[places],
            centre.reshape(-1)[places],
            None if drawn is None else drawn.reshape(-1)[places],
        )

    def _drawn(self, y: Stored, first: int) -> Stored | None:
        """The draws by which these rows were rounded; None where that was to nearest."""
        if self._draws is None:
            return None
        drawn: Stored = self._draws.at(first * self._columns, y.size).reshape(y.shape)
        return drawn

    def _centre(self, y: Stored, first: int, drawn: Stored | None) -> Wide:
        """The middle of the sums that became y, taken back through the steps."""
        import numpy as np

        centre = middle(y, self._dtype, drawn)
        with np.errstate(all="ignore"):
            centre -= self._steps.shift(first, len(y), self._columns, centre.dtype)
            scale = self._steps.scale(first, len(y), centre.dtype)
            if np.ndim(scale):
                centre /= scale
        return centre

    def _told(self, found: Predecessors) -> Stored:
        """Elements of which several numbers are possible, by their indices."""
        width = widths(found.count)
        width[width > MOST_BITS] = 0
        end = self._used + int(width.sum())
        if end > len(self._bits):
            raise ValueError("fewer bits than elements need")
        index = unpack(self._bits[self._used : end], width)
        self._used = end
        return bits_of(found.keys(index), self._dtype)
