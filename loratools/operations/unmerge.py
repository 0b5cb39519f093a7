"""`unmerge`: the base again, by subtracting what adapters added, and how far that may be off."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loratools import __version__
from loratools.adapters.contents import Contents
from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.provenance import Provenance
from loratools.checkpoints.reference import open_checkpoint
from loratools.checkpoints.sizes import size_in_bytes
from loratools.checkpoints.target import named_target
from loratools.engine.engine import Engine
from loratools.engine.execution import Execution
from loratools.engine.foresight import Foresight
from loratools.engine.memory import PeakMemory
from loratools.engine.progress import Progress
from loratools.errors import UsageError
from loratools.operations.merge_coverage import settled_coverage
from loratools.operations.merge_inputs import MergeInputs, open_inputs
from loratools.operations.references import Reference, as_list
from loratools.operations.rewrite import run_rewrite, source_roots
from loratools.operations.rewrite_layout import Outgoing
from loratools.operations.rewrite_record import hash_tensors, kinds, scaling
from loratools.operations.streaming import TensorFigures
from loratools.operations.undo.record import UndoRecord
from loratools.operations.undo.restore import last_record, run_restore, same_adapters
from loratools.operations.undo.restore_plan import RestoreOptions, RestorePlan, plan_restore
from loratools.operations.unmerge_plan import UnmergePlan, plan_unmerge, unmerge_record
from loratools.operations.unmerge_record import MergeRecord, adapter_fingerprints
from loratools.reports.report import MergedModule, Report


def unmerge(
    merged: Reference,
    adapters: Sequence[Reference] | Reference = (),
    output: Reference | None = None,
    *,
    weights: Sequence[float] | None = None,
    all_merges: bool = False,
    allow_modified: bool = False,
    allow_unmatched: bool = False,
    workers: int | None = None,
    device: str = "auto",
    max_memory: int | str | None = None,
    cluster: str | os.PathLike[str] | None = None,
    force: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Takes merges off a checkpoint again, and writes the result.

    Where the merge kept its record (`merge(..., undo=True)`) no adapter need be named, and the base comes
    back bit by bit: every tensor is checked against the base's hash before anything is published. With
    adapters that are not those of the last record, or without a record, what they added is subtracted.

    A merge rounds, so that subtraction cannot tell neighbouring base values apart everywhere: the report
    gives, for each tensor, the share of elements that may be off (`exact`) and by how much at most
    (`largest_difference`). Where the result has the hash that the merge's record holds of the base, it is
    the base.

    Args:
        merged: a checkpoint that the adapters were merged into.
        adapters: one adapter or several, perhaps with weights (`adapter=0.8`); none where the merge kept a
            record.
        output: a folder, or a `.safetensors` file where the checkpoint has one weight file; a dry run needs
            none.
        weights: those that the adapters were merged with; by default what the merge's record says, else 1.
        all_merges: take off every merge that kept a record, not only the last one.
        allow_modified: where tensors were changed since the merge, leave these as they are and restore the
            others.
        allow_unmatched: go on where keys of an adapter find no tensor.
        workers: threads; one a processor by default. They do not change what is written.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`: where adapters are taken off; restoring by an undo
            record is the processor's work. `auto` takes all CUDA devices where they save more time than their
            transfers cost, and the report says what it took.
        max_memory: bytes that the process may hold, interpreter and libraries included, as a number or like
            "1.5GB"; by default what the machine has. Fewer jobs then run side by side; what is written is the
            same.
        cluster: the address of a Dask scheduler, or its scheduler file, whose workers do the work instead;
            `workers` is then how many jobs are under way at one time.
        force: replace an output that exists.
        resume: go on where a run of the same command that was killed, or that failed with `resume`, stopped;
            what this one finishes is kept for the next where it fails.
        dry_run: plan only; nothing is read but headers and records, and nothing is written.
        progress: is told what is done.

    Raises:
        UsageError: the references cannot mean anything.
        LoratoolsError: the merge did what cannot be subtracted, or something fails; nothing is published.
    """
    start = time.perf_counter()
    target = named_target(output, dry_run=dry_run)
    execution = Execution(
        workers=workers,
        device=device,
        max_memory=size_in_bytes(max_memory),
        cluster=cluster,
    )
    foresight = Foresight(progress, learn=not resume)
    engine = execution.engine(foresight)
    with PeakMemory() as memory:
        asked = _Asked(
            merged,
            as_list(adapters),
            weights,
            all_merges,
            allow_modified,
            allow_unmatched,
            force,
            Contents.of(dry_run=dry_run),
        )
        plan = asked.plan(target)
        forecast = foresight.expect(plan, engine, execution.max_memory)
        if dry_run:
            return Report.of_plan(
                plan,
                forecast,
                version=__version__,
                seconds=time.perf_counter() - start,
                peak_bytes=memory.peak_bytes,
                totals=plan.totals,
            )
        if isinstance(plan.asked, RestoreOptions):
            return foresight.learnt(run_restore(plan, engine, memory=memory, start=start, resume=resume))
        return foresight.learnt(run_unmerge(plan, engine, memory=memory, start=start, resume=resume))


@dataclass(frozen=True)
class _Asked:
    """What was asked for; which way it goes, the merged checkpoint's records decide."""

    merged: Reference
    adapters: list[Reference]
    weights: Sequence[float] | None
    all_merges: bool
    allow_modified: bool
    allow_unmatched: bool
    force: bool
    contents: Contents

    def plan(self, target: Path | None) -> RestorePlan | UnmergePlan:
        if not self.adapters:
            if self.weights:
                raise UsageError("weights were given, and no adapter", hint="name the adapters")
            checkpoint = open_checkpoint(self.merged)
            if checkpoint.kind is not Kind.CHECKPOINT:
                raise UsageError("no merged checkpoint was given", hint="name it beside its adapters")
            return self._restored(checkpoint, target)
        inputs = open_inputs(self.merged, self.adapters, self.weights)
        if self.all_merges:
            raise UsageError(
                "--all takes off what the records tell, and adapters were named", hint="use one of the two"
            )
        record = last_record(inputs.checkpoint)
        if record is not None and self._are_those_of(record, inputs):
            restored = self._restored(inputs.checkpoint, target)
            return (
                restored
                if self.contents.reads
                else replace(restored, warnings=(*restored.warnings, _TAKEN_FOR_THOSE))
            )
        return plan_unmerge(
            inputs,
            target,
            allow_unmatched=self.allow_unmatched,
            force=self.force,
            contents=self.contents,
        )

    def _restored(self, checkpoint: Checkpoint, target: Path | None) -> RestorePlan:
        return plan_restore(
            checkpoint,
            target,
            all_of=self.all_merges,
            allow_modified=self.allow_modified,
            force=self.force,
        )

    def _are_those_of(self, record: UndoRecord, inputs: MergeInputs) -> bool:
        """Whether the adapters are those of the last merge, at its weights where the user gave any.

        A dry run hashes none: it goes by their number, and by their tensors' names where these are known.
        """
        given = [one.weight for one in inputs.adapters if one.weight_given]
        merged = [one.get("weight") for one in record.adapters]
        weights_hold = all(weight in merged for weight in given)
        if not self.contents.reads:
            told = MergeRecord.of(inputs)
            named = told.provenance is None or all(told.likely(inputs))
            return weights_hold and named and len(record.adapters) == len(inputs.adapters)
        roots = [hash_tensors(one.opened) for one in inputs.adapters]
        return weights_hold and same_adapters(record, adapter_fingerprints(inputs, roots))


_TAKEN_FOR_THOSE = (
    "the adapters are taken for those of the last merge, which its undo record takes off: their number and "
    "names fit, and their hashes, which a dry run does not compute, will tell"
)


def run_unmerge(
    plan: UnmergePlan, engine: Engine, *, memory: PeakMemory, start: float, resume: bool = False
) -> Report:
    """Writes what the plan says and publishes it. `start` is when the clock began, by `time.perf_counter`."""
    doubts = _Doubts(plan)

    def record(figures: Mapping[str, TensorFigures]) -> Provenance:
        return unmerge_record(
            plan.inputs, plan.asked, plan.tensors, doubts.figures, source_roots(plan.tensors, figures)
        )

    done = run_rewrite(
        plan,
        engine,
        watch=doubts.see,
        record=record,
        adapter_roots=plan.asked.adapter_roots,
        resume=resume,
    )
    return Report(
        command="unmerge",
        version=__version__,
        output=plan.output,
        coverage=settled_coverage(plan.coverage, "merged", done.figures),
        warnings=(*plan.warnings, *doubts.warnings(), *done.warnings),
        seconds=time.perf_counter() - start,
        peak_bytes=memory.peak_bytes,
        modules=tuple(
            _module(tensor, doubts.figures[tensor.name]) for tensor in plan.tensors if tensor.updates
        ),
        totals=plan.totals,
        details={
            "left_behind": list(plan.side.left_behind),
            "devices": done.devices,
            **({"resumed_jobs": done.taken} if resume else {}),
        },
    )


class _Doubts:
    """How far each tensor may be off, with what the merge's record knows of it taken into account."""

    def __init__(self, plan: UnmergePlan) -> None:
        self.figures: dict[str, TensorFigures] = {}
        self._plan = plan
        self._elements = {tensor.name: tensor.elements for tensor in plan.tensors}
        self._modified: list[str] = []

    def see(self, figures: TensorFigures) -> None:
        """One tensor: the record's hashes may show that it is the base's, or that nothing is known of it."""
        merged_root = self._plan.asked.record.roots.get(figures.name)
        if figures.off is not None and figures.root == self._plan.asked.record.base_roots.get(figures.name):
            figures = replace(figures, off=0, largest_difference=0.0, foreign=0)
        elif merged_root is not None and merged_root != figures.source_root:
            self._modified.append(figures.name)
            if figures.off is not None:
                figures = replace(figures, off=self._elements[figures.name], largest_difference=None)
        self.figures[figures.name] = figures

    def warnings(self) -> list[str]:
        return [*self._in_figures(), *self._not_of_this_merge()]

    def _in_figures(self) -> Iterator[str]:
        changed = [one for one in self.figures.values() if one.off is not None]
        off = sum(one.off or 0 for one in changed)
        if not off:
            return
        total = sum(self._elements[one.name] for one in changed)
        known = [one.largest_difference for one in changed if one.largest_difference is not None]
        most = f", by at most {max(known):.3g}" if len(known) == len(changed) else ""
        yield f"{off} of {total} elements ({100 * off / total:.3g} %) may be off from the base{most}"

    def _not_of_this_merge(self) -> Iterator[str]:
        if self._modified:
            yield (
                f"{len(self._modified)} tensors were changed since the merge, {min(self._modified)} for one: "
                "how far they are off from the base is not known"
            )
        foreign = [one for one in self.figures.values() if one.foreign and one.name not in self._modified]
        if foreign:
            count = sum(one.foreign for one in foreign)
            yield (
                f"{count} elements in {len(foreign)} tensors, {min(one.name for one in foreign)} for one, "
                "are not what merging these adapters can have given: the figures do not hold for them"
            )


def _module(tensor: Outgoing, figures: TensorFigures) -> MergedModule:
    off = figures.off or 0
    return MergedModule(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        kind=kinds(tensor.updates),
        scaling=scaling(tensor.updates),
        norm=figures.norm,
        changed=figures.changed / tensor.elements if tensor.elements else 0.0,
        exact=True if not off else off / tensor.elements,
        largest_difference=figures.largest_difference,
    )
