"""tuned - base on a device: both sides go up as they are stored, the delta is made where it is factored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, closing

import torch

from loratools.checkpoints.spec import TensorSpec
from loratools.engine.device import Kind
from loratools.engine.lease import Lease
from loratools.operations.delta import Difference, delta_dtype, narrows, refuse_nonfinite
from loratools.operations.staging import Incoming, rows_at_once

__all__ = ["difference_on"]


def difference_on(lease: Lease, base: TensorSpec, tuned: TensorSpec, *, keep: bool = False) -> Difference:
    """As `delta.difference`, with the delta on the lease's device; what is kept as stored stays on the host.

    Metal has no float64: where the delta's dtype is that, it is made, and factored, on the host.

    Raises:
        LoratoolsError: as `delta.difference`.
    """
    wide = delta_dtype(base, tuned)
    home = torch.device("cpu") if lease.kind is Kind.MPS and wide is torch.float64 else lease.device
    delta = torch.empty(tuned.shape, dtype=wide, device=home)
    rows = rows_at_once(tuned, lease)
    kept = [
        torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) if keep else None for spec in (base, tuned)
    ]
    seen = []
    maybe_rounded = base.dtype != tuned.dtype and narrows(base, tuned)
    with ExitStack() as stack:
        sides = [stack.enter_context(closing(Incoming(spec, lease, rows))) for spec in (base, tuned)]
        for first, blocks in _side_by_side(sides, rows):
            last = first + len(blocks[0])
            for whole, block in zip(kept, blocks, strict=True):
                if whole is not None:
                    whole[first:last] = block.cpu()
            one, other = (block.to(home).to(wide) for block in blocks)
            torch.sub(other, one, out=delta[first:last])
            seen.append(_look(one, other, blocks if maybe_rounded else None))
        roots = [side.root() for side in sides]
    base_squares, *wrong, differing = torch.stack(seen).sum(0).cpu().tolist() if seen else (0.0, 0, 0, 0)
    for spec, count in zip((base, tuned), wrong, strict=True):
        refuse_nonfinite(spec, int(count))
    only_rounded = maybe_rounded and differing == 0
    return Difference(
        delta, math.sqrt(base_squares), only_rounded, roots[0], roots[1], base=kept[0], tuned=kept[1]
    )


def _side_by_side(sides: list[Incoming], rows: int) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """The number of the first row, and that row and those below it of both sides."""
    total = sides[0].spec.rows
    for first in range(0, total, rows):
        yield first, [side.next(min(rows, total - first)) for side in sides]


def _look(one: torch.Tensor, other: torch.Tensor, stored: list[torch.Tensor] | None) -> torch.Tensor:
    """(4,): squares of base, values that are not finite on either side, and those that differ once rounded.

    In float64 where the device has it, else by rows in float32 and in float64 on the host.
    """
    rows = one.reshape(len(one), -1)
    if one.device.type == "mps":
        squares = torch.linalg.vector_norm(rows, dim=1).cpu().double().square().nansum()
    else:
        squares = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square().nansum()
    wrong = [(~side.isfinite()).sum().to(squares) for side in (one, other)]
    differing = squares.new_zeros(()) if stored is None else _differing(*stored).to(squares)
    return torch.stack([squares, *wrong, differing])


def _differing(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    return (base.to(tuned.dtype) != tuned).sum()
