"""A merge's arithmetic on a device: rows go up as they are stored and come down rounded, figures with them.

Reading, hashing and writing stay on the host and run beside the arithmetic. Sums are made in the same dtypes
and rounded once in the same way as on the processor, so that both lie within the same bound of the exact
value; last bits may differ, as products add in another order.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from loratools.adapters.update import foundation
from loratools.engine.lease import Lease
from loratools.linalg.rounding_torch import round_once
from loratools.operations.device_stream import Computed, stream
from loratools.operations.precision import Rounding
from loratools.operations.staging import Incoming, rows_at_once
from loratools.operations.streaming import Target, TensorFigures
from loratools.operations.tally_on_device import Rounded, TallyOnDevice

if TYPE_CHECKING:
    from loratools.operations.merge_job import MergeJob

__all__ = ["merge_on"]


def merge_on(job: MergeJob, lease: Lease, workspace: Path) -> TensorFigures:
    """As `MergeJob.run`. Raises LoratoolsError as it does."""
    with ExitStack() as stack:
        target = stack.enter_context(Target(job.target, workspace))
        rows = rows_at_once(job.target, lease)
        source = None
        if job.source is not None:
            source = stack.enter_context(closing(Incoming(job.source, lease, rows)))
        merge = _Merge(job, lease, source)
        merge.prepare()
        stream(job.target, lease, target, rows, merge.block, merge.take)
        return merge.figures(target)


class _Merge:
    """One tensor's blocks on a device."""

    def __init__(self, job: MergeJob, lease: Lease, source: Incoming | None) -> None:
        self._job, self._lease, self._source = job, lease, source
        self._wide: torch.dtype = getattr(torch, job.arithmetic)
        self._dtype: torch.dtype = getattr(torch, job.target.dtype)
        before = job.target.dtype if job.source is None else job.source.dtype
        self._before: torch.dtype = getattr(torch, before)
        self._columns = job.target.shape[1:]
        fits = job.source is not None and job.source.shape[1:] == self._columns
        self._available = job.source.rows if fits and job.source is not None else 0
        self._rounding = Rounding(job.name, before, job.target.dtype)
        self._tally = TallyOnDevice(job.updates, job.target)

    def prepare(self) -> None:
        """The first pass of updates that need one."""
        for place, update in enumerate(self._job.updates):
            earlier = foundation(self._job.updates[:place])

            def read(first: int, count: int) -> torch.Tensor:
                block = self._padded(self._peek(first, count), count)
                for one in earlier:  # noqa: B023 (called before the next turn)
                    block = one.apply(block, first)
                return block

            update.prepare(read, self._job.target)

    def figures(self, target: Target) -> TensorFigures:
        """Raises LoratoolsError where finite values did not fit into the dtype."""
        self._rounding.refuse_overflow()
        return TensorFigures(
            self._job.name,
            source_root=None if self._source is None else self._source.root(),
            root=target.root(),
            changed=self._tally.changed,
            norm=self._tally.norm,
            rounding_error=self._tally.rounding_error,
            nonfinite=self._rounding.nonfinite,
            source_name=None if self._job.source is None else self._job.source.name,
        )

    def block(self, first: int, count: int) -> Computed[Rounded]:
        known = self._known(first, count)
        original = self._none() if self._source is None or not known else self._source.next(known)
        after = self._padded(original, count)
        for update in self._job.updates:
            after = update.apply(after, first)
        result = round_once(after, self._dtype)
        known_as = original
        if self._before is not self._dtype:
            known_as = round_once(original.to(self._wide), self._dtype)
        step = Rounded(original, known_as, after, result, first)
        return Computed(result, self._tally.sums(step), step)

    def take(self, step: Rounded, sums: list[float]) -> None:
        overflown, inherited = self._tally.add(step, sums)
        self._rounding.overflown += overflown
        self._rounding.nonfinite += inherited

    def _known(self, first: int, count: int) -> int:
        """Rows of a block that the base has."""
        return max(0, min(count, self._available - first))

    def _peek(self, first: int, count: int) -> torch.Tensor:
        known = self._known(first, count)
        return self._none() if self._source is None or not known else self._source.peek(first, known)

    def _none(self) -> torch.Tensor:
        return torch.empty((0, *self._columns), dtype=self._before, device=self._lease.device)

    def _padded(self, original: torch.Tensor, count: int) -> torch.Tensor:
        """A wide copy, with rows of zeros up to `count`."""
        wide = original.to(self._wide, copy=True)
        missing = count - len(wide)
        return torch.cat([wide, wide.new_zeros((missing, *self._columns))]) if missing else wide
