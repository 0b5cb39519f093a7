"""The figures of a merge (see `tally`), summed on a device in float64 and brought down with each block."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from loratools.adapters.update import Update
from loratools.checkpoints.spec import TensorSpec
from loratools.operations.device_stream import bits

__all__ = ["Rounded", "TallyOnDevice"]

_UNIT = 2.0**-24
_BLUR = 1e-2
"""Where float32's own rounding could exceed this share of the update, the error is measured in float64."""


@dataclass(frozen=True)
class Rounded:
    """Some rows on a device: the base's as stored and in the output's dtype (perhaps fewer than are written),
    all of them after the updates in wide arithmetic, as written, and the number of the first."""

    original: torch.Tensor
    known: torch.Tensor
    after: torch.Tensor
    result: torch.Tensor
    first: int


class TallyOnDevice:
    """Sums over the blocks of one tensor. Elements that are not finite are left out of norms."""

    def __init__(self, updates: tuple[Update, ...], target: TensorSpec) -> None:
        self.changed = 0
        self._updates, self._elements = updates, target.elements
        self._subtractable = all(update.subtractable for update in updates)
        self._known = updates[0].norm() if len(updates) == 1 and self._subtractable else None
        self._added = 0.0
        self._lost = 0.0

    def sums(self, step: Rounded) -> torch.Tensor:
        """(6,) float64 on the device: elements changed, not finite, and not finite in the base either; the
        largest magnitude before rounding; squares of what was added, and of what rounding made of it."""
        shared = len(step.known)
        size = step.result.numel()
        same = (bits(step.result[:shared]) == bits(step.known)).sum()
        odd = ~step.result.isfinite()
        inherited = (odd[:shared] & ~step.original.isfinite()).sum()
        wide = step.after.double()
        lost = _squares(step.result.double() - wide)
        largest = wide.abs().amax()
        wide = wide.clone() if wide is step.after else wide
        wide[:shared] -= step.original.double()
        counts = [size - same, odd.sum(), inherited]
        return torch.stack([*(count.double() for count in counts), largest, _squares(wide), lost])

    def add(self, step: Rounded, sums: list[float]) -> tuple[int, int]:
        """Takes a block's sums; gives how many elements overflowed, and how many were not finite before."""
        changed, odd, inherited, largest, added, lost = sums
        size = step.after.numel()
        self.changed += int(changed)
        if self._known is not None:
            added = self._known * self._known * (size / self._elements)
        blurred = step.after.dtype is torch.float32 and (_UNIT * largest) ** 2 * size > _BLUR**2 * added
        if blurred and self._subtractable:
            lost, exact = self._in_float64(step)
            added = added if self._known is not None else exact
        self._added += added
        self._lost += lost
        return int(odd) - int(inherited), int(inherited)

    @property
    def norm(self) -> float:
        """The Frobenius norm of what was added."""
        return math.sqrt(self._added) if self._known is None else self._known

    @property
    def rounding_error(self) -> float | None:
        """Relative to the norm; None where nothing was added."""
        norm = self.norm
        return math.sqrt(self._lost) / norm if norm else None

    def _in_float64(self, step: Rounded) -> tuple[float, float]:
        """(lost, added), where the updates only add: their sum in float32 lost too much itself."""
        update = step.after.new_zeros(step.after.shape, dtype=torch.float64)
        for one in self._updates:
            update = one.apply(update, step.first)
        moved = step.result.double()
        moved[: len(step.original)] -= step.original.double()
        return float(_squares(moved - update)), float(_squares(update))


def _squares(values: torch.Tensor) -> torch.Tensor:
    """Of all finite values."""
    return values.nan_to_num(0.0, 0.0, 0.0).square().sum()
