"""What a merge did to one tensor as y = F w + G: the same for who records it and for who takes it off.

Tensors are looked at as matrices (rows, columns); a bias has one column. Steps come in the order in which
they were applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from loratools.linalg.predecessors import Maps
from loratools.linalg.products import add_product

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]
    Places = NDArray[np.int64]
else:
    Array = Places = Any

__all__ = ["Added", "Product", "Scaled", "Step", "Steps"]

_GATHERED = 2**20
"""Elements of factors that are gathered at a time."""


class Step(Protocol):
    """One of the maps that a tensor went through."""

    @property
    def terms(self) -> int: ...

    def apply(self, block: Array, first: int) -> Array:
        """F w + G of some rows from `first` on, in the block's arithmetic; the block is changed."""
        ...

    def then(self, maps: Maps, rows: Places, columns: Places) -> Maps:
        """The maps of single elements, in float64, followed by this one."""
        ...

    def bound(self, rows: slice | Places) -> Array | float:
        """(rows, 1) float64, or one number: no less than the sum of absolute values of what is added."""
        ...


@dataclass(frozen=True, eq=False)
class Product:
    """Adds scaling · left @ right: left (rows, r), right (r, columns)."""

    left: Array
    right: Array
    scaling: float

    @property
    def terms(self) -> int:
        return len(self.right)

    def apply(self, block: Array, first: int) -> Array:
        left = self.left[first : first + len(block)].astype(block.dtype, copy=False)
        add_product(block, left * self.scaling, self.right.astype(block.dtype, copy=False))
        return block

    def then(self, maps: Maps, rows: Places, columns: Places) -> Maps:
        import numpy as np

        added = np.empty(len(rows))
        step = max(1, _GATHERED // max(1, self.terms))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            np.einsum("ij,ij->i", self._along[rows[part]], self._across[columns[part]], out=added[part])
        size = self._bounds[rows, 0]
        return Maps(maps.scale, maps.shift + added, maps.size + size, maps.terms + self.terms)

    def bound(self, rows: slice | Places) -> Array:
        return self._bounds[rows]

    @cached_property
    def _along(self) -> Array:
        """(rows, r) float64, scaled."""
        import numpy as np

        return self.left.astype(np.float64) * self.scaling

    @cached_property
    def _across(self) -> Array:
        """(columns, r) float64."""
        import numpy as np

        return np.ascontiguousarray(self.right.T, dtype=np.float64)

    @cached_property
    def _bounds(self) -> Array:
        """(rows, 1): by Cauchy and Schwarz, with the largest of the columns on the right."""
        import numpy as np

        left = np.sqrt(np.square(self.left, dtype=np.float64).sum(axis=1))
        largest = np.sqrt(np.square(self.right, dtype=np.float64).sum(axis=0).max(initial=0.0))
        found: Array = (abs(self.scaling) * largest * left)[:, None]
        return found


@dataclass(frozen=True, eq=False)
class Added:
    """Adds scaling · value: (rows, 1)."""

    value: Array
    scaling: float
    terms = 1

    def apply(self, block: Array, first: int) -> Array:
        block += self.value[first : first + len(block)].astype(block.dtype, copy=False) * self.scaling
        return block

    def then(self, maps: Maps, rows: Places, columns: Places) -> Maps:
        import numpy as np

        added = self.value[rows, columns].astype(np.float64) * self.scaling
        return Maps(maps.scale, maps.shift + added, maps.size + np.abs(added), maps.terms + 1)

    def bound(self, rows: slice | Places) -> Array:
        import numpy as np

        return np.abs(self.value[rows].astype(np.float64) * self.scaling)


@dataclass(frozen=True, eq=False)
class Scaled:
    """Multiplies rows (axis 0) or columns (axis 1) by a factor each, float64; NaN where none is known yet."""

    factor: Array
    axis: int
    terms = 1

    def apply(self, block: Array, first: int) -> Array:
        block *= self._of(first, len(block)).astype(block.dtype, copy=False)
        return block

    def then(self, maps: Maps, rows: Places, columns: Places) -> Maps:
        import numpy as np

        by = self.factor[rows if self.axis == 0 else columns]
        return Maps(maps.scale * by, maps.shift * by, maps.size * np.abs(by), maps.terms + 1)

    def bound(self, rows: slice | Places) -> float:
        return 0.0

    def _of(self, first: int, count: int) -> Array:
        return self.factor[first : first + count, None] if self.axis == 0 else self.factor[None, :]


@dataclass(frozen=True, eq=False)
class Steps:
    """All of the steps of one tensor."""

    each: Sequence[Step]

    @property
    def terms(self) -> int:
        return sum(step.terms for step in self.each)

    def maps(self, rows: Places, columns: Places) -> Maps:
        """y = F w + G at single elements."""
        import numpy as np

        maps = Maps(np.ones(len(rows)), np.zeros(len(rows)), np.zeros(len(rows)), 0)
        for step in self.each:
            maps = step.then(maps, rows, columns)
        return maps

    def scale(self, first: int, count: int, dtype: Any) -> Array | float:
        """F of some rows, to be broadcast; 1.0 where nothing is scaled."""
        scale: Array | float = 1.0
        for step in self.each:
            if isinstance(step, Scaled):
                scale = scale * step._of(first, count).astype(dtype, copy=False)
        return scale

    def scales(self, rows: Places, columns: Places) -> Array | float:
        """F of single elements; 1.0 where nothing is scaled."""
        scale: Array | float = 1.0
        for step in self.each:
            if isinstance(step, Scaled):
                scale = scale * step.factor[rows if step.axis == 0 else columns]
        return scale

    def shift(self, first: int, count: int, columns: int, dtype: Any) -> Array:
        """G of some rows, (count, columns)."""
        import numpy as np

        block = np.zeros((count, columns), dtype=dtype)
        for step in self.each:
            block = step.apply(block, first)
        return block

    def bound(self, rows: slice | Places) -> Array | float:
        """No less than the absolute values that G, before any scaling, is a sum of."""
        total: Array | float = 0.0
        for step in self.each:
            total = total + step.bound(rows)
        return total
