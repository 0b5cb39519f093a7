"""The last thing that a merge with `--undo` does: it puts the record together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from loratools.operations.merge_plan import MergePlan
from loratools.operations.rewrite import source_roots
from loratools.operations.streaming import TensorFigures
from loratools.operations.undo.writing import RecordSize, write_record
from loratools.operations.unmerge_record import adapter_fingerprints

__all__ = ["UndoKeeper"]


class UndoKeeper:
    """Writes the undo record of a merge into the unpublished folder, and knows its size afterwards."""

    def __init__(self, plan: MergePlan, adapter_roots: Sequence[Mapping[str, str]]) -> None:
        self._plan, self._adapter_roots = plan, adapter_roots
        self._size: RecordSize | None = None

    def __call__(self, folder: Path, figures: Mapping[str, TensorFigures]) -> tuple[str, ...]:
        inputs, output = self._plan.inputs, self._plan.output
        assert output is not None
        fingerprints = adapter_fingerprints(inputs, self._adapter_roots)
        self._size = write_record(
            folder,
            inputs.checkpoint,
            self._plan.tensors,
            figures,
            source_roots(self._plan.tensors, figures),
            [
                {"name": one.name, "fingerprint": fingerprint, "weight": one.weight}
                for one, fingerprint in zip(inputs.adapters, fingerprints, strict=True)
            ],
            output,
            self._plan.asked.drawing_seed,
        )
        return self._size.warnings

    def size(self) -> dict[str, int | float | None]:
        """Bytes of the record, for the report."""
        assert self._size is not None
        found = self._size
        return {
            "bytes": found.bytes,
            "interval_bytes": found.intervals,
            "interval_share": found.intervals / found.merged if found.merged else None,
            "whole_bytes": found.whole,
        }
