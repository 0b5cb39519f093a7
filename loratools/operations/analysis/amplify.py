"""Amplification of a weight by a delta: how much of W lies in the delta's directions, its own, random ones.

Hu et al. 2021, section 7.3 and table 7. Every figure is within 1 % of the one that exact directions give, or
is not given at all, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loratools.linalg.energies import LeadingEnergies, leading_energies
from loratools.linalg.projections import random_projection
from loratools.operations.analysis.delta_directions import ACCURACY, DeltaDirections
from loratools.operations.analysis.places import place_of
from loratools.reports.analysis import Amplification

__all__ = ["Amplified", "amplification_rows", "amplified", "measured"]


@dataclass(frozen=True)
class Amplified:
    """The figures at one rank: None where they are not defined or not known closely enough; why."""

    rank: int
    delta: float | None
    weight: float | None
    random: float
    reason: str | None


def amplified(
    shape: tuple[int, int], delta: DeltaDirections, ranks: Sequence[int], energies: LeadingEnergies
) -> list[Amplified]:
    """The figures of one weight, W of that shape, at each rank; `energies` are W's own."""
    return [_at(rank, delta, energies, shape) for rank in ranks]


def _at(rank: int, delta: DeltaDirections, energies: LeadingEnergies, shape: tuple[int, int]) -> Amplified:
    own, off = energies.root(rank)
    doubt = None if off <= ACCURACY else f"what lies in W's own directions is known to {off:.1%} only"
    value, reason = delta.projected(rank)
    return Amplified(
        rank=rank,
        delta=value,
        weight=own if doubt is None else None,
        random=random_projection(energies.norm, shape, rank),
        reason=reason or doubt,
    )


def measured(
    weight: torch.Tensor, ranks: Sequence[int], *, seed: int, failure_probability: float
) -> LeadingEnergies:
    """The energies of W's own directions; float32 suffices for them, whatever it is stored in."""
    dtype = torch.float64 if weight.dtype is torch.float64 else torch.float32
    return leading_energies(
        weight.to(dtype), ranks, accuracy=ACCURACY, seed=seed, failure_probability=failure_probability
    )


def amplification_rows(
    module: str, reference: str, norms: tuple[float, float], found: Sequence[Amplified]
) -> list[Amplification]:
    """The rows of one module and delta; `norms` of W and of the delta."""
    place = place_of(module)
    norm_W, norm_delta = norms
    return [
        Amplification(
            module=module,
            layer=place.layer,
            kind=place.kind,
            reference=reference,
            rank=one.rank,
            norm_W=norm_W,
            norm_delta=norm_delta,
            projected={"delta": one.delta, "weight": one.weight, "random": one.random},
            factor=norm_delta / one.delta if one.delta else None,
            reason=one.reason,
        )
        for one in found
    ]
