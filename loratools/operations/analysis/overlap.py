"""An adapter beside a full fine-tune's delta: how much of the delta's directions its subspaces hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from loratools.adapters.lowrank import LowRank
from loratools.linalg.subspaces import DirectionSet, left_directions, product_directions, right_directions
from loratools.linalg.svd import Factorization
from loratools.operations.analysis.delta_directions import DeltaDirections
from loratools.operations.analysis.places import place_of
from loratools.reports.analysis import Overlap

__all__ = ["Overlapping", "overlap_row", "overlapping", "sines_for_shares"]

_SHARE_ERROR = 0.01
"""How far a share that is held may be off."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Overlapping:
    """The figures of one adapter and one delta; see `loratools.reports.analysis.Overlap`."""

    rank: int
    held: dict[str, tuple[float | None, ...]]
    cosine: float | None
    residual: dict[int, float | None]
    extracted: dict[int, float | None]


def sines_for_shares(ranks: Iterable[int]) -> dict[int, float]:
    """How near the first i directions must be, by i, for a share that is good to 0.01.

    ||P U||_F² = tr(P UU'), and two projectors of rank i differ by eigenvalues that are the sines of the
    angles, in pairs of either sign: their part in P is at most the sum of the sines, sqrt(i) times their
    norm, and the share is that over i.
    """
    return {i: _SHARE_ERROR * math.sqrt(i) for i in ranks}


def overlapping(
    delta: torch.Tensor,
    found: Factorization,
    leading: DeltaDirections,
    update: LowRank,
    ranks: Sequence[int],
    *,
    count: int,
) -> Overlapping:
    """An adapter's update beside the delta; only products of the delta with skinny factors are made.

    Args:
        delta: (out, in).
        found: its truncated SVD.
        leading: its leading directions.
        update: the adapter's.
        ranks: where residuals are told, besides the adapter's own rank.
        count: how many of the directions shares are told of.
    """
    lora_A, lora_B = (values.array().astype(np.float64) for values in (update.A, update.B))
    spans = {"A": right_directions(lora_A), "B": left_directions(lora_B)}
    held = {side: _shares(spans[side], leading, side, min(count, *delta.shape)) for side in spans}
    right, left = product_directions(lora_A, lora_B)
    values = update.scaling * right.values  # (k,); a negative scaling turns the left directions
    along = _along(delta, left, right)
    norm_squared = found.norm_squared
    told = sorted({*ranks, update.rank})
    return Overlapping(
        rank=update.rank,
        held=held,
        cosine=_cosine(values, along, norm_squared),
        residual={
            rank: _residual(values[:rank], along[:rank], norm_squared) if rank <= update.rank else None
            for rank in told
        },
        extracted={rank: _extracted(found, rank) for rank in told},
    )


def _shares(span: DirectionSet, leading: DeltaDirections, side: str, count: int) -> tuple[float | None, ...]:
    """||P U^(i)||_F² / i for i = 1 ... count, P the projector on the span."""
    found = leading.directions
    if found is None:
        return (None,) * count
    directions = (found.Vh.T if side == "A" else found.U).double().numpy()  # (n, known)
    inner = span.coefficients.T @ (span.basis.T @ directions)  # (k, known)
    kept = np.cumsum(np.square(inner).sum(axis=0))
    known = {
        i: min(1.0, float(kept[i - 1]) / i)
        for i, sine in sines_for_shares(leading.defined(range(1, len(kept) + 1))).items()
        if found.sine(i) <= sine
    }
    return tuple(known.get(i) for i in range(1, count + 1))


def _along(delta: torch.Tensor, left: DirectionSet, right: DirectionSet) -> Matrix:
    """p_j' delta q_j for the directions of the adapter's product, (k,) float64."""
    P, Q = (torch.from_numpy(np.ascontiguousarray(each.vectors)) for each in (left, right))
    image = (P.T.to(delta) @ delta).double()  # (k, in)
    return np.asarray((image * Q.T).sum(dim=1).numpy())


def _cosine(values: Matrix, along: Matrix, norm_squared: float) -> float | None:
    length = math.sqrt(float(np.square(values).sum()) * norm_squared)
    if length == 0.0:
        return None
    return max(-1.0, min(1.0, float(values @ along) / length))


def _residual(values: Matrix, along: Matrix, norm_squared: float) -> float | None:
    """||delta - sum_j s_j p_j q_j'|| / ||delta||."""
    if norm_squared == 0.0:
        return None
    squared = norm_squared - 2.0 * float(values @ along) + float(np.square(values).sum())
    return math.sqrt(max(squared, 0.0) / norm_squared)


def _extracted(found: Factorization, rank: int) -> float | None:
    """The residual of the delta's own truncation: what is left, and what was found beyond that rank."""
    if found.norm_squared == 0.0 or rank > found.S.numel():
        return None
    beyond = float(found.S[rank:].double().square().sum()) / found.norm_squared
    return math.sqrt(found.certificate.residual**2 + beyond)


def overlap_row(module: str, reference: str, found: Overlapping) -> Overlap:
    """The row of one module and adapter."""
    place = place_of(module)
    return Overlap(
        module=module,
        layer=place.layer,
        kind=place.kind,
        reference=reference,
        rank=found.rank,
        held=found.held,
        cosine=found.cosine,
        residual={str(rank): value for rank, value in found.residual.items()},
        extracted={str(rank): value for rank, value in found.extracted.items()},
    )
