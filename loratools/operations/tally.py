"""What a merge did to one tensor: elements that it changed, what it added, and what rounding took of that."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from loratools.adapters.update import Update
from loratools.checkpoints.spec import TensorSpec
from loratools.operations.precision import Stored, Wide, differing, largest, widened
from loratools.operations.rounded import Rounded, sum_of_squares

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Tally"]

_UNIT = 2.0**-24
"""Of float32, in which 16-bit tensors are merged."""

_BLUR = 1e-2
"""Where float32's own rounding could exceed this share of the update, the error is measured in float64."""


class Tally:
    """Sums over the parts of one tensor's rows.

    The rounding error is `||rounded - exact|| / ||exact - W||`, exact what the updates make of W in the
    merge's wide arithmetic. Elements that are not finite are left out of it.

    Args:
        updates: those that go to the tensor, in their order.
        source_dtype: of the base's tensor.
        target: what is written.
    """

    def __init__(self, updates: tuple[Update, ...], source_dtype: str, target: TensorSpec) -> None:
        self.changed = 0
        self._updates, self._source_dtype, self._target = updates, source_dtype, target
        self._known = updates[0].norm() if len(updates) == 1 and updates[0].subtractable else None
        self._added = 0.0
        self._lost = 0.0

    @property
    def plain(self) -> bool:
        """Whether it mostly looks at what it is given, and makes no wide temporaries of it."""
        return self._known is not None or not self._updates

    def count(self, before: Stored, result: Stored) -> None:
        """Some rows as written, and as they would be if nothing were added, perhaps fewer."""
        self.changed += result.size - before.size + differing(result[: len(before)], before)

    def add(self, step: Rounded) -> None:
        """Some rows that were rounded."""
        size = step.after.size
        if not size:
            return
        if self._known is None:
            added = sum_of_squares(self._difference(step))
        else:
            added = self._known * self._known * (size / self._target.elements)  # perhaps infinite
        squares = step.lost
        if step.after.dtype == "float32" and self._blurred(step, added):
            squares, added = self._in_float64(step, squares, added)
        self._added += added
        self._lost += squares

    def _blurred(self, step: Rounded, added: float) -> bool:
        """Whether float32's own rounding may have been a share of the update that would be seen."""

        def reaches(magnitude: float) -> bool:
            return (_UNIT * magnitude) ** 2 * step.after.size > _BLUR**2 * added

        low, high = step.largest_between(self._target.dtype)
        if reaches(low) == reaches(high):
            return reaches(low)
        return reaches(largest(step.after))

    @property
    def norm(self) -> float | None:
        """The Frobenius norm of what was added; None where nothing was to be."""
        if not self._updates:
            return None
        return math.sqrt(self._added) if self._known is None else self._known

    @property
    def rounding_error(self) -> float | None:
        """Relative to the norm; None where nothing was added."""
        norm = self.norm
        return math.sqrt(self._lost) / norm if norm else None

    def _difference(self, step: Rounded) -> NDArray[np.float64]:
        import numpy as np

        added = step.after.astype("float64")
        with np.errstate(invalid="ignore"):
            added[: len(step.original)] -= widened(step.original, self._source_dtype, "float64")
        return added

    def _in_float64(self, step: Rounded, squares: float, added: float) -> tuple[float, float]:
        """(lost, added), where the updates only add: their sum in float32 lost too much itself."""
        if not all(update.subtractable for update in self._updates):
            return squares, added
        import numpy as np

        update: Wide = np.zeros(step.after.shape)
        for one in self._updates:
            update = one.apply(update, step.first)
        with np.errstate(invalid="ignore"):
            moved = widened(step.result, self._target.dtype, "float64")
            moved -= widened(step.original, self._source_dtype, "float64")
            lost = sum_of_squares(moved - update)
        return lost, added if self._known is not None else sum_of_squares(update)
