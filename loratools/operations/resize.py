"""`resize`: an adapter at another rank, exactly: each update's leading singular directions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

from loratools import __version__
from loratools.adapters.peft_write import WEIGHTS
from loratools.checkpoints import files
from loratools.checkpoints.publication import Publication
from loratools.checkpoints.sizes import size_in_bytes
from loratools.checkpoints.target import named_target
from loratools.engine.allocator import keep_freed_memory
from loratools.engine.engine import Engine
from loratools.engine.execution import Execution
from loratools.engine.foresight import Foresight
from loratools.engine.memory import PeakMemory
from loratools.engine.progress import Progress
from loratools.operations.arithmetic.factored import open_factored
from loratools.operations.arithmetic.ranks_within import ranks_within
from loratools.operations.arithmetic.resize_job import Resized
from loratools.operations.arithmetic.resize_plan import (
    ResizePlan,
    plan_resize,
    refuse_cut_dora,
    resize_coverage,
)
from loratools.operations.arithmetic.resized import ResizedAdapter, total_residual
from loratools.operations.arithmetic.stored_factors import Written
from loratools.operations.references import Reference
from loratools.operations.resize_options import ResizeOptions
from loratools.reports.report import Report, Totals

__all__ = ["resize", "run_resize"]


def resize(
    adapter: Reference,
    output: Reference | None = None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    budget: str | int | None = None,
    workers: int | None = None,
    max_memory: int | str | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Writes the adapter that, at other ranks, is nearest to this one in every module.

    The update s·BA of each module is truncated to its leading singular directions, the best approximation of
    that rank (Eckart and Young, 1936). They are computed in float64 from the factors alone; the base is not
    read. Factors keep their dtype. What is no pair of factors goes along as it is.

    Args:
        adapter: a LoRA adapter in PEFT's format.
        output: the folder; a dry run needs none.
        rank: of every module, at most; modules of that rank or less stay as they are.
        energy: instead, the share in (0, 1] of each update's squared norm to keep, at the least rank.
        budget: instead, the most bytes of the whole output folder, such as `20MB`: ranks are chosen over all
            modules by energy per byte.
        workers: modules that are worked on side by side; by default as many as there are processors.
        max_memory: bytes that the process may hold, interpreter and libraries included, as a number or like
            "1.5GB"; by default what the machine has. Fewer jobs then run side by side; what is written is the
            same.
        force: replace an output that exists.
        dry_run: plan only; nothing is read but headers, and nothing is written.
        progress: a watcher.

    Raises:
        UsageError: not exactly one of rank, energy and budget, or one out of range.
        LoratoolsError: the adapter cannot be read or resized, or the output is refused; nothing has been
            written then.
    """
    options = ResizeOptions.of(rank=rank, energy=energy, budget=budget)
    target = named_target(output, dry_run=dry_run)
    start = time.perf_counter()
    execution = Execution(workers=workers, max_memory=size_in_bytes(max_memory))
    foresight = Foresight(progress)
    engine = execution.engine(foresight)
    with PeakMemory() as memory:
        opened = open_factored(os.fspath(adapter))
        plan = plan_resize(opened, target, options, force=force)
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
        return foresight.learnt(run_resize(plan, engine, memory=memory, start=start))


def run_resize(plan: ResizePlan, engine: Engine, *, memory: PeakMemory, start: float) -> Report:
    """Chooses ranks, writes what the plan says and publishes it. `start`: when the clock began."""
    assert plan.output is not None
    adapter = plan.adapter
    keep_freed_memory()
    with Publication(plan.output, force=plan.force, inputs=(adapter.opened.root,)) as publication:
        resized = ResizedAdapter(adapter, plan.options, _ranks(plan, engine, publication), __version__)
        refuse_cut_dora(adapter, resized.ranks)
        resized.layout.create(publication.folder / WEIGHTS)
        found: dict[str, Resized] = {}
        done: list[Written] = []
        for job, one in engine.run("resizing", resized.jobs(), publication.folder, torch=False):
            found[job.name] = one
            done.append(one.roots)
        carried = resized.carry_jobs()
        done += [one for _, one in engine.run("copying", carried, publication.folder, torch=False)]
        rows = tuple(resized.row(pair, found[name]) for name, pair in adapter.pairs.items())
        residual = total_residual(found)
        texts = resized.texts(rows, residual, Written.all(done))
        texts.write(publication.folder)
        size = resized.layout.size + texts.bytes
        if plan.options.budget is not None and size > plan.options.budget:
            raise ValueError(f"{size} bytes were written within a budget of {plan.options.budget}")
        adapter.opened.require_unchanged()
        left = publication.publish()
    return Report(
        command="resize",
        version=__version__,
        output=plan.output,
        coverage=resize_coverage(adapter, plan.options, resized.ranks),
        warnings=(*plan.warnings, *_warnings(plan, resized), *left),
        seconds=time.perf_counter() - start,
        peak_bytes=memory.peak_bytes,
        modules=rows,
        totals=Totals.alone(resized.parameters, resized.layout.size),
        details={
            "residual": residual,
            "energy": max(0.0, 1.0 - residual**2),
            "parameters_before": adapter.opened.parameters,
            "bytes_before": sum(files.size(path) for path in adapter.opened.shards),
            "output_bytes": size,
        },
    )


def _ranks(plan: ResizePlan, engine: Engine, publication: Publication) -> Mapping[str, int]:
    """The ranks; for `energy` and `budget` from the updates' spectra."""
    if plan.ranks is not None:
        return plan.ranks
    spectra = {
        job.name: found.energies
        for job, found in engine.run("decomposing", plan.jobs, publication.folder, torch=False)
    }
    pairs = plan.adapter.pairs
    if plan.options.budget is None:
        return {name: _least(spectra[name], plan.options.energy, pair.rank) for name, pair in pairs.items()}

    def most_bytes(ranks: Mapping[str, int]) -> int:
        return ResizedAdapter(plan.adapter, plan.options, ranks, __version__).most_bytes()

    return ranks_within(plan.options.budget, pairs, spectra, most_bytes)


def _least(energies: tuple[float, ...], share: float | None, rank: int) -> int:
    """The least rank that keeps the share, and at least 1; the pair's own where rounding hides it."""
    import numpy as np

    from loratools.linalg.ranks import rank_for_energy

    assert share is not None
    found = rank_for_energy(np.sqrt(energies), sum(energies), share)
    return rank if found is None else max(1, found)


def _warnings(plan: ResizePlan, resized: ResizedAdapter) -> Iterator[str]:
    if all(map(resized.kept, plan.adapter.pairs.values())):
        yield "nothing was cut: the factors are as they were"
    left_out = [name for name, rank in resized.ranks.items() if not rank]
    if left_out:
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        yield f"{left_out[0]}{more}: no factors, since the budget keeps more energy in other modules"
