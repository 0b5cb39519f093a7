"""From y as it was written back to the numbers that it may have been, as cheaply as each element allows.

Most can only have been one number, and a comparison in the merge's arithmetic shows it. Most others can have
been one of a few, and the bits of the interval's ends tell which (`bracketed`). Only what is left, near the
boundaries, needs the update in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loratools.linalg.brackets import Bracket, bracketed, lone
from loratools.linalg.predecessors import Doubt, Predecessors, settled
from loratools.linalg.stochastic import DRAWN
from loratools.operations.precision import (
    Stored,
    Wide,
    arithmetic_dtype,
    is_zero,
    largest_gap,
    least_gap,
    shift_of_middle,
    widened,
)
from loratools.operations.undo.steps import Places, Steps

__all__ = ["AT_ONCE", "Open", "alone", "middle"]

AT_ONCE = 2**14
"""Elements that are looked at closer at a time: what comes and goes stays in the cache (measured)."""


def middle(y: Stored, dtype: str, draws: Stored | None) -> Wide:
    """The middle of the sums that become y: y itself, where rounding is to nearest."""
    import numpy as np

    wide = widened(y, dtype, arithmetic_dtype(dtype))
    if draws is not None:
        with np.errstate(invalid="ignore"):
            wide += shift_of_middle(y, dtype, draws)
    return wide


def alone(
    steps: Steps, dtype: str, before: Stored, y: Stored, distance: Wide, first: int, draws: Stored | None
) -> Any:
    """Where only `before` can have become y by the steps, by a wide margin; (rows, columns).

    Zeros are left out: they have a sign, which no interval tells. So are those that rounding by chance gives,
    which the sums lie on both sides of.

    Args:
        before: rows from `first` on as the base had them, or as they are taken to have been.
        y: as they became.
        distance: of `before` to the middle, taken back through the steps.
        draws: those by which y was rounded.
    """
    import numpy as np

    size, scale = steps.bound(slice(first, first + len(y))), steps.scale(first, len(y), distance.dtype)
    doubt = _doubt(steps, dtype)
    with np.errstate(all="ignore"):
        if np.ndim(scale):
            half, error = _extent(y, np.abs(scale), size, doubt, dtype)
            found = settled(distance, least_gap(before, dtype), half, error) & ~is_zero(before)
        else:
            found = lone(before, y, distance, size, doubt, dtype)
    if draws is not None:
        found &= ~is_zero(y)
    return found


def _doubt(steps: Steps, dtype: str) -> Doubt:
    return Doubt.of(len(steps.each), steps.terms, arithmetic_dtype(dtype))


def _extent(y: Stored, scale: Any, size: Any, doubt: Doubt, dtype: str) -> tuple[Wide, Wide]:
    """Half of y's larger gap, and what arithmetic may be off, over |F|."""
    import numpy as np

    half = largest_gap(y, dtype).astype(arithmetic_dtype(dtype), copy=False)
    half *= 0.5
    error = doubt.bound(half, np.asarray(size * np.maximum(scale, 1.0)), dtype)
    return (half / scale, error / scale) if np.ndim(scale) else (half, error)


@dataclass(frozen=True)
class Open:
    """Elements that may have been several numbers.

    `places` are theirs in the tensor, `centre` is the middle, taken back through the steps.
    """

    places: Places
    y: Stored
    centre: Wide
    draws: Stored | None

    @classmethod
    def joined(cls, each: Sequence[Open]) -> Open:
        """Those of several parts, in their order."""
        import numpy as np

        if len(each) == 1:
            return each[0]
        drawn = [one.draws for one in each if one.draws is not None]
        return cls(
            np.concatenate([one.places for one in each]),
            np.concatenate([one.y for one in each]),
            np.concatenate([one.centre for one in each]),
            np.concatenate(drawn) if drawn else None,
        )

    def predecessors(self, steps: Steps, dtype: str, columns: int) -> Predecessors:
        """The numbers that each may have been; `columns` are the elements of a row."""
        import numpy as np

        keys, count = np.empty((2, len(self.places)), dtype=np.int64)
        clear = np.empty(len(self.places), dtype=bool)
        for start in range(0, len(keys), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            found = self._bracketed(part, steps, dtype, columns)
            keys[part], count[part], clear[part] = found.first, found.count, found.clear
        rest = np.flatnonzero(~clear)
        doubtful = np.zeros(len(keys), dtype=bool)
        if rest.size:
            maps = steps.maps(*np.divmod(self.places[rest], columns))
            drawn = None if self.draws is None else self.draws[rest]
            exact = Predecessors.of(self.y[rest], maps, dtype, arithmetic_dtype(dtype), drawn)
            keys[rest], count[rest], doubtful[rest] = exact.first, exact.count, exact.doubtful
        return Predecessors(keys, count, doubtful)

    def _bracketed(self, part: slice, steps: Steps, dtype: str, columns: int) -> Bracket:
        import numpy as np

        y, centre = self.y[part], self.centre[part]
        rows, across = np.divmod(self.places[part], columns)
        scale = steps.scales(rows, across)
        size = np.reshape(steps.bound(rows), (-1,))
        with np.errstate(all="ignore"):
            half, error = _extent(y, np.abs(scale), size, _doubt(steps, dtype), dtype)
            return bracketed(
                y,
                centre,
                half.astype(centre.dtype, copy=False),
                error.astype(centre.dtype, copy=False),
                dtype,
                inwards=np.asarray(0.5 if self.draws is None else self.draws[part] / DRAWN),
                flipped=np.less(scale, 0.0),
            )
