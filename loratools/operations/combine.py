"""`combine`: one adapter of several, exactly, or by a method that says how far it is from their sum."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from loratools import __version__
from loratools.adapters.peft_write import WEIGHTS
from loratools.checkpoints.publication import Publication
from loratools.checkpoints.reference import split_weight
from loratools.checkpoints.sizes import size_in_bytes
from loratools.checkpoints.target import named_target
from loratools.engine.allocator import keep_freed_memory
from loratools.engine.engine import Engine
from loratools.engine.execution import Execution
from loratools.engine.foresight import Foresight
from loratools.engine.memory import PeakMemory
from loratools.engine.progress import Progress
from loratools.errors import UsageError
from loratools.operations.arithmetic.combine_job import Combined
from loratools.operations.arithmetic.combine_plan import CombinePlan, plan_combine
from loratools.operations.arithmetic.combined import total_distance
from loratools.operations.arithmetic.factored import open_factored
from loratools.operations.arithmetic.stored_factors import Written
from loratools.operations.combine_options import CombineOptions, Subject
from loratools.operations.merge_inputs import weights_of
from loratools.operations.references import Reference, as_list
from loratools.reports.report import Report, Totals

__all__ = ["combine", "run_combine"]


def combine(
    adapters: Sequence[Reference] | Reference,
    output: Reference | None = None,
    *,
    method: str = "cat",
    weights: Sequence[float] | None = None,
    density: float | None = None,
    rank: int | None = None,
    majority_sign_method: str = "total",
    seed: int = 0,
    workers: int | None = None,
    max_memory: int | str | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Writes one adapter of several: of each module, the sum of w·s·BA over those that have it.

    `cat` is that sum, exactly: factors stand beside each other, and ranks add up. `svd` is its best
    approximation at a rank. The others are those of PEFT's `add_weighted_adapter`: approximations, whose
    distance from the sum is measured for every module. No base is read.

    Args:
        adapters: LoRA adapters of one base in PEFT's format, perhaps with weights (`adapter=0.8`).
        output: the folder; a dry run needs none.
        method: `cat`, `svd`, `linear`, `ties`, `ties_svd`, `dare_linear`, `dare_ties` or `magnitude_prune`.
        weights: one for each adapter, where they do not stand inline; any finite number, 1 by default.
        density: the share of values that is kept where values are pruned, in (0, 1].
        rank: of `svd` and `ties_svd`; by default the largest of the adapters.
        majority_sign_method: for `ties`, `ties_svd` and `dare_ties`: `total` (the sign of the sum) or
            `frequency` (the sign of most).
        seed: of what `dare_linear` and `dare_ties` drop.
        workers: modules that are worked on side by side; by default as many as there are processors.
        max_memory: bytes that the process may hold, interpreter and libraries included, as a number or like
            "1.5GB"; by default what the machine has. Fewer jobs then run side by side; what is written is the
            same.
        force: replace an output that exists.
        dry_run: plan only; nothing is read but headers, and nothing is written.
        progress: a watcher.

    Raises:
        UsageError: options or weights that cannot mean anything.
        LoratoolsError: adapters that cannot be read or do not go together, or an output that is refused;
            nothing has been written then.
    """
    options = CombineOptions.of(
        method=method, density=density, rank=rank, majority_sign_method=majority_sign_method, seed=seed
    )
    split = [split_weight(os.fspath(reference)) for reference in as_list(adapters)]
    if not split:
        raise UsageError("no adapter was given", hint="name the adapters to combine")
    chosen = weights_of([weight for _, weight in split], weights)
    target = named_target(output, dry_run=dry_run)
    start = time.perf_counter()
    execution = Execution(workers=workers, max_memory=size_in_bytes(max_memory))
    foresight = Foresight(progress)
    engine = execution.engine(foresight)
    with PeakMemory() as memory:
        plan = plan_combine(
            [open_factored(reference) for reference, _ in split],
            [1.0 if weight is None else weight for weight in chosen],
            target,
            options,
            force=force,
        )
        forecast = foresight.expect(plan, engine, execution.max_memory)
        if dry_run:
            seconds = time.perf_counter() - start
            return Report.of_plan(
                plan,
                forecast,
                version=__version__,
                seconds=seconds,
                peak_bytes=memory.peak_bytes,
                totals=None,
            )
        return foresight.learnt(run_combine(plan, engine, memory=memory, start=start))


def run_combine(plan: CombinePlan, engine: Engine, *, memory: PeakMemory, start: float) -> Report:
    """Writes what the plan says and publishes it. `start`: when the clock began, by `time.perf_counter`."""
    assert plan.output is not None
    combined = plan.combined
    dense = combined.options.recipe.subject is Subject.DENSE
    keep_freed_memory()
    with Publication(plan.output, force=plan.force, inputs=plan.inputs) as publication:
        combined.layout.create(publication.folder / WEIGHTS)
        carried = combined.carry_jobs()
        done = [one for _, one in engine.run("copying", carried, publication.folder, torch=False)]
        found: dict[str, Combined] = {}
        for job, one in engine.run("combining", plan.jobs, publication.folder, torch=dense):
            found[job.name] = one
            done.append(one.roots)
        texts = combined.texts(found, Written.all(done))
        texts.write(publication.folder)
        size = combined.layout.size + texts.bytes
        for adapter in combined.adapters:
            adapter.opened.require_unchanged()
        left = publication.publish()
    rows = tuple(combined.row(name, one) for name, one in found.items())
    cancelled = [row.name for row in rows if row.residual is None]
    return Report(
        command="combine",
        version=__version__,
        output=plan.output,
        coverage=plan.coverage,
        warnings=(*plan.warnings, *_cancelled(cancelled), *left),
        seconds=time.perf_counter() - start,
        peak_bytes=memory.peak_bytes,
        modules=rows,
        totals=Totals.alone(combined.parameters, combined.layout.size),
        details={
            "method": combined.options.method.value,
            "adapters": [
                {"reference": one.opened.reference, "weight": weight}
                for one, weight in zip(combined.adapters, combined.weights, strict=True)
            ],
            "residual": total_distance(found),
            "output_bytes": size,
        },
    )


def _cancelled(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{names[0]}{more}: the weighted sum is zero"]
