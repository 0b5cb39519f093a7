"""Taking a merge off on a device: the intervals of `subtract`, in torch, with the same room for rounding."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from loratools.engine.lease import Lease
from loratools.linalg.gaps_torch import largest_gap, least_gap
from loratools.linalg.rounding_torch import round_once
from loratools.operations.device_stream import Computed, bits, stream
from loratools.operations.precision import Rounding, arithmetic_dtype
from loratools.operations.staging import Incoming, rows_at_once
from loratools.operations.streaming import Target, TensorFigures

if TYPE_CHECKING:
    from loratools.operations.subtract import SubtractJob

__all__ = ["subtract_on"]


def subtract_on(job: SubtractJob, lease: Lease, workspace: Path) -> TensorFigures:
    """As `SubtractJob.run`. Raises LoratoolsError as it does."""
    rows = rows_at_once(job.target, lease)
    with Target(job.target, workspace) as target, closing(Incoming(job.source, lease, rows)) as source:
        subtraction = _Subtraction(job, lease, source)
        stream(job.target, lease, target, rows, subtraction.block, subtraction.take)
        subtraction.rounding.refuse_overflow()
        return TensorFigures(
            job.name,
            source_root=source.root(),
            root=target.root(),
            changed=subtraction.changed,
            norm=job.updates[0].norm() if len(job.updates) == 1 else None,
            nonfinite=subtraction.rounding.nonfinite,
            off=subtraction.off,
            largest_difference=subtraction.largest,
            foreign=subtraction.foreign,
        )


class _Subtraction:
    """One tensor's blocks on a device, and what is counted of them."""

    def __init__(self, job: SubtractJob, lease: Lease, source: Incoming) -> None:
        from loratools.operations.subtract import room, sizes

        arithmetic = arithmetic_dtype(job.target.dtype)
        self.rounding = Rounding(job.name, job.target.dtype, job.target.dtype)
        self.changed = self.off = self.foreign = 0
        self.largest = 0.0
        self._updates, self._source = job.updates, source
        self._dtype: torch.dtype = getattr(torch, job.target.dtype)
        self._wide: torch.dtype = getattr(torch, arithmetic)
        self._room = room(job.updates, arithmetic)
        self._sizes = [
            tuple(None if side is None else torch.from_numpy(side).to(lease.device) for side in one)
            for one in (sizes(update, arithmetic) for update in job.updates)
        ]

    def block(self, first: int, count: int) -> Computed[None]:
        merged = self._source.next(count)
        centre = merged.to(self._wide, copy=True)
        for update in self._updates:
            centre -= update.apply(torch.zeros_like(centre), first)
        restored = round_once(centre, self._dtype)
        odd = ~restored.isfinite()
        counts = [(bits(restored) != bits(merged)).sum(), odd.sum(), (odd & ~merged.isfinite()).sum()]
        counts += self._doubt(merged, centre, restored, first)
        return Computed(restored, torch.stack([count.double() for count in counts]), None)

    def take(self, step: None, figures: list[float]) -> None:
        changed, odd, inherited, off, foreign, largest = figures
        self.changed += int(changed)
        self.rounding.overflown += int(odd) - int(inherited)
        self.rounding.nonfinite += int(inherited)
        self.off += int(off)
        self.foreign += int(foreign)
        self.largest = max(self.largest, largest)

    def _doubt(
        self, merged: torch.Tensor, centre: torch.Tensor, restored: torch.Tensor, first: int
    ) -> list[torch.Tensor]:
        """How many elements may be off, how many cannot come from such a merge, and how far off at most."""
        half = largest_gap(merged, self._wide) / 2
        reach = centre.abs() + half
        for rows, columns in self._sizes:
            assert rows is not None
            part = rows[first : first + len(centre)]
            reach += part if columns is None else torch.outer(part, columns)
        reach = reach * self._room + half  # W lies within this distance of c
        aside = (centre - restored.to(self._wide)).abs()
        outside = aside > reach
        doubtful = (least_gap(restored, self._wide) <= reach + aside) | outside | ~aside.isfinite()
        most = torch.where(doubtful, reach + aside, 0.0).nan_to_num(0.0, 0.0, 0.0)
        return [doubtful.sum(), (outside & doubtful).sum(), most.amax()]
