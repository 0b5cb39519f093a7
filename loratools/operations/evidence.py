"""What shows that a job was done: hashes of what it wrote and of what it read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loratools.checkpoints.claims import MAX_BYTES
from loratools.checkpoints.spec import TensorSpec

if TYPE_CHECKING:
    from loratools.operations.streaming import TensorFigures


@dataclass(frozen=True)
class LeftFile:
    """A file that a job leaves in its workspace; `bytes` is the size that it must have, if that is known."""

    name: str
    bytes: int | None = None


@dataclass(frozen=True)
class Evidence:
    """Places in files of the workspace and tensors of the inputs, each with its hash, and files that the job
    made in the workspace, whose hashes the journal has."""

    written: tuple[tuple[TensorSpec, str], ...] = ()
    read: tuple[tuple[TensorSpec, str], ...] = ()
    files: tuple[LeftFile, ...] = ()


def of_tensor(
    figures: TensorFigures, source: TensorSpec | None, target: TensorSpec, *, keep: str | None = None
) -> Evidence:
    """The evidence of a job that writes one tensor; `keep` is the part that it leaves for an undo record.

    Raises:
        ValueError: the figures are not those of this tensor, or of none.
    """
    counts = (figures.changed, figures.nonfinite, figures.off or 0, figures.foreign)
    norms = (figures.norm or 0.0, figures.largest_difference or 0.0)
    if not all(0 <= count < MAX_BYTES for count in counts) or not all(map(math.isfinite, norms)):
        raise ValueError("figures that no tensor can have")
    part = None if figures.undo is None else figures.undo.part
    if figures.name != target.name or (source is None) != (figures.source_root is None):
        raise ValueError("figures of another tensor")
    if part != (keep if source is not None else None):
        raise ValueError("a part of another tensor")
    return Evidence(
        written=((target, figures.root),),
        read=() if source is None or figures.source_root is None else ((source, figures.source_root),),
        files=() if part is None else (LeftFile(part),),
    )
