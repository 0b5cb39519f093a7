"""An exact unmerge: the base as it was, from the merged checkpoint and the records of its merges."""

from __future__ import annotations

import time
from collections.abc import Mapping

from loratools import __version__
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.provenance import Provenance
from loratools.engine.engine import Engine
from loratools.engine.memory import PeakMemory
from loratools.errors import LoratoolsError
from loratools.operations.rewrite import run_rewrite, source_roots
from loratools.operations.streaming import TensorFigures
from loratools.operations.undo.record import UndoRecord, records_in
from loratools.operations.undo.restore_plan import RestorePlan, restore_record
from loratools.reports.report import MergedModule, Report

__all__ = ["last_record", "run_restore", "same_adapters"]


def last_record(merged: Checkpoint) -> UndoRecord | None:
    """The record of the last merge into a checkpoint; None where it kept none."""
    paths = records_in(merged.folder) if merged.is_folder else []
    return UndoRecord.read(paths[-1]) if paths else None


def run_restore(
    plan: RestorePlan, engine: Engine, *, memory: PeakMemory, start: float, resume: bool = False
) -> Report:
    """Writes the base and publishes it, if every tensor has the hash that the record states of it.

    Raises:
        LoratoolsError: tensors were changed since the merge (unless that is allowed), the record is damaged,
            or something fails; nothing is published.
    """
    modified: list[str] = []

    def watch(figures: TensorFigures) -> None:
        if figures.foreign:
            modified.append(figures.name)
        elif figures.root != plan.asked.base.tensors[figures.name].root:
            raise LoratoolsError(
                "what the undo record gives back is not the base's tensor: the record is damaged",
                file=plan.asked.base.path,
                tensor=figures.name,
                hint="copy the merged checkpoint again, with its loratools-undo folder",
            )

    def record(figures: Mapping[str, TensorFigures]) -> Provenance:
        if modified and not plan.asked.allow_modified:
            raise LoratoolsError(
                f"{_count(modified)} changed since the merge: {_some(modified)}",
                file=plan.inputs.checkpoint.root,
                hint="use the merged checkpoint as it was written, or --allow-modified for the others",
            )
        return restore_record(plan, figures, _merged_roots(plan, figures))

    records = [one.path for one in plan.asked.records]
    done = run_rewrite(plan, engine, watch=watch, record=record, records=records, resume=resume)
    said = (
        [f"{_count(modified)} changed since the merge and left as found: {_some(modified)}"]
        if modified
        else []
    )
    return Report(
        command="unmerge",
        version=__version__,
        output=plan.output,
        coverage=plan.coverage,
        warnings=(*plan.warnings, *said, *done.warnings),
        seconds=time.perf_counter() - start,
        peak_bytes=memory.peak_bytes,
        modules=_modules(plan, done.figures),
        totals=plan.totals,
        details={
            "merges": len(plan.asked.records),
            "left_behind": [],
            "devices": done.devices,
            **({"resumed_jobs": done.taken} if resume else {}),
        },
    )


def _merged_roots(plan: RestorePlan, figures: Mapping[str, TensorFigures]) -> dict[str, str]:
    """Those that were read, and for tensors that only the merge had, what it said of them."""
    return {**plan.asked.records[0].merged, **source_roots(plan.tensors, figures)}


def _modules(plan: RestorePlan, figures: Mapping[str, TensorFigures]) -> tuple[MergedModule, ...]:
    modules = []
    for tensor in plan.tensors:
        fates = [record.tensors[tensor.name] for record in plan.asked.records]
        hows = [fate.how for fate in fates if fate.how != "copied"]
        if not hows:
            continue
        found = figures[tensor.name]
        modules.append(
            MergedModule(
                name=tensor.name,
                shape=tensor.shape,
                dtype=tensor.dtype,
                kind="+".join("whole" if how == "whole" else "rounding" for how in hows),
                scaling=None,
                norm=None,
                changed=found.changed / tensor.elements if tensor.elements else 0.0,
                exact=True if not found.foreign else 1.0,
                largest_difference=None if found.foreign else 0.0,
            )
        )
    return tuple(modules)


def _count(names: list[str]) -> str:
    return "1 tensor was" if len(names) == 1 else f"{len(names)} tensors were"


def _some(names: list[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")


def same_adapters(record: UndoRecord, fingerprints: list[str]) -> bool:
    """Whether these are the adapters that were merged."""
    return sorted(str(one.get("fingerprint")) for one in record.adapters) == sorted(fingerprints)
