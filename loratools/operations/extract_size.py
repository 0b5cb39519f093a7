"""What an extraction will at most write: told from headers."""

from __future__ import annotations

from collections.abc import Mapping

from loratools.checkpoints.spec import ITEM_BYTES
from loratools.operations.extract_options import ExtractOptions, Rest
from loratools.operations.pairing import Pair
from loratools.operations.roles import Assignment, Role

__all__ = ["most_written"]

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
