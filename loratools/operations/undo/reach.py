"""From y as it was written back to the numbers that it may have been, as cheaply as each element allows.

Most can only have been one number, and a comparison in the merge's arithmetic shows it. Most others can have
been one of a few, and the bits of the interval's ends tell which (`bracketed`). Only what is left, near the
boundaries, needs the update in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loratools.linalg.brackets import bracketed
from loratools.linalg.predecessors import Predecessors, error_bound, settled
from loratools.linalg.stochastic import DRAWN
from loratools.operations.precision import Stored, Wide, arithmetic_dtype, largest_gap, least_gap, widened
from loratools.operations.undo.steps import Places, Steps

__all__ = ["Open", "Reach", "middle"]


def middle(y: Stored, dtype: str, draws: Stored | None) -> Wide:
    """The middle of the sums that become y: y itself, where rounding is to nearest.

    By chance, sums that reach towards zero by the draw's share of a gap and away from it by the rest become
    y. Zeros are left as they are.
    """
    import numpy as np

    wide = widened(y, dtype, arithmetic_dtype(dtype))
    if draws is None:
        return wide
    with np.errstate(invalid="ignore"):
        share = draws.astype(wide.dtype)
        share *= -1.0 / DRAWN
        share += 0.5
        share *= largest_gap(y, dtype)
        share *= np.sign(wide)
        wide += share
    return wide


@dataclass(frozen=True)
class Reach:
    """How far the sums lie, at most, that became some rows of y, over |F|: `half` to either side of the
    middle, and `error` more by what arithmetic may be off; both (rows, columns)."""

    half: Wide
    error: Wide
    _steps: Steps
    _dtype: str
    _y: Stored
    _draws: Stored | None

    @classmethod
    def of(cls, steps: Steps, dtype: str, y: Stored, first: int, draws: Stored | None) -> Reach:
        """Of rows of y from `first` on."""
        import numpy as np

        half = largest_gap(y, dtype).astype(arithmetic_dtype(dtype), copy=False)
        half *= 0.5
        scale = np.abs(steps.scale(first, len(y), half.dtype))
        size = np.asarray(steps.bound(first, len(y)) * np.maximum(scale, 1.0))
        with np.errstate(all="ignore"):
            error = error_bound(half, size, steps.terms, dtype, arithmetic_dtype(dtype))
            if np.ndim(scale):
                half, error = half / scale, error / scale
        return cls(half, error, steps, dtype, y, draws)

    def alone(self, before: Stored, distance: Wide) -> Any:
        """Where only `before` can have become y, by a wide margin; (rows, columns).

        Zeros are left out: they have a sign, which no interval tells. So are those that rounding by chance
        gives, which the sums lie on both sides of.

        Args:
            before: the rows as the base had them, or as they are taken to have been.
            distance: of these to the middle, taken back through the steps.
        """
        import numpy as np

        with np.errstate(all="ignore"):
            found = settled(distance, least_gap(before, self._dtype), self.half, self.error)
        found &= _not_zero(before)
        if self._draws is not None:
            found &= _not_zero(self._y)
        return found

    def open(self, places: Places, centre: Wide, first: int) -> Open:
        """What has to be known of single elements for a closer look.

        Args:
            places: of the elements among the rows, which begin at `first`.
            centre: theirs: the middle, taken back through the steps.
        """
        return Open(
            places + first * self._y.shape[1],
            self._y.ravel()[places],
            centre,
            self.half.ravel()[places],
            self.error.ravel()[places],
            None if self._draws is None else self._draws.ravel()[places],
        )


@dataclass(frozen=True)
class Open:
    """Elements that may have been several numbers: their places in the tensor, and what is known of each."""

    places: Places
    y: Stored
    centre: Wide
    half: Wide
    error: Wide
    draws: Stored | None

    @classmethod
    def joined(cls, each: Sequence[Open]) -> Open:
        """Those of several parts, in their order."""
        import numpy as np

        if len(each) == 1:
            return each[0]
        return cls(
            np.concatenate([one.places for one in each]),
            np.concatenate([one.y for one in each]),
            np.concatenate([one.centre for one in each]),
            np.concatenate([one.half for one in each]),
            np.concatenate([one.error for one in each]),
            np.concatenate([one.draws for one in each if one.draws is not None])
            if each[0].draws is not None
            else None,
        )

    def predecessors(self, steps: Steps, dtype: str, columns: int) -> Predecessors:
        """The numbers that each may have been; `columns` are the elements of a row."""
        import numpy as np

        share = 0.5 if self.draws is None else self.draws * (1.0 / DRAWN)
        flipped = steps.flipped(self.places, columns)
        with np.errstate(all="ignore"):
            keys, count, clear = bracketed(
                self.y, self.centre, self.half, self.error, dtype, inwards=share, flipped=flipped
            )
        doubtful = np.zeros(len(keys), dtype=bool)
        rest = np.flatnonzero(~clear)
        if rest.size:
            maps = steps.maps(*np.divmod(self.places[rest], columns))
            drawn = None if self.draws is None else self.draws[rest]
            exact = Predecessors.of(self.y[rest], maps, dtype, arithmetic_dtype(dtype), drawn)
            keys[rest], count[rest], doubtful[rest] = exact.first, exact.count, exact.doubtful
        return Predecessors(keys, count, doubtful)


def _not_zero(values: Stored) -> Any:
    import numpy as np

    integers = values.view(f"uint{8 * values.dtype.itemsize}")
    return (integers << np.array(1, integers.dtype)) != 0
