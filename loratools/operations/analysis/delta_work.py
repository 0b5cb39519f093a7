"""What the job of one matrix does: base and tuned are read, and their difference decomposed, with torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from loratools.linalg.directions import GUARD, leading_directions
from loratools.linalg.energies import LeadingEnergies
from loratools.linalg.krylov import wide
from loratools.linalg.noise import noise_floor
from loratools.linalg.noise_floor import NoiseFloor
from loratools.linalg.svd import Factorization, SvdMethod, truncated_svd
from loratools.operations.analysis.amplify import Amplified, amplified, measured
from loratools.operations.analysis.delta_directions import (
    SMALL_SIDE,
    DeltaDirections,
    existing_values,
    near_directions,
)
from loratools.operations.analysis.delta_job import DeltaJob
from loratools.operations.analysis.overlap import Overlapping, overlapping, sines_for_shares
from loratools.operations.analysis.spectrum_row import KnownSpectrum
from loratools.operations.delta import difference, unfactorable
from loratools.operations.seeds import module_seed

__all__ = ["DeltaFacts", "analysed"]


@dataclass(frozen=True)
class DeltaFacts:
    """What was found of one matrix. `only_rounded`: tuned is base rounded to its dtype."""

    base_norm: float
    only_rounded: bool
    spectrum: KnownSpectrum
    noise: NoiseFloor
    amplified: tuple[Amplified, ...]
    overlaps: tuple[tuple[str, Overlapping], ...]

    @property
    def norm(self) -> float:
        return math.sqrt(self.spectrum.norm_squared)


def analysed(job: DeltaJob) -> DeltaFacts:
    """All that is asked of one matrix's difference.

    Raises:
        LoratoolsError: a side that cannot be read or holds values that are not finite, a difference that
            cannot be decomposed.
    """
    read = difference(job.base, job.tuned, keep=True)
    assert read.base is not None and read.tuned is not None
    base, tuned, delta = (_oriented(job, each) for each in (read.base, read.tuned, read.delta))
    if _whole(job):
        delta = wide(delta)
    found = _decomposed(job, delta)
    noise = _noise(job, base, tuned, found)
    del tuned
    read = replace(read, tuned=None, delta=read.delta.new_empty(0))
    energies = _energies(job, base)
    leading = _leading(job, base, delta, found, energies, noise, only_rounded=read.only_rounded)
    rows, columns = job.tuned.shape
    overlaps = tuple(
        (reference, overlapping(delta, found, leading, update, job.asked, count=max(job.ranks)))
        for reference, update in job.adapters
    )
    del delta
    return DeltaFacts(
        base_norm=read.base_norm,
        only_rounded=read.only_rounded,
        spectrum=_spectrum(job, found),
        noise=noise,
        amplified=() if energies is None else tuple(amplified((rows, columns), leading, job.asked, energies)),
        overlaps=overlaps,
    )


def _oriented(job: DeltaJob, stored: torch.Tensor) -> torch.Tensor:
    """(out, in)."""
    return stored.T if job.transposed else stored


def _whole(job: DeltaJob) -> bool:
    """Whether all singular values are computed: where that is asked, or costs nothing."""
    return job.full or job.smaller_side < SMALL_SIDE


def _seed(job: DeltaJob) -> int:
    return module_seed(job.seed, job.name)


def _decomposed(job: DeltaJob, delta: torch.Tensor) -> Factorization:
    rank = job.smaller_side if _whole(job) else min(max(job.ranks) + GUARD, job.smaller_side)
    try:
        return truncated_svd(
            delta,
            rank=rank,
            method=SvdMethod.EXACT if _whole(job) else SvdMethod.AUTO,
            seed=_seed(job),
            failure_probability=job.failure_probability / 4.0,
        )
    except ValueError as error:
        raise unfactorable(job.tuned, error) from error


def _noise(job: DeltaJob, base: torch.Tensor, tuned: torch.Tensor, found: Factorization) -> NoiseFloor:
    """The floor, by no more directions than leave most of the noise to be seen."""
    known = found.leading(max(max(job.ranks) + GUARD, job.smaller_side // 4))
    return noise_floor(base, tuned, known, probability=job.noise_probability, seed=_seed(job))


def _energies(job: DeltaJob, base: torch.Tensor) -> LeadingEnergies | None:
    if not job.amplification:
        return None
    chance = job.failure_probability / 4.0
    return measured(base, job.asked, seed=_seed(job) + 2, failure_probability=chance)


def _leading(
    job: DeltaJob,
    base: torch.Tensor,
    delta: torch.Tensor,
    found: Factorization,
    energies: LeadingEnergies | None,
    noise: NoiseFloor,
    *,
    only_rounded: bool,
) -> DeltaDirections:
    """The delta's leading directions, where there are any, as near as what is asked of them needs."""
    known = DeltaDirections(
        directions=None,
        values=existing_values(found),
        # Independent errors of one size have a largest singular value of sqrt(m) + sqrt(n) times that.
        entry_noise=noise.independent / sum(math.sqrt(side) for side in job.tuned.shape),
        void=f"tuned is base rounded to {job.tuned.dtype}" if only_rounded and found.S.numel() else None,
    )
    shares = sines_for_shares(known.defined(range(1, max(job.ranks) + 1))) if job.adapters else {}
    ranks = known.defined(job.asked)
    seed, chance = _seed(job) + 1, job.failure_probability / 4.0
    if energies is not None and ranks:
        directions, projection = near_directions(
            base,
            delta,
            found,
            ranks,
            energies,
            others=shares,
            seed=seed,
            failure_probability=chance,
        )
        return replace(known, directions=directions, projection=projection)
    if shares:
        directions = leading_directions(delta, found, shares, seed=seed, failure_probability=chance)
        return replace(known, directions=directions)
    return known


def _spectrum(job: DeltaJob, found: Factorization) -> KnownSpectrum:
    values = found.S.double().numpy() if found.S.numel() else torch.zeros(1, dtype=torch.float64).numpy()
    return KnownSpectrum(
        values=values,
        norm_squared=found.norm_squared,
        count=job.smaller_side,
        smaller_side=job.smaller_side,
        error=found.certificate.excess_energy * found.norm_squared,
    )
