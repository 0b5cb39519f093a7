"""The jobs of `extract`: factor a delta, compare two tensors, hash one. They carry specs, no data."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from blake3 import blake3

from loratools.checkpoints.files import write_bytes
from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.errors import LoratoolsError
from loratools.linalg.factors import fold
from loratools.linalg.noise import NoiseFloor
from loratools.linalg.norms import distance_squared
from loratools.linalg.ranks import breakeven_rank
from loratools.linalg.rounding_torch import round_once
from loratools.linalg.svd import Factorization, truncated_svd
from loratools.operations.delta import (
    READ_BYTES,
    Difference,
    compare,
    difference,
    hash_tensor,
    unfactorable,
)
from loratools.operations.evidence import Evidence, LeftFile
from loratools.operations.extract_above_noise import held_against_noise, kept_rank
from loratools.operations.extract_estimates import factoring_memory, factoring_seconds
from loratools.operations.extract_options import Truncation
from loratools.operations.pairing import Side
from loratools.operations.rates import READ_RATE
from loratools.operations.seeds import module_seed

__all__ = ["CompareJob", "FactorFacts", "FactorJob", "Factors", "HashJob", "ReadFacts", "ReadJob"]

Roots = Mapping[tuple[Side, str], str]
"""Hashes by side and name on disk."""


@dataclass(frozen=True)
class ReadFacts:
    """What reading told: which rows of a tensor differ (none where nothing was compared), and the hashes."""

    changed: int
    changed_rows: tuple[int, ...] | None
    roots: Roots


@dataclass(frozen=True)
class HashJob:
    """Hashes a tensor that is compared with nothing; a parameter (no buffer) must be finite."""

    name: str
    side: Side
    spec: TensorSpec
    parameter: bool

    @property
    def bytes(self) -> int:
        return self.spec.bytes

    @property
    def memory(self) -> int:
        return READ_BYTES

    @property
    def cost(self) -> float:
        return self.bytes / READ_RATE

    def run(self, workspace: Path) -> ReadFacts:
        return ReadFacts(0, (), {(self.side, self.spec.name): hash_tensor(self.spec, finite=self.parameter)})


@dataclass(frozen=True)
class CompareJob:
    """Finds out whether two tensors differ: base and tuned, or embedding and head of one side."""

    name: str
    first: tuple[Side, TensorSpec]
    second: tuple[Side, TensorSpec]

    @property
    def bytes(self) -> int:
        return self.first[1].bytes + self.second[1].bytes

    @property
    def memory(self) -> int:
        return READ_BYTES

    @property
    def cost(self) -> float:
        return self.bytes / READ_RATE

    def run(self, workspace: Path) -> ReadFacts:
        (one_side, one), (other_side, other) = self.first, self.second
        found = compare(one, other)
        roots = {(one_side, one.name): found.base_root, (other_side, other.name): found.tuned_root}
        return ReadFacts(found.changed, found.changed_rows, roots)


ReadJob = CompareJob | HashJob


@dataclass(frozen=True)
class Factors:
    """Factors as stored: A (r, in) and B (out, r), row-major bytes in two files of the workspace."""

    rank: int
    a_file: str
    b_file: str
    method: str
    energy: float
    residual: float
    storage_error: float
    excess: float | None
    failure_probability: float


@dataclass(frozen=True)
class FactorFacts:
    """What became of a module's delta: norm 0 is unchanged; changed without factors: to be saved whole."""

    norm: float
    base_norm: float
    factors: Factors | None
    roots: Roots = field(repr=False)
    seconds: float = 0.0
    noise: NoiseFloor | None = None
    """What rounding explains of the delta, where the rank was to be what stands above it."""

    @property
    def drowned(self) -> bool:
        """Whether there is a delta, and nothing of it stands above the noise that it was held against."""
        return self.norm > 0.0 and self.noise is not None and self.noise.above == 0

    @property
    def changed(self) -> bool:
        return self.norm > 0.0 and not self.drowned


@dataclass(frozen=True)
class FactorJob:
    """Factors tuned - base of one linear layer.

    `transposed`: the weight is stored (in, out). `whole_allowed`: where the rank that `--energy` or
    `--rank auto` needs costs more than the matrix itself, no factors are made. `noise_probability`: that
    rounding alone exceeds the storage noise floor.
    """

    name: str
    base: TensorSpec
    tuned: TensorSpec
    transposed: bool
    cut: Truncation
    whole_allowed: bool
    failure_probability: float
    noise_probability: float

    @property
    def bytes(self) -> int:
        return self.base.bytes + self.tuned.bytes

    @property
    def memory(self) -> int:
        return factoring_memory(self.base, self.tuned, self.cut)

    @property
    def cost(self) -> float:
        return factoring_seconds(self.base, self.tuned, self.cut)

    @property
    def sides(self) -> tuple[int, int]:
        """(out, in)."""
        rows, columns = self.tuned.shape
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def leaves(self) -> tuple[str, ...]:
        """The files of A and B in the workspace."""
        name = blake3(self.name.encode()).hexdigest(length=16)
        return f"{name}.A", f"{name}.B"

    def evidence(self, result: FactorFacts) -> Evidence:
        read = {(Side.BASE, self.base.name): self.base, (Side.TUNED, self.tuned.name): self.tuned}
        if result.roots.keys() != read.keys():
            raise ValueError("facts of other tensors")
        seen = tuple((spec, result.roots[place]) for place, spec in read.items())
        factors = result.factors
        if factors is None:
            return Evidence(read=seen)
        if (factors.a_file, factors.b_file) != self.leaves or not 0 < factors.rank <= min(self.sides):
            raise ValueError("factors of another tensor")
        row = factors.rank * ITEM_BYTES[self.cut.save_dtype.value]
        rows, columns = self.sides
        a_file, b_file = self.leaves
        return Evidence(read=seen, files=(LeftFile(a_file, row * columns), LeftFile(b_file, row * rows)))

    def run(self, workspace: Path) -> FactorFacts:
        started = time.perf_counter()
        read = difference(self.base, self.tuned, keep=self.cut.above_noise, reuse=True)
        roots = {
            (Side.BASE, self.base.name): read.base_root,
            (Side.TUNED, self.tuned.name): read.tuned_root,
        }
        facts = FactorFacts(0.0, read.base_norm, None, roots)
        if not read.only_rounded:
            facts = self._factor(read, facts, workspace)
        return replace(facts, seconds=time.perf_counter() - started)

    def _factor(self, read: Difference, facts: FactorFacts, workspace: Path) -> FactorFacts:
        """With the delta's norm and its factors: none where it is zero, all noise, or better saved whole."""
        try:
            found, noise = self._cut_off(read)
        except ValueError as error:
            raise unfactorable(self.tuned, error) from error
        facts = replace(facts, norm=math.sqrt(found.norm_squared), noise=noise)
        rank = found.S.shape[0]
        if facts.drowned or rank == 0 or (self.whole_allowed and rank > breakeven_rank(*self.sides)):
            return facts
        return replace(facts, factors=self._store(self._oriented(read.delta), found, workspace))

    def _cut_off(self, read: Difference) -> tuple[Factorization, NoiseFloor | None]:
        """The triplets to keep, and the noise that they were held against if that chose them."""
        delta = self._oriented(read.delta)
        if not self.cut.above_noise:
            return self._decompose(delta, self.cut.rank, read.norm_squared), None
        assert read.base is not None and read.tuned is not None
        noise, looked_at = held_against_noise(
            self._oriented(read.base),
            self._oriented(read.tuned),
            lambda rank: self._decompose(delta, rank, read.norm_squared),
            limit=self._limit,
            probability=self.noise_probability,
            seed=self.seed,
        )
        rank = kept_rank(noise)
        return (looked_at.leading(rank) if rank else looked_at), noise

    def _oriented(self, stored: torch.Tensor) -> torch.Tensor:
        """(out, in)."""
        return stored.T if self.transposed else stored

    @property
    def _limit(self) -> int:
        """The largest rank that is of any use: one more than factors are worth tells that they are not."""
        limit = min(self.cut.max_rank or min(self.sides), min(self.sides))
        return min(limit, breakeven_rank(*self.sides) + 1) if self.whole_allowed else limit

    def _decompose(self, delta: torch.Tensor, rank: int | None, norm_squared: float | None) -> Factorization:
        return truncated_svd(
            delta,
            rank=rank,
            energy=self.cut.energy,
            max_rank=self._limit,
            tolerance=self.cut.tolerance,
            method=self.cut.method,
            seed=self.seed,
            failure_probability=self.failure_probability,
            norm_squared=norm_squared,
        )

    @property
    def seed(self) -> int:
        return module_seed(self.cut.seed, self.name)

    def _store(self, delta: torch.Tensor, found: Factorization, workspace: Path) -> Factors:
        A, B = fold(found.U.numpy(), found.S.numpy(), found.Vh.numpy(), self.cut.fold)
        dtype: torch.dtype = getattr(torch, self.cut.save_dtype.value)
        certificate = found.certificate
        exact = [torch.from_numpy(factor) for factor in (A, B)]  # (r, in), (out, r)
        stored = [round_once(factor, dtype) for factor in exact]
        if not all(bool(factor.isfinite().all()) and bool(factor.any()) for factor in stored):
            raise LoratoolsError(
                f"the factors do not fit into {self.cut.save_dtype.value}",
                tensor=self.tuned.name,
                hint="store them with --save-dtype float32",
            )
        names = self.leaves
        for name, factor in zip(names, stored, strict=True):
            write_bytes(workspace / name, factor.contiguous().view(torch.uint8).numpy().data)
        norm = math.sqrt(found.norm_squared)
        about = certificate.residual
        residual = _residual(delta, stored[0], stored[1], about=about) / norm
        same = dtype is delta.dtype
        before = residual if same else _residual(delta, exact[0], exact[1], about=about) / norm
        return Factors(
            rank=A.shape[0],
            a_file=names[0],
            b_file=names[1],
            method=certificate.method,
            energy=max(0.0, 1.0 - residual**2),
            residual=residual,
            storage_error=residual - before,
            excess=certificate.excess,
            failure_probability=certificate.failure_probability,
        )


def _residual(delta: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, *, about: float) -> float:
    """||delta - B A||_F of the factors as stored, entry by entry, squares summed in float64.

    Entries are float64, except where the delta is float32 and the residual, `about` so large beside the
    delta, stands far above the rounding of a float32 product (6e-8 of it, four digits further down).
    """
    single = delta.dtype is torch.float32 and about > 1e-2
    dtype = torch.float32 if single else torch.float64
    return math.sqrt(distance_squared(delta, lora_B.to(dtype), lora_A.to(dtype)))
