"""`--rank auto`: how many directions of a delta stand above the noise that rounding puts under it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from loratools.linalg.noise import noise_floor
from loratools.linalg.noise_floor import NoiseFloor
from loratools.linalg.svd import Factorization

__all__ = ["held_against_noise", "kept_rank"]

_FIRST = 24
"""Triplets that are looked at first; fourfold as many while all of them stand above the floor."""

_GROWTH = 4
_SHARE = 6
"""From a rank of this part of the smaller side on, all triplets cost no more than some."""


def held_against_noise(
    base: torch.Tensor,
    tuned: torch.Tensor,
    factor: Callable[[int], Factorization],
    *,
    limit: int,
    probability: float,
    seed: int,
) -> tuple[NoiseFloor, Factorization]:
    """The noise floor of tuned - base, and triplets enough to see which stand above it.

    Args:
        base, tuned: (m, n), as stored.
        factor: the leading triplets of their difference, as many as it is asked for.
        limit: no more triplets than that are asked for.
        probability: that rounding alone exceeds the floor.
        seed: of samples and draws.
    """
    rank = min(_FIRST, limit)
    while True:
        found = factor(rank)
        noise = noise_floor(base, tuned, found, probability=probability, seed=seed)
        if noise.above < rank or rank == limit:
            return noise, found
        rank *= _GROWTH
        rank = limit if _SHARE * rank > min(base.shape) else min(rank, limit)


def kept_rank(noise: NoiseFloor) -> int:
    """How many directions an adapter keeps: those that are the fine-tune's, where that is known.

    Where it is not, every direction that stands above independent rounding is kept. Where the spectrum runs
    into the floor these are the ones that are surely the fine-tune's; where the rounding grid decides some
    may be its own, but to leave true ones out would cost more than to keep false ones.
    """
    return noise.above if noise.rank is None else noise.rank
