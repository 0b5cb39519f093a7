"""The job of one matrix: base and tuned are read once, and all is told that is asked of their difference."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from loratools.adapters.lowrank import LowRank
from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.linalg.directions import GUARD, leading_directions
from loratools.linalg.energies import LeadingEnergies
from loratools.linalg.krylov import wide
from loratools.linalg.noise import NoiseFloor, noise_floor
from loratools.linalg.svd import Factorization, SvdMethod, truncated_svd
from loratools.operations.analysis.amplify import Amplified, amplified, measured
from loratools.operations.analysis.delta_directions import (
    SMALL_SIDE,
    DeltaDirections,
    existing_values,
    near_directions,
)
from loratools.operations.analysis.overlap import Overlapping, overlapping, sines_for_shares
from loratools.operations.analysis.spectrum_row import KnownSpectrum
from loratools.operations.delta import difference, unfactorable
from loratools.operations.rates import MULTIPLY_RATE, READ_RATE
from loratools.operations.seeds import module_seed

__all__ = ["DeltaFacts", "DeltaJob"]


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


_PASSES = {False: 8, True: 24}
"""Passes over the matrix, without and with amplification, behind what a job costs."""


@dataclass(frozen=True)
class DeltaJob:
    """Analyses tuned - base of one linear layer.

    `transposed`: the weight is stored (in, out). `adapters` are the low-rank updates of it, by the references
    of their adapters. `failure_probability` bounds the chance that any figure's bound is too small.
    """

    name: str
    base: TensorSpec
    tuned: TensorSpec
    transposed: bool
    ranks: tuple[int, ...]
    """The asked ones, and those of the adapters."""
    asked: tuple[int, ...]
    amplification: bool
    full: bool
    adapters: tuple[tuple[str, LowRank], ...]
    seed: int
    failure_probability: float
    noise_probability: float

    @property
    def bytes(self) -> int:
        return self.base.bytes + self.tuned.bytes

    @property
    def memory(self) -> int:
        """Both sides as stored, the delta in its arithmetic's dtype, a Krylov space or LAPACK's copies."""
        item = 4 if max(ITEM_BYTES[self.base.dtype], ITEM_BYTES[self.tuned.dtype]) == 2 else 8
        elements = self.tuned.elements
        work = 12 * (max(self.ranks) + 32) * sum(self.tuned.shape) * 8
        if self.full or self.smaller_side < 640:
            work = max(work, 4 * 8 * elements)
        return self.bytes + 2 * item * elements + work

    @property
    def cost(self) -> float:
        width = min(self.smaller_side, max(self.ranks) + 8)
        products = _PASSES[self.amplification] * 2 * self.tuned.elements * width
        return self.bytes / READ_RATE + products / MULTIPLY_RATE

    @property
    def _shape(self) -> tuple[int, int]:
        rows, columns = self.tuned.shape
        return rows, columns

    @property
    def smaller_side(self) -> int:
        return min(self.tuned.shape)

    def run(self, workspace: Path) -> DeltaFacts:
        read = difference(self.base, self.tuned, keep=True)
        assert read.base is not None and read.tuned is not None
        base, tuned, delta = (self._oriented(each) for each in (read.base, read.tuned, read.delta))
        if self._whole:
            delta = wide(delta)
        found = self._decomposed(delta)
        noise = self._noise(base, tuned, found)
        del tuned
        read = replace(read, tuned=None, delta=read.delta.new_empty(0))
        energies = self._energies(base)
        leading = self._leading(base, delta, found, energies, noise, only_rounded=read.only_rounded)
        overlaps = tuple(
            (reference, overlapping(delta, found, leading, update, self.asked, count=max(self.ranks)))
            for reference, update in self.adapters
        )
        del delta
        return DeltaFacts(
            base_norm=read.base_norm,
            only_rounded=read.only_rounded,
            spectrum=self._spectrum(found),
            noise=noise,
            amplified=()
            if energies is None
            else tuple(amplified(self._shape, leading, self.asked, energies)),
            overlaps=overlaps,
        )

    def _oriented(self, stored: torch.Tensor) -> torch.Tensor:
        """(out, in)."""
        return stored.T if self.transposed else stored

    @property
    def _whole(self) -> bool:
        """Whether all singular values are computed: where that is asked, or costs nothing."""
        return self.full or self.smaller_side < SMALL_SIDE

    @property
    def _seed(self) -> int:
        return module_seed(self.seed, self.name)

    def _decomposed(self, delta: torch.Tensor) -> Factorization:
        rank = self.smaller_side if self._whole else min(max(self.ranks) + GUARD, self.smaller_side)
        try:
            return truncated_svd(
                delta,
                rank=rank,
                method=SvdMethod.EXACT if self._whole else SvdMethod.AUTO,
                seed=self._seed,
                failure_probability=self.failure_probability / 4.0,
            )
        except ValueError as error:
            raise unfactorable(self.tuned, error) from error

    def _noise(self, base: torch.Tensor, tuned: torch.Tensor, found: Factorization) -> NoiseFloor:
        """The floor, by no more directions than leave most of the noise to be seen."""
        known = found.leading(max(max(self.ranks) + GUARD, self.smaller_side // 4))
        return noise_floor(base, tuned, known, probability=self.noise_probability, seed=self._seed)

    def _energies(self, base: torch.Tensor) -> LeadingEnergies | None:
        if not self.amplification:
            return None
        chance = self.failure_probability / 4.0
        return measured(base, self.asked, seed=self._seed + 2, failure_probability=chance)

    def _leading(
        self,
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
            entry_noise=noise.independent / sum(math.sqrt(side) for side in self.tuned.shape),
            void=f"tuned is base rounded to {self.tuned.dtype}" if only_rounded and found.S.numel() else None,
        )
        shares = sines_for_shares(known.defined(range(1, max(self.ranks) + 1))) if self.adapters else {}
        ranks = known.defined(self.asked)
        seed, chance = self._seed + 1, self.failure_probability / 4.0
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

    def _spectrum(self, found: Factorization) -> KnownSpectrum:
        values = found.S.double().numpy() if found.S.numel() else torch.zeros(1, dtype=torch.float64).numpy()
        return KnownSpectrum(
            values=values,
            norm_squared=found.norm_squared,
            count=self.smaller_side,
            smaller_side=self.smaller_side,
            error=found.certificate.excess_energy * found.norm_squared,
        )
