"""Spending bytes on singular triplets: which of many matrices gets how high a rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["Curve", "Spending", "spend"]


@dataclass(frozen=True)
class Curve:
    """What ranks of one matrix cost and bring.

    Rank r >= 1 costs `fixed + r * step` bytes, rank 0 nothing; it keeps the r largest of `energies`, the
    squared singular values, descending and not negative. Ranks below `least` are not to be had.
    """

    energies: Sequence[float]
    step: int
    fixed: int = 0
    least: int = 0

    def bytes(self, rank: int) -> int:
        return self.fixed + rank * self.step if rank else 0


@dataclass(frozen=True)
class Spending:
    """The ranks, in the order of the curves, their bytes and their energy.

    `bound`: no ranks within the budget keep more than `energy + bound`.
    """

    ranks: tuple[int, ...]
    bytes: int
    energy: float
    bound: float


@dataclass(frozen=True)
class _Raise:
    """Lifts one matrix from a rank to a higher one: a step along the upper hull of its curve."""

    curve: int
    below: int
    above: int
    bytes: int
    energy: float

    @property
    def worth(self) -> float:
        return self.energy / self.bytes


def spend(curves: Sequence[Curve], budget: int) -> Spending | None:
    """Ranks that keep the most energy for at most `budget` bytes, up to the last triplets.

    Raises are taken by energy per byte, each matrix's along the upper concave hull of its curve, so that they
    come in an order in which they can be taken; that is the optimum of the problem in which part of a raise
    can be bought, until the first that does not fit. Whatever the optimum in whole ranks is, it keeps at most
    that raise's energy more (Dantzig's bound). What fits of the rest is then taken too.

    Args:
        curves: one a matrix.
        budget: bytes.

    Returns:
        The ranks; None where even the least ones cost more than the budget.
    """
    ranks = [curve.least for curve in curves]
    left = budget - sum(curve.bytes(rank) for curve, rank in zip(curves, ranks, strict=True))
    if left < 0:
        return None
    raises = sorted(
        (step for at, curve in enumerate(curves) for step in _hull(at, curve)),
        key=lambda step: (-step.worth, step.curve, step.below),
    )
    bound = 0.0
    for step in raises:
        if ranks[step.curve] != step.below:
            continue  # an earlier raise of this matrix did not fit
        if step.bytes > left:
            bound = bound or step.energy
            step = _part(step, curves[step.curve], left)
        ranks[step.curve] = step.above
        left -= step.bytes
    energy = sum(sum(curve.energies[:rank]) for curve, rank in zip(curves, ranks, strict=True))
    return Spending(tuple(ranks), budget - left, energy, bound)


def _hull(at: int, curve: Curve) -> Iterator[_Raise]:
    """The raises of one matrix, of falling worth.

    Only the first rank costs more than the others, so that beyond the point where energy per byte from rank 0
    is greatest, the curve is concave by itself. Triplets without energy are worth nothing.
    """
    useful = sum(energy > 0.0 for energy in curve.energies)
    rank = curve.least
    if rank == 0 and useful:
        kept = list(accumulate(curve.energies[:useful]))
        rank = max(range(1, useful + 1), key=lambda above: (kept[above - 1] / curve.bytes(above), -above))
        yield _Raise(at, 0, rank, curve.bytes(rank), kept[rank - 1])
    for below in range(rank, useful):
        yield _Raise(at, below, below + 1, curve.step, curve.energies[below])


def _part(step: _Raise, curve: Curve, left: int) -> _Raise:
    """As much of a raise as fits into what is left; perhaps nothing of it."""
    above = step.below
    if left >= curve.bytes(above + 1) - curve.bytes(above):
        above = min(step.above, (left - (curve.fixed if not above else 0)) // curve.step + step.below)
    cost = curve.bytes(above) - curve.bytes(step.below)
    return _Raise(step.curve, step.below, above, cost, sum(curve.energies[step.below : above]))
