"""What an extraction will at most write and hold, and about how long it takes: told from headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loratools.checkpoints.spec import ITEM_BYTES
from loratools.linalg.svd import SvdMethod
from loratools.operations.delta import delta_dtype
from loratools.operations.extract_job import FactorJob, ReadJob
from loratools.operations.extract_options import ExtractOptions, Rest, Truncation
from loratools.operations.pairing import Pair
from loratools.operations.rates import MULTIPLY_RATE, READ_RATE
from loratools.operations.roles import Assignment, Role

__all__ = ["most_held", "most_written", "seconds_of"]

_HEADER_BYTES = 512
"""At most what a safetensors header holds on a tensor and its factors."""


def most_written(pair: Pair, assignments: Mapping[str, Assignment], options: ExtractOptions) -> int:
    """Bytes of the adapter's weights if everything changed; a tied embedding then stands under each name."""
    total = sum(_HEADER_BYTES + _most_of_one(one, options) for one in assignments.values())
    if pair.tie is not None and options.rest is Rest.SAVE:
        unwritten = [name for name in pair.tie.members if name not in pair.tensors]
        total += len(unwritten) * (_HEADER_BYTES + pair.tensors[pair.tie.embedding].spec.bytes)
    return total


def _most_of_one(assignment: Assignment, options: ExtractOptions) -> int:
    spec, cut = assignment.tensor.spec, options.truncation
    item = ITEM_BYTES[cut.save_dtype.value]
    if assignment.role is Role.FACTOR:
        least = min(spec.shape)
        rank = min(cut.rank or cut.max_rank or least, least)
        return max(rank * sum(spec.shape) * item, spec.bytes if cut.chooses else 0)
    if assignment.role in (Role.COMPARE, Role.NEW_HEAD) and options.rest is Rest.SAVE:
        return max(spec.bytes, 4 * spec.elements if len(spec.shape) == 1 else 0)
    return 0


def most_held(jobs: Sequence[FactorJob | ReadJob], cut: Truncation, workers: int) -> int:
    """Bytes of the largest module's work, times the workers."""
    return workers * max((_held(job, cut) for job in jobs if isinstance(job, FactorJob)), default=0)


def _held(job: FactorJob, cut: Truncation) -> int:
    """The delta and, for a Krylov space, some blocks of its sides; for LAPACK a few copies in float64.

    The storage noise is told from both sides as they are stored, and at times from two drawn matrices.
    """
    rows, columns = job.sides
    item = 4 if str(delta_dtype(job.base, job.tuned)).endswith("32") else 8
    delta = rows * columns * item
    dense = cut.method is SvdMethod.EXACT or min(rows, columns) < 320 or cut.rank is None
    block = min(cut.rank or 0, rows, columns) + 8
    noise = job.bytes + 2 * delta if cut.above_noise else 0
    return delta + noise + (4 * rows * columns * 8 if dense else 12 * block * (rows + columns) * item)


def seconds_of(job: FactorJob | ReadJob) -> float:
    """Seconds that one worker needs for a job."""
    seconds = job.bytes / READ_RATE
    if isinstance(job, FactorJob):
        rows, columns = job.sides
        least = min(rows, columns)
        width = min(least, (job.cut.rank or least // 4) + 8)
        seconds += 12 * rows * columns * width / MULTIPLY_RATE
    return seconds
