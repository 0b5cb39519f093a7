"""Reading two tensors side by side in blocks of rows: their difference, rows that differ, their hashes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch

from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import TensorSpec
from loratools.engine.kept import kept_array
from loratools.errors import LoratoolsError
from loratools.linalg.bitwise import rows_that_differ
from loratools.linalg.finite import NonFinite
from loratools.linalg.norms import frobenius_squared
from loratools.operations.rates import READ_BYTES

__all__ = [
    "Comparison",
    "Difference",
    "Distance",
    "compare",
    "delta_dtype",
    "difference",
    "distance",
    "hash_tensor",
    "narrows",
    "read_finite",
    "refuse_nonfinite",
    "unfactorable",
]

_BLOCK_BYTES = READ_BYTES // 8
"""Of a block as stored: it is read, hashed, widened, subtracted and measured while it is in the cache."""

_SAFE_SQUARES = 1e-20
"""Sums of squares that float32 holds well, whatever the block's size."""

_PRECISION = {"float64": 4, "float32": 3, "float16": 2, "bfloat16": 1}


@dataclass(frozen=True)
class Difference:
    """tuned - base, and what was seen on the way."""

    delta: torch.Tensor
    base_norm: float
    only_rounded: bool
    """Dtypes differ, and base rounded to tuned's dtype is tuned: then nothing was learnt."""
    base_root: str
    tuned_root: str
    base: torch.Tensor | None = None
    """Both sides as stored, where they were to be kept."""
    tuned: torch.Tensor | None = None
    norm_squared: float | None = None
    """||delta||_F², as `norms.frobenius_squared` has it, where it was measured on the way."""


@dataclass(frozen=True)
class Distance:
    """Frobenius norms of base and of tuned - base, over the rows that both have; and by row, if asked for."""

    base_norm: float
    norm: float
    base_rows: torch.Tensor | None
    """(rows,) float64."""
    rows: torch.Tensor | None


@dataclass(frozen=True)
class Comparison:
    """Which of the rows that both tensors have differ; `changed_rows` is None where more than half do."""

    changed: int
    changed_rows: tuple[int, ...] | None
    base_root: str
    tuned_root: str


class _Block(NamedTuple):
    first: int
    base: torch.Tensor
    tuned: torch.Tensor


def difference(base: TensorSpec, tuned: TensorSpec, *, keep: bool = False, reuse: bool = False) -> Difference:
    """tuned - base of two floating tensors of one shape.

    The delta is float32 where both are float16 or bfloat16 (then the subtraction is exact or rounded once)
    and float64 otherwise. `keep`: both sides as stored come along, each whole in memory. `reuse`: the delta
    lies in memory of the calling thread, and lasts until that asks for the next.

    Raises:
        LoratoolsError: values that are not finite on either side, with their count; a file that cannot be
            read.
    """
    wide = delta_dtype(base, tuned)
    delta = _kept(tuned.shape, wide) if reuse else torch.empty(tuned.shape, dtype=wide)
    base_squares = norm_squared = 0.0
    rounded = base.dtype != tuned.dtype and narrows(base, tuned)
    guards = (_Finite(base), _Finite(tuned))
    hashers = (TensorHasher(), TensorHasher())
    kept = [
        torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) if keep else None for spec in (base, tuned)
    ]
    widened = delta.new_empty((_rows_of_block(tuned), *tuned.shape[1:]))
    for block in _blocks(base, tuned, hashers):
        rows = slice(block.first, block.first + len(block.tuned))
        for whole, part in zip(kept, (block.base, block.tuned), strict=True):
            if whole is not None:
                whole[rows] = part
        one, other = widened[: len(block.base)].copy_(block.base), delta[rows].copy_(block.tuned)
        base_squares += guards[0].look(one)
        moved = frobenius_squared(other.sub_(one))
        if not math.isfinite(moved):  # as it also is where finite values are too large for their dtype
            guards[1].look(block.tuned)
        norm_squared += moved
        rounded = rounded and torch.equal(block.base.to(block.tuned.dtype), block.tuned)
    for guard in guards:
        guard.refuse()
    roots = hashers[0].root(), hashers[1].root()
    return Difference(
        delta,
        math.sqrt(base_squares),
        rounded,
        *roots,
        base=kept[0],
        tuned=kept[1],
        norm_squared=norm_squared,
    )


def _kept(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(kept_array("delta", shape, str(dtype).removeprefix("torch.")))


def compare(base: TensorSpec, tuned: TensorSpec) -> Comparison:
    """Which rows differ, value by value; rows that only one side has are left out of the comparison.

    Where the dtypes differ and tuned's is the narrower, base is rounded to it first.

    Raises:
        LoratoolsError: values that are not finite on either side, with their count; a file that cannot be
            read.
    """
    changed: list[int] = []
    guards = (_Finite(base), _Finite(tuned))
    hashers = (TensorHasher(), TensorHasher())
    rounds = narrows(base, tuned)
    for block in _blocks(base, tuned, hashers):
        guards[0].check(block.base)
        guards[1].check(block.tuned)
        shared = min(len(block.base), len(block.tuned))
        if not shared:
            continue
        one, other = block.base[:shared], block.tuned[:shared]
        differs = rows_that_differ(one.to(other.dtype) if rounds else one, other)
        changed.extend((differs.nonzero().flatten() + block.first).tolist())
    for guard in guards:
        guard.refuse()
    few = 2 * len(changed) <= tuned.rows
    return Comparison(len(changed), tuple(changed) if few else None, hashers[0].root(), hashers[1].root())


def distance(base: TensorSpec, tuned: TensorSpec, *, by_row: bool = False) -> Distance:
    """How far tuned lies from base, over the rows that both have; in float64.

    Raises:
        LoratoolsError: values that are not finite on either side, with their count; a file that cannot be
            read.
    """
    guards = (_Finite(base), _Finite(tuned))
    squares: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    length = math.prod(tuned.shape[1:])
    room = torch.empty(2, _rows_of_block(tuned), length, dtype=torch.float64)
    for block in _blocks(base, tuned):
        guards[0].check(block.base)
        guards[1].check(block.tuned)
        shared = min(len(block.base), len(block.tuned))
        if not shared:
            continue
        one, other = (
            wide[:shared].copy_(side[:shared].reshape(shared, length))
            for wide, side in zip(room, (block.base, block.tuned), strict=True)
        )
        squares[0].append(torch.linalg.vector_norm(one, dim=1).square_())
        squares[1].append(torch.linalg.vector_norm(other.sub_(one), dim=1).square_())
    for guard in guards:
        guard.refuse()
    rows = [torch.cat([torch.zeros(0, dtype=torch.float64), *each]) for each in squares]
    base_norm, norm = (float(each.sum().sqrt()) for each in rows)
    base_rows, moved = (each.sqrt() if by_row else None for each in rows)
    return Distance(base_norm, norm, base_rows, moved)


def read_finite(spec: TensorSpec) -> torch.Tensor:
    """A whole tensor, in the dtype it is stored in.

    Raises:
        LoratoolsError: values that are not finite, with their count; a file that cannot be read.
    """
    guard = _Finite(spec)
    with TensorReader(spec) as reader:
        values = reader.read(0, spec.rows).torch()
    for block in torch.split(values, _rows_of_block(spec)):
        guard.check(block)
    guard.refuse()
    return values


def hash_tensor(spec: TensorSpec, *, finite: bool) -> str:
    """The BLAKE3 block root of a tensor that is not compared with anything.

    Raises:
        LoratoolsError: `finite` is asked for and values are not, with their count; it cannot be read.
    """
    hasher, guard = TensorHasher(), _Finite(spec)
    step = _rows_of_block(spec)
    buffer = bytearray(max(1, step * spec.row_bytes))
    with TensorReader(spec) as reader:
        for first in range(0, spec.rows, step):
            raw = reader.read(first, min(step, spec.rows - first), into=buffer)
            hasher.update(raw.buffer)
            if finite:
                guard.check(raw.torch())
    guard.refuse()
    return hasher.root()


def unfactorable(tuned: TensorSpec, error: ValueError) -> LoratoolsError:
    """What is said where a difference has no decomposition."""
    return LoratoolsError(
        f"the difference cannot be factored: {error}",
        file=tuned.file,
        tensor=tuned.name,
        hint="the values of base and tuned are too far apart for their dtype",
    )


def delta_dtype(base: TensorSpec, tuned: TensorSpec) -> torch.dtype:
    """float32 for pairs of 16-bit tensors, float64 for all others."""
    narrow = {"float16", "bfloat16"}
    return torch.float32 if {base.dtype, tuned.dtype} <= narrow else torch.float64


def narrows(base: TensorSpec, tuned: TensorSpec) -> bool:
    """Whether tuned's dtype holds fewer digits than base's."""
    return _PRECISION.get(tuned.dtype, 0) < _PRECISION.get(base.dtype, 0)


class _Finite:
    """Counts the values of a tensor that are not finite, at the price of a sum where all are."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._wrong = 0
        self._bits: NonFinite | None = None

    def check(self, block: torch.Tensor) -> None:
        """Takes a block as it is stored, whose squares nobody asks for; no later one may be larger."""
        if NonFinite.knows(self._spec.dtype):
            self._bits = self._bits or NonFinite(self._spec.dtype, block.nbytes)
            self._bits.look(block.reshape(-1).view(torch.uint8).numpy().data)

    def look(self, block: torch.Tensor) -> float:
        """Takes a block; returns the sum of its squares, in float64 where float32 does not hold it."""
        if not block.dtype.is_floating_point:
            return 0.0
        flat = block.reshape(-1)
        # Rows by themselves, squares of their norms in float64: a long sum in float32 loses four digits.
        rows = block.reshape(len(block), -1) if block.ndim > 1 and len(flat) else flat.reshape(1, -1)
        dtype = torch.promote_types(flat.dtype, torch.float32)
        squares = float(torch.linalg.vector_norm(rows, dim=1, dtype=dtype).double().square().sum())
        if not math.isfinite(squares):
            self._wrong += flat.numel() - int(flat.isfinite().count_nonzero())
        if not _SAFE_SQUARES < squares < math.inf:
            squares = float(flat.double().square().nansum())
        return squares

    def refuse(self) -> None:
        refuse_nonfinite(self._spec, self._wrong + (0 if self._bits is None else self._bits.count))


def refuse_nonfinite(spec: TensorSpec, count: int) -> None:
    """Raises LoratoolsError where a tensor holds values that are not finite."""
    if count:
        raise LoratoolsError(
            f"{count} of {spec.elements} values are NaN or infinite",
            file=spec.file,
            tensor=spec.name,
            hint="the checkpoint is broken: take another one",
        )


def _blocks(
    base: TensorSpec, tuned: TensorSpec, hashers: tuple[TensorHasher, TensorHasher] | None = None
) -> Iterator[_Block]:
    """Both tensors block by block, rows of one beside the same rows of the other; hashed if that is asked.

    The longer one's last blocks stand beside empty ones. Buffers are reused: a block lives until the next.
    """
    step = _rows_of_block(tuned)
    with ExitStack() as stack:
        readers = [stack.enter_context(TensorReader(spec)) for spec in (base, tuned)]
        buffers = [bytearray(max(1, step * spec.row_bytes)) for spec in (base, tuned)]
        for first in range(0, max(base.rows, tuned.rows), step):
            values = []
            for reader, buffer, hasher in zip(readers, buffers, hashers or (None, None), strict=True):
                count = max(0, min(step, reader.spec.rows - first))
                raw = reader.read(first if count else 0, count, into=buffer)
                if hasher is not None:
                    hasher.update(raw.buffer)
                values.append(raw.torch() if raw.spec.shape else raw.torch().reshape(1))
            yield _Block(first, *values)


def _rows_of_block(spec: TensorSpec) -> int:
    return max(1, min(spec.rows, _BLOCK_BYTES // max(1, spec.row_bytes)))
