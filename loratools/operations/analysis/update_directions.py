"""The leading directions of what an adapter adds to a weight: of its factors, or of the change it makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from loratools.adapters.dora import Dora
from loratools.adapters.lowrank import LowRank
from loratools.adapters.update import rows_of_block
from loratools.checkpoints.spec import TensorSpec
from loratools.linalg.directions import GUARD, exact_directions
from loratools.linalg.energies import LeadingEnergies
from loratools.linalg.krylov import wide
from loratools.linalg.subspaces import product_directions
from loratools.linalg.svd import truncated_svd
from loratools.operations.analysis.delta_directions import (
    SMALL_SIDE,
    DeltaDirections,
    existing_values,
    near_directions,
    projected_on,
)
from loratools.operations.analysis.stored_directions import TYPICAL_ROUNDING, product_noise

__all__ = ["directions_of"]


def directions_of(
    update: LowRank | Dora,
    weight: torch.Tensor,
    spec: TensorSpec,
    ranks: Sequence[int],
    energies: LeadingEnergies,
    *,
    seed: int,
    failure_probability: float,
) -> tuple[DeltaDirections, float]:
    """The leading directions of what an update adds to a weight, as that is stored; and its norm.

    Args:
        update: bound to the weight.
        weight: (rows, columns), as stored.
        spec: the weight's.
        ranks: at which directions will be asked for.
        energies: the weight's.
    """
    if isinstance(update, LowRank):
        return _of_factors(update, weight, ranks, energies)
    return _of_difference(_added(update, weight, spec), weight, ranks, energies, seed, failure_probability)


def _of_factors(
    update: LowRank, weight: torch.Tensor, ranks: Sequence[int], energies: LeadingEnergies
) -> tuple[DeltaDirections, float]:
    lora_A, lora_B = (values.array().astype(np.float64) for values in (update.A, update.B))
    right, left = product_directions(lora_A, lora_B)
    values = torch.from_numpy(abs(update.scaling) * right.values)
    entry, _ = product_noise(lora_A, lora_B, (update.A.spec.dtype, update.B.spec.dtype))
    noise = abs(update.scaling) * entry
    if not right.count or not update.scaling:
        return DeltaDirections(None, (), noise), 0.0
    into, out = (torch.from_numpy(np.ascontiguousarray(each.vectors)) for each in (right, left))
    U, V = (into, out) if update.transposed else (out, into)
    directions = exact_directions(U, values, V.T, right.count)
    projection = projected_on(weight, directions, [rank for rank in ranks if rank <= right.count], energies)
    return DeltaDirections(directions, tuple(values.tolist()), noise, projection), float(values.norm())


def _added(update: Dora, weight: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """W' - W in the arithmetic of a merge."""
    narrow = weight.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if narrow else torch.float64
    own = Dora(update.direction, update.magnitude, update.stacked)

    def read(first: int, count: int) -> torch.Tensor:
        return weight[first : first + count].to(dtype, copy=True)

    own.prepare(read, spec)
    step = rows_of_block(spec)
    blocks = [
        own.apply(block := read(first, step), first) - weight[first : first + len(block)].to(dtype)
        for first in range(0, spec.rows, step)
    ]
    return torch.cat(blocks)


def _of_difference(
    delta: torch.Tensor,
    weight: torch.Tensor,
    ranks: Sequence[int],
    energies: LeadingEnergies,
    seed: int,
    failure_probability: float,
) -> tuple[DeltaDirections, float]:
    side = min(delta.shape)
    found = truncated_svd(
        wide(delta) if side < SMALL_SIDE else delta,
        rank=min(max(ranks) + GUARD, side),
        seed=seed,
        failure_probability=failure_probability / 2.0,
    )
    norm = math.sqrt(found.norm_squared)
    # Each entry was rounded once, in W' (by the arithmetic's unit of W, not of the delta).
    size = float(weight.double().square().mean().sqrt())
    noise = TYPICAL_ROUNDING * torch.finfo(delta.dtype).eps / 2.0 * size
    known = DeltaDirections(None, existing_values(found), noise)
    defined = known.defined(ranks)
    if not defined:
        return known, norm
    directions, projection = near_directions(
        weight,
        delta,
        found,
        defined,
        energies,
        others={},
        seed=seed + 1,
        failure_probability=failure_probability / 2.0,
    )
    return replace(known, directions=directions, projection=projection), norm
