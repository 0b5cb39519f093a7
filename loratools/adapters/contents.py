"""`Contents`: what only a tensor's values can tell, asked for in one place.

A run reads them. A dry run reads headers alone, so that the answer may be unknown: then whoever asks goes the
more likely way, and says in the plan that the values will tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loratools.adapters.values import same_values
from loratools.checkpoints.spec import TensorSpec

__all__ = ["HEADERS", "VALUES", "Contents"]


@dataclass(frozen=True)
class Contents:
    """Answers by reading, or, without `reads`, with None where headers do not tell."""

    reads: bool

    @classmethod
    def of(cls, *, dry_run: bool) -> Contents:
        return HEADERS if dry_run else VALUES

    def tell(self, look: Callable[[], bool]) -> bool | None:
        """What `look`, which reads values, finds; None where nothing is read."""
        return look() if self.reads else None

    def same(self, first: TensorSpec, second: TensorSpec) -> bool | None:
        """Whether two stored tensors hold the same values, as `same_values`; None where that is unknown."""
        if self.reads:
            return same_values(first, second)
        if first == second:
            return True
        return None if first.shape == second.shape else False


VALUES = Contents(reads=True)
"""A run's."""
HEADERS = Contents(reads=False)
"""A dry run's."""
