"""The jobs of `extract`: factor a delta, compare two tensors, hash one. They carry specs, no data.

What they do is `extract_work`, which imports torch: only where a job runs is it imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.engine.device import Kind
from loratools.engine.lease import Lease
from loratools.engine.payoff import Work
from loratools.linalg.noise_floor import NoiseFloor
from loratools.operations.evidence import Evidence, LeftFile
from loratools.operations.extract_estimates import factoring_memory, factoring_seconds
from loratools.operations.extract_options import Truncation
from loratools.operations.pairing import Side
from loratools.operations.rates import READ_BYTES, READ_RATE
from loratools.operations.seeds import module_seed
from loratools.operations.staging import BLOCK_ELEMENTS

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
        from loratools.operations.extract_work import hashed

        return hashed(self)


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
        from loratools.operations.extract_work import compared

        return compared(self)


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

    @property
    def seed(self) -> int:
        return module_seed(self.cut.seed, self.name)

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

    def device_work(self, kind: Kind) -> Work:
        """Both sides as they are stored go up, factors come down."""
        least = min(self.sides)
        width = min(least, (self.cut.rank or least // 4) + 8)  # of what the matrix is multiplied by, about
        products, blocks = 12.0 * self.tuned.elements * width, self.tuned.elements // BLOCK_ELEMENTS
        return Work(self.bytes + 4 * width * sum(self.sides), self.bytes, products, 8 + blocks)

    def run_on(self, lease: Lease, workspace: Path) -> FactorFacts:
        from loratools.operations.extract_work import factored_on

        return factored_on(lease, self, workspace)

    def run(self, workspace: Path) -> FactorFacts:
        from loratools.operations.extract_work import factored

        return factored(self, workspace)
