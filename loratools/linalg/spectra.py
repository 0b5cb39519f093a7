"""What a spectrum says in a few numbers; where only its leading values are known, bounds and no guesses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ranks import rank_for_energy

__all__ = ["SHARES", "Bounds", "SpectralFigures", "spectral_figures"]

SHARES = (0.5, 0.9, 0.99)
"""The shares of the squared norm whose least ranks are told."""

_AGREE = 1e-6
"""Bounds that are nearer to each other than this, relatively, are one value: six digits are decided."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """At least `low` and at most `high`."""

    low: float
    high: float

    @property
    def value(self) -> float | None:
        """The figure, where the two agree to six digits; None where it is not decided."""
        return self.high if self.high - self.low <= _AGREE * abs(self.high) else None


@dataclass(frozen=True, slots=True)
class SpectralFigures:
    """A spectrum's figures, each between bounds; those of a matrix that is zero are None or rank 0."""

    energy_at_rank: dict[int, Bounds | None]
    """Share of the squared norm that the best approximation of that rank keeps."""
    rank_at_energy: dict[float, Bounds]
    """The least rank that keeps that share; integers."""
    effective_rank: Bounds | None
    """exp of the entropy of the singular values' shares s_i / sum(s) (Roy and Vetterli 2007)."""
    stable_rank: float | None
    """norm² / s_1² (Rudelson and Vershynin 2007)."""


def spectral_figures(
    singular_values: ArrayLike,
    norm_squared: float,
    count: int,
    *,
    ranks: Sequence[int] = (),
    shares: Sequence[float] = SHARES,
    error: float = 0.0,
) -> SpectralFigures:
    """The figures of a spectrum of which the largest values are known, and the sum of all squares.

    With k values given, b = s_k the least of them and E = norm² - sum(s²) what they leave, the N = count - k
    others are only known to lie in [0, b] with squares that sum to E. Everything below follows from that;
    where N = 0, or the bounds meet, the figures are decided. The values given are taken as exact.

    Args:
        singular_values: (k,), descending, not negative; at least one unless `count` is 0.
        norm_squared: the matrix's squared Frobenius norm, as exact as the values are.
        count: how many singular values can differ from zero: min(m, n) of a matrix, r of a product B A.
        ranks: where the energy is told; positive.
        shares: in (0, 1].
        error: at most so far is norm_squared - sum(s²) off the energy of the others, beside its rounding.

    Raises:
        ValueError: fewer than k values counted, none given of some, or values that do not descend.
    """
    values = np.asarray(singular_values, dtype=np.float64)
    _check(values, count)
    if norm_squared <= 0.0 or not values.size or values[0] == 0.0:
        return SpectralFigures(dict.fromkeys(ranks), {share: Bounds(0, 0) for share in shares}, None, None)
    tail = _Tail.of(values, norm_squared, count, error)
    return SpectralFigures(
        energy_at_rank={rank: _energy(values, norm_squared, tail, rank) for rank in ranks},
        rank_at_energy={share: _rank(values, norm_squared, tail, share) for share in shares},
        effective_rank=_effective_rank(values, tail),
        stable_rank=max(1.0, norm_squared / float(values[0]) ** 2),
    )


@dataclass(frozen=True, slots=True)
class _Tail:
    """The values not given: `count` of them, each at most `largest`; bounds on the sum of their squares."""

    count: int
    largest: float
    energy: Bounds

    @classmethod
    def of(cls, values: NDArray[np.float64], norm_squared: float, count: int, error: float) -> _Tail:
        left, least = count - values.size, float(values[-1])
        energy = norm_squared - float(np.sum(np.square(values)))
        off = error + _rounding(values, norm_squared)
        most = left * least**2  # norm and values disagree by their rounding where that is passed
        return cls(left, least, Bounds(min(max(0.0, energy - off), most), min(max(0.0, energy + off), most)))


def _rounding(values: NDArray[np.float64], norm_squared: float) -> float:
    """What float64 may add to a sum of the squares, or take from it."""
    return 2.0 * (values.size + 1) * float(np.finfo(np.float64).eps) * norm_squared


def _check(values: NDArray[np.float64], count: int) -> None:
    if values.ndim != 1 or values.size > count or (count and not values.size):
        raise ValueError(f"{values.shape} singular values of {count}")
    if np.any(np.diff(values) > 0.0) or np.any(values < 0.0):
        raise ValueError("singular values must descend and not be negative")


def _energy(values: NDArray[np.float64], norm_squared: float, tail: _Tail, rank: int) -> Bounds:
    """Beyond k, the next r - k values hold at least their part of E, as its largest, and at most b² each."""
    low = high = float(np.sum(np.square(values[:rank])))
    beyond = min(rank - values.size, tail.count)
    if beyond > 0:
        low += tail.energy.low * beyond / tail.count
        high += min(tail.energy.high, beyond * tail.largest**2)
    return Bounds(min(1.0, low / norm_squared), min(1.0, high / norm_squared))


def _rank(values: NDArray[np.float64], norm_squared: float, tail: _Tail, share: float) -> Bounds:
    """Where k values do not reach the share, the missing energy takes values of at most b² and, at the
    flattest, of E / N each."""
    reached = rank_for_energy(values, norm_squared, share)
    if reached is not None or not tail.energy.high:
        rank = values.size if reached is None else reached
        return Bounds(rank, rank)
    missing = share * norm_squared - float(np.sum(np.square(values)))
    off = _rounding(values, norm_squared)
    steepest = (missing - off) / tail.largest**2
    flattest = (missing + off) / tail.energy.low * tail.count if tail.energy.low else tail.count
    low, high = (min(tail.count, max(1, math.ceil(each))) for each in (steepest, flattest))
    return Bounds(values.size + min(low, high), values.size + high)


def _effective_rank(values: NDArray[np.float64], tail: _Tail) -> Bounds:
    """Bounds on exp(H), H the entropy of the shares of all values.

    Let T0 = sum(s), L0 = sum(s ln s) over the values given, t_j the others, τ = sum(t). Then

        H = ln(T0 + τ) - (L0 + Σ t ln t) / (T0 + τ).

    *Above.* By grouping, H = (1 - w) H0 + w Hq + h(w) with w = τ / (T0 + τ), H0 the entropy of the values
    given among themselves, Hq <= ln N that of the others, h the binary entropy. (1 - w) H0 + w ln N + h(w)
    rises while w / (1 - w) <= N exp(-H0). By Cauchy and Schwarz τ <= sqrt(N E) = N t with t = sqrt(E / N)
    <= b, and T0 exp(-H0) is the geometric mean of the values given, weighted by themselves, so at least b:
    all τ that can occur lie where it rises. So H is largest where all others are t, which they can be.

    *Below.* By Jensen, Σ t ln t = τ Σ (t/τ) ln t <= τ ln(Σ t²/τ) = τ ln(E/τ). With that,

        H >= ln(T0 + τ) - (L0 + τ ln(E/τ)) / (T0 + τ),

    whose derivative is (2 (T0 + τ) + L0 - T0 ln(E/τ)) / (T0 + τ)². As t <= b, τ >= E/b, so E/τ <= b, and
    L0 >= T0 ln b: it rises, and is least at τ = E/b: as if E/b² of the others, which need not be a whole
    number, were b and the rest nothing. Where it is whole they can be so. Both bounds rise with E.
    """
    if not tail.energy.high:
        alone = _entropy(values, 0.0, 0.0)
        return Bounds(alone, alone)
    low = _entropy(values, tail.energy.low / tail.largest**2, tail.largest)
    high = _entropy(values, tail.count, math.sqrt(tail.energy.high / tail.count))
    return Bounds(min(low, high), high)


def _entropy(values: NDArray[np.float64], copies: float, value: float) -> float:
    """exp of the entropy of the shares of `values` and of so many copies of one more."""
    scaled = values[values > 0.0] / values[0]  # shares do not depend on scale
    total, logs = float(scaled.sum()), float(scaled @ np.log(scaled))
    if copies and value:
        total += copies * value / float(values[0])
        logs += copies * value / float(values[0]) * math.log(value / float(values[0]))
    return math.exp(math.log(total) - logs / total)
