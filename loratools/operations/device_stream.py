"""Blocks of a tensor through a device and out: the next is under way before the last is waited for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from loratools.checkpoints.spec import TensorSpec
from loratools.engine.lease import Lease
from loratools.operations.staging import Stage
from loratools.operations.streaming import Target

__all__ = ["Computed", "bits", "stream"]

Step = TypeVar("Step")


@dataclass(frozen=True)
class Computed(Generic[Step]):
    """A block as a device has computed it: what is to be written, float64 figures of it, and whatever taking
    these may need."""

    result: torch.Tensor
    figures: torch.Tensor
    step: Step


def stream(
    spec: TensorSpec,
    lease: Lease,
    target: Target,
    rows: int,
    compute: Callable[[int, int], Computed[Step]],
    take: Callable[[Step, list[float]], None],
) -> None:
    """Writes a tensor in blocks of `rows` rows.

    Args:
        compute: enqueues what makes the rows `first:first + count`.
        take: is given the figures of each block once they are there, in order.
    """
    if not spec.elements:
        return
    down = Stage(lease, rows * spec.row_bytes)
    before: _UnderWay[Step] | None = None
    for first in range(0, spec.rows, rows):
        begun = _sent(lease, down, compute(first, min(rows, spec.rows - first)))
        if before is not None:
            _finish(before, target, take)
        before = begun
    if before is not None:
        _finish(before, target, take)


def bits(values: torch.Tensor) -> torch.Tensor:
    """Stored floating values as signed integers of their size."""
    return values.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()])


@dataclass(frozen=True)
class _UnderWay(Generic[Step]):
    """A block on its way down; on the host there will be `result` (bytes,) and `figures`."""

    computed: Computed[Step]
    result: torch.Tensor
    figures: torch.Tensor
    arrived: Callable[[], None]


def _sent(lease: Lease, down: Stage, computed: Computed[Step]) -> _UnderWay[Step]:
    values = computed.result.reshape(-1)
    figures = lease.buffer(8 * len(computed.figures)).view(torch.float64)
    host = down.next()[: values.numel() * values.element_size()]
    lease.down(computed.figures, figures)
    lease.down(values, host.view(values.dtype))
    return _UnderWay(computed, host, figures, down.sent())


def _finish(block: _UnderWay[Step], target: Target, take: Callable[[Step, list[float]], None]) -> None:
    block.arrived()
    take(block.computed.step, block.figures.tolist())
    target.write(block.result.numpy().data)
