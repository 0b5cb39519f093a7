"""Subspace similarity of adapters: phi for every module that two of them share, beside its random control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.engine.allocator import keep_freed_memory
from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.engine.engine import Engine
from loratools.engine.plan import Plan
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.analysis.findings import Findings
from loratools.operations.analysis.options import AnalyzeOptions
from loratools.operations.analysis.places import in_model_order, place_of
from loratools.operations.analysis.similarity_job import Holder, ModuleGrid, SimilarityJob
from loratools.operations.analysis.similarity_means import Compared, as_grid, means_of
from loratools.operations.analysis.similarity_notes import Note, named, told
from loratools.operations.analysis.skinny import SkinnyAdapter, adapter_labels, refuse_above
from loratools.operations.rates import overhead
from loratools.reports.analysis import Grid, Similarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

__all__ = ["SimilarityPlan", "compare_adapters", "plan_similarity", "run_similarity"]

SimilarityPlan = Plan[SimilarityJob]


def plan_similarity(adapters: Sequence[SkinnyAdapter], options: AnalyzeOptions) -> SimilarityPlan:
    """The jobs of comparing two or more adapters, all pairs of them, from headers alone.

    `options.ranks` cut the adapters, one each in their order; None leaves each as it is.

    Raises:
        UsageError: not one rank for each adapter, or one above its adapter's own.
        LoratoolsError: no two adapters share a module.
    """
    ranks = _ranks(adapters, options.ranks)
    jobs = tuple(
        SimilarityJob(module, holders, options.directions)
        for module in in_model_order({name for one in adapters for name in one.modules})
        if len(holders := _holders(module, adapters, ranks)) > 1
    )
    if not jobs:
        raise LoratoolsError(
            f"{adapters[0].reference} and {adapters[1].reference} share no module with factors",
            hint="compare adapters of one model",
        )
    size = sum(job.bytes for job in jobs)
    return Plan(
        command="analyze",
        output=None,
        jobs=jobs,
        coverage=Coverage.of(_coverage(adapters, jobs)),
        read_bytes=size,
        write_bytes=0,
        overhead_bytes=overhead("similarity"),
        likeness="similarity",
        warnings=tuple(_warnings(adapters, jobs)),
    )


def compare_adapters(adapters: Sequence[SkinnyAdapter], options: AnalyzeOptions, engine: Engine) -> Findings:
    """Compares two or more adapters. Raises as `plan_similarity`, and where factors cannot be read."""
    return run_similarity(plan_similarity(adapters, options), adapters, options, engine)


def run_similarity(
    plan: SimilarityPlan, adapters: Sequence[SkinnyAdapter], options: AnalyzeOptions, engine: Engine
) -> Findings:
    """Reads and compares what a plan says. Raises LoratoolsError where factors cannot be read."""
    keep_freed_memory()
    compared: list[Compared] = []
    notes: list[Note] = []
    for job, found in engine.run("comparing", plan.jobs, Path(), torch=False):
        notes += found.notes
        compared += [_compared(job.name, one, adapters, options) for one in found.grids]
    references = [one.reference for one in adapters]
    return Findings(
        similarity=tuple(one.row for one in compared),
        means=means_of(compared),
        coverage=plan.coverage.rows,
        warnings=(*plan.warnings, *told(notes, references, options.directions)),
    )


def _ranks(adapters: Sequence[SkinnyAdapter], asked: Sequence[int] | None) -> list[int | None]:
    """The rank to cut each adapter to; None for that of each of its modules."""
    if asked is None:
        return [None] * len(adapters)
    if len(asked) != len(adapters):
        raise UsageError(
            f"{len(asked)} ranks for {len(adapters)} adapters",
            hint="give one rank for each adapter, in their order, or none",
        )
    for one, rank in zip(adapters, asked, strict=True):
        refuse_above([rank], one)
    return list(asked)


def _holders(
    module: str, adapters: Sequence[SkinnyAdapter], ranks: Sequence[int | None]
) -> tuple[Holder, ...]:
    """The adapters that have the module."""
    return tuple(
        Holder(place, one.modules[module], one.modules[module].rank if rank is None else rank)
        for place, (one, rank) in enumerate(zip(adapters, ranks, strict=True))
        if module in one.modules
    )


def _coverage(adapters: Sequence[SkinnyAdapter], jobs: Sequence[SimilarityJob]) -> Iterator[CoverageRow]:
    compared = {job.name for job in jobs}
    for label, one in zip(adapter_labels(len(adapters)), adapters, strict=True):
        idle = {module: "no other adapter has the module" for module in one.modules if module not in compared}
        yield from one.coverage(label, Action.COMPARED, "its directions, with those of other adapters", idle)


def _warnings(adapters: Sequence[SkinnyAdapter], jobs: Sequence[SimilarityJob]) -> Iterator[str]:
    yield from dict.fromkeys(line for one in adapters for line in one.warnings)
    yield from _bases(adapters)
    for place, one in enumerate(adapters):
        shared = {job.name for job in jobs if any(holder.place == place for holder in job.holders)}
        alone = in_model_order(one.modules.keys() - shared)
        if alone:
            yield f"{named(alone)} only in {one.reference}: not compared"
    for first, second in combinations(adapters, 2):
        if not first.modules.keys() & second.modules.keys():
            yield f"{first.reference} and {second.reference} share no module with factors: not compared"


def _bases(adapters: Sequence[SkinnyAdapter]) -> Iterator[str]:
    """A line where the adapters' configs call their bases by different names."""
    known = [(one.reference, one.base_name) for one in adapters if one.base_name]
    for reference, base in known[1:]:
        if base.rpartition("/")[2].casefold() != known[0][1].rpartition("/")[2].casefold():
            yield (
                f"{known[0][0]} was trained on {known[0][1]} and {reference} on {base}: "
                "directions of different bases need not be comparable"
            )


def _compared(
    module: str, found: ModuleGrid, adapters: Sequence[SkinnyAdapter], options: AnalyzeOptions
) -> Compared:
    """The row of one grid, with the control of its shape."""
    place = place_of(module)
    control = _control(*found.grid.shape, found.dimension, options.seed)
    row = Similarity(
        module=module,
        layer=place.layer,
        kind=place.kind,
        side=found.side,
        first=adapters[found.first].reference,
        second=adapters[found.second].reference,
        directions=options.directions.value,
        dimension=found.dimension,
        grid=as_grid(found.grid),
        control=control.grid,
        band=control.band,
    )
    return Compared(row, found.grid, control.mean)


@dataclass(frozen=True)
class _Control:
    """The control of one shape: its mean as an array, and as the rows of all grids of that shape share it."""

    mean: Matrix
    grid: Grid
    band: tuple[tuple[tuple[float, float], ...], ...]


@lru_cache(maxsize=256)
def _control(first: int, second: int, dimension: int, seed: int) -> _Control:
    from loratools.linalg.control import random_control

    drawn = random_control(first, second, dimension, seed)
    band = tuple(
        tuple(zip(low, high, strict=True))
        for low, high in zip(drawn.low.tolist(), drawn.high.tolist(), strict=True)
    )
    return _Control(drawn.mean, as_grid(drawn.mean), band)
