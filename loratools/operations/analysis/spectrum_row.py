"""One module's spectrum as a row of the report: figures where they are decided, else bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loratools.linalg.noise_floor import NoiseFloor
from loratools.linalg.spectra import Bounds, spectral_figures
from loratools.operations.analysis.places import place_of
from loratools.reports.analysis import Spectrum

__all__ = ["KnownSpectrum", "spectrum_row"]


@dataclass(frozen=True)
class KnownSpectrum:
    """What is known of the singular values of one module's delta.

    Args:
        values: (k,) float64, the leading ones, descending.
        norm_squared: the delta's squared Frobenius norm.
        count: how many can differ from zero: min(m, n), or the rank of an adapter's product.
        smaller_side: min(m, n).
        error: at most so far is norm_squared - sum(values²) off the energy of the other values.
    """

    values: NDArray[np.float64]
    norm_squared: float
    count: int
    smaller_side: int
    error: float = 0.0


def spectrum_row(
    module: str,
    reference: str,
    known: KnownSpectrum,
    *,
    ranks: Sequence[int],
    noise: NoiseFloor | None = None,
) -> Spectrum:
    """The row of `module` in the delta of `reference`.

    Args:
        ranks: where the energy that is kept is told.
        noise: the storage noise floor; None for an adapter alone, whose product is not a difference.
    """
    figures = spectral_figures(known.values, known.norm_squared, known.count, ranks=ranks, error=known.error)
    bounds: dict[str, tuple[float, float | None]] = {}

    def decided(key: str, found: Bounds | None) -> float | None:
        """The figure; where it is not decided, its bounds are kept under `key`."""
        if found is None:
            return None
        if found.value is None:
            bounds[key] = (found.low, found.high)
        return found.value

    energies = {
        str(rank): decided(f"energy_at_rank/{rank}", found) for rank, found in figures.energy_at_rank.items()
    }
    least_ranks = {
        f"{share:g}": decided(f"rank_at_energy/{share:g}", found)
        for share, found in figures.rank_at_energy.items()
    }
    effective_rank = decided("effective_rank", figures.effective_rank)
    if noise is not None and noise.rank is None:
        bounds["noise_rank"] = noise.rank_bounds
    place = place_of(module)
    return Spectrum(
        module=module,
        layer=place.layer,
        kind=place.kind,
        reference=reference,
        norm=math.sqrt(known.norm_squared),
        smaller_side=known.smaller_side,
        complete=known.values.size >= known.count,
        singular_values=tuple(known.values.tolist()),
        energy_error=known.error / known.norm_squared if known.norm_squared else 0.0,
        energy_at_rank=energies,
        rank_at_energy={key: None if rank is None else int(rank) for key, rank in least_ranks.items()},
        effective_rank=effective_rank,
        stable_rank=figures.stable_rank,
        noise_floor=None if noise is None else noise.floor,
        noise_rank=None if noise is None else noise.rank,
        noise_note=None if noise is None else noise.note,
        bounds=bounds,
    )
