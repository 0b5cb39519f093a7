"""`merge`: adapters into the weights of their base."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from loratools import __version__
from loratools.adapters.contents import Contents
from loratools.checkpoints.provenance import Provenance
from loratools.checkpoints.sizes import size_in_bytes
from loratools.checkpoints.target import named_target
from loratools.engine.engine import Engine
from loratools.engine.execution import Execution
from loratools.engine.foresight import Foresight
from loratools.engine.memory import PeakMemory
from loratools.engine.progress import Progress
from loratools.operations.fidelity import fidelity_warnings
from loratools.operations.merge_coverage import settled_coverage
from loratools.operations.merge_inputs import open_inputs
from loratools.operations.merge_options import MergeOptions
from loratools.operations.merge_plan import MergePlan, merge_record, plan_merge
from loratools.operations.other_base import BaseCheck
from loratools.operations.references import Reference, as_list
from loratools.operations.rewrite import run_rewrite, source_roots
from loratools.operations.rewrite_layout import Outgoing
from loratools.operations.rewrite_record import hash_tensors, kinds, require_same, scaling
from loratools.operations.streaming import TensorFigures
from loratools.reports.report import MergedModule, Report

if TYPE_CHECKING:
    from loratools.operations.undo.keeper import UndoKeeper


def merge(
    base: Reference | None,
    adapters: Sequence[Reference] | Reference,
    output: Reference | None = None,
    *,
    weights: Sequence[float] | None = None,
    dtype: str = "keep",
    shard_size: str = "keep",
    tied: str = "auto",
    allow_unmatched: bool = False,
    allow_other_base: bool = False,
    undo: bool = False,
    rounding: str = "nearest",
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    max_memory: int | str | None = None,
    cluster: str | os.PathLike[str] | None = None,
    force: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Merges adapters into the weights of their base, in the order given, and writes a checkpoint.

    Sums over all adapters are computed in float32 where the weights have 16 bits, else in float64, and
    rounded once, by default to nearest even, into the dtype that is written. The report says how much of
    each update the rounding took (`rounding_error`), and warns where that is most of it.

    Args:
        base: the checkpoint; None for the one that the adapters' configs name.
        adapters: one adapter or several, perhaps with weights (`adapter=0.8`).
        output: a folder, or a `.safetensors` file where the base has one weight file; a dry run needs none.
        weights: one for each adapter, where they do not stand inline.
        dtype: `keep`, `float32`, `bfloat16` or `float16`.
        shard_size: `keep`, or the most bytes in a file, such as `5GB`.
        tied: an embedding and a head that share a tensor: `auto` keeps them tied where both sides end equal
            and writes them apart otherwise, `tie` changes both, `untie` writes them apart, `refuse` refuses.
        allow_unmatched: go on where keys of an adapter find no tensor in the base.
        allow_other_base: go on where an adapter's hashes say that it was made for another base.
        undo: keep, in `loratools-undo/` inside of the output, what `unmerge` needs to give the base back bit
            by bit, without the adapters.
        rounding: `nearest`, or `stochastic`: up or down by chance, so that an element is right on average.
            What is written then depends on the seed, the tensor's name and the element's place in it alone.
        seed: of that chance; from 0 on.
        workers: threads; one a processor by default. They do not change what is written.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`: where sums are computed. `auto` takes all CUDA
            devices where they save more time than their transfers cost, and the report says what it took.
        max_memory: bytes that the process may hold, interpreter and libraries included, as a number or like
            "1.5GB"; by default what the machine has. Fewer jobs then run side by side; what is written is the
            same.
        cluster: the address of a Dask scheduler, or its scheduler file, whose workers do the work instead;
            `workers` is then how many jobs are under way at one time.
        force: replace an output that exists.
        resume: go on where a run of the same command that was killed, or that failed with `resume`, stopped;
            what this one finishes is kept for the next where it fails.
        dry_run: plan only; nothing is read but headers, and nothing is written.
        progress: is told what is done.

    Raises:
        UsageError: the references or options cannot mean anything.
        LoratoolsError: something is refused or fails; nothing is published.
    """
    start = time.perf_counter()
    target = named_target(output, dry_run=dry_run)
    options = MergeOptions.parse(
        dtype=dtype,
        shard_size=shard_size,
        tied=tied,
        allow_unmatched=allow_unmatched,
        allow_other_base=allow_other_base,
        force=force,
        undo=undo,
        rounding=rounding,
        seed=seed,
    )
    execution = Execution(
        workers=workers,
        device=device,
        max_memory=size_in_bytes(max_memory),
        cluster=cluster,
    )
    foresight = Foresight(progress, learn=not resume)
    engine = execution.engine(foresight)
    with PeakMemory() as memory:
        inputs = open_inputs(base, as_list(adapters), weights)
        plan = plan_merge(inputs, target, options, Contents.of(dry_run=dry_run))
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
        return foresight.learnt(run_merge(plan, engine, memory=memory, start=start, resume=resume))


def run_merge(
    plan: MergePlan, engine: Engine, *, memory: PeakMemory, start: float, resume: bool = False
) -> Report:
    """Writes what the plan says and publishes it. `start` is when the clock began, by `time.perf_counter`."""
    check = BaseCheck(plan.inputs, allow=plan.asked.allow_other_base)
    adapter_roots = [hash_tensors(one.opened) for one in plan.inputs.adapters]
    sources = {tensor.name: tensor.source for tensor in plan.tensors}

    def watch(figures: TensorFigures) -> None:
        source = sources[figures.name]
        if source is not None:
            check.see(source.name, figures.source_root)

    def record(figures: Mapping[str, TensorFigures]) -> Provenance:
        for one, known in zip(plan.inputs.adapters, adapter_roots, strict=True):
            require_same(one.opened, known)
        roots = source_roots(plan.tensors, figures)
        return merge_record(plan.inputs, plan.asked, plan.tensors, figures, roots, adapter_roots)

    keeper = _keeper(plan, adapter_roots) if plan.asked.undo else None
    done = run_rewrite(
        plan, engine, watch=watch, record=record, adapter_roots=adapter_roots, resume=resume, last=keeper
    )
    return Report(
        command="merge",
        version=__version__,
        output=plan.output,
        coverage=settled_coverage(plan.coverage, "base", done.figures),
        warnings=(
            *plan.warnings,
            *check.warnings(),
            *fidelity_warnings(plan.tensors, done.figures, plan.asked.rounding),
            *done.warnings,
        ),
        seconds=time.perf_counter() - start,
        peak_bytes=memory.peak_bytes,
        modules=tuple(
            _module(tensor, done.figures[tensor.name]) for tensor in plan.tensors if tensor.updates
        ),
        totals=plan.totals,
        details={
            "left_behind": list(plan.side.left_behind),
            **({} if keeper is None else {"undo": keeper.size()}),
            "devices": done.devices,
            **({"resumed_jobs": done.taken} if resume else {}),
        },
    )


def _keeper(plan: MergePlan, adapter_roots: Sequence[Mapping[str, str]]) -> UndoKeeper:
    from loratools.operations.undo.keeper import UndoKeeper  # brings numpy, which no plan needs

    return UndoKeeper(plan, adapter_roots)


def _module(tensor: Outgoing, figures: TensorFigures) -> MergedModule:
    return MergedModule(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        kind=kinds(tensor.updates),
        scaling=scaling(tensor.updates),
        norm=figures.norm,
        changed=figures.changed / tensor.elements if tensor.elements else 0.0,
        rounding_error=figures.rounding_error,
    )
