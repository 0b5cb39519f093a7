"""`verify`: whether files are whole and what was written, and how near an adapter brings a base to tuned."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loratools
from loratools.adapters.contents import Contents
from loratools.checkpoints.sizes import size_in_bytes
from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.engine.engine import Engine
from loratools.engine.execution import Execution
from loratools.engine.foresight import Foresight
from loratools.engine.memory import PeakMemory
from loratools.engine.plan import Plan
from loratools.engine.progress import Progress
from loratools.operations.bare import everything
from loratools.operations.rates import overhead
from loratools.operations.references import Reference, as_list
from loratools.operations.verification.compared import compare
from loratools.operations.verification.comparison import Comparison, VerifyOptions, comparison_of
from loratools.operations.verification.distance_job import DistanceJob
from loratools.operations.verification.integrity import Integrity, integrity_of
from loratools.operations.verification.subjects import WEIGHTS, Subject, open_subjects
from loratools.operations.verification.tensors import TensorJob
from loratools.reports.report import Report
from loratools.reports.verdict import verdict
from loratools.reports.verification import Check

__all__ = ["verify"]


def verify(
    references: Sequence[Reference] | Reference = (),
    *,
    text: Reference | None = None,
    min_agreement: float | None = None,
    window: int | None = None,
    batch: int | None = None,
    workers: int | None = None,
    max_memory: int | str | None = None,
    cluster: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Checks checkpoints and adapters, and compares base + adapter with a fine-tune.

    Every reference is read once: headers, sizes and indexes, rules of its format, whether all values are
    finite, and, where it carries a provenance, the hashes of all that was written. Of two checkpoints and
    adapters, the first is the base and the second its fine-tune: then also how far base + adapter lies from
    it, in weights and, on a text, in outputs.

    Args:
        references: folders, weight files, names of the sample, hub ids; none for the whole sample, one by
            one. Adapters that are compared may carry weights (`adapter=0.8`).
        text: a UTF-8 file on which outputs are compared (extra `[transformers]`); for the sample its own.
        min_agreement: the least agreement of outputs, between 0 and 1, that passes.
        window: tokens in a window; 512 by default, or as many as the model has positions.
        batch: windows in a batch; as many as fit into some hundred megabytes by default.
        workers: threads; one a processor by default.
        max_memory: bytes that the process may hold, interpreter and libraries included, as a number or like
            "1.5GB"; by default what the machine has. Fewer jobs then run side by side; what is found is the
            same.
        cluster: the address of a Dask scheduler, or its scheduler file, whose workers do the work instead;
            `workers` is then how many jobs are under way at one time.
        dry_run: plan only; nothing is read but headers.
        progress: is told what is done.

    Returns:
        A report whose `ok` says whether nothing was found wrong. Its `details` hold `verdict`, in words;
        `references` and `checks`; of a comparison also `distance`, `distances` and `outputs`: rows of
        `loratools.reports.verification`.

    Raises:
        UsageError: references or options that make no sense together.
        LoratoolsError: there is no such reference, it is of a format that is not read, or outputs are asked
            for and cannot be measured.
    """
    started = time.perf_counter()
    options = VerifyOptions.parse(text=text, window=window, batch=batch, min_agreement=min_agreement)
    execution = Execution(
        workers=workers,
        max_memory=size_in_bytes(max_memory),
        cluster=cluster,
    )
    foresight = Foresight(progress)
    engine = execution.engine(foresight)
    with PeakMemory() as memory:
        named = as_list(references)
        subjects = open_subjects(named or everything())
        comparison = comparison_of(subjects, options, Contents.of(dry_run=dry_run)) if named else None
        plan = _plan(subjects, comparison)
        forecast = foresight.expect(plan, engine, execution.max_memory)
        if dry_run:
            return Report.of_plan(
                plan,
                forecast,
                version=loratools.__version__,
                seconds=time.perf_counter() - started,
                peak_bytes=memory.peak_bytes,
            )
        return foresight.learnt(_run(plan, options, engine, memory=memory, started=started))


@dataclass(frozen=True, kw_only=True)
class VerifyPlan(Plan[TensorJob | DistanceJob]):
    """What is read, and what for."""

    subjects: tuple[Subject, ...] = field(repr=False)
    comparison: Comparison | None = field(repr=False)

    @property
    def stages(self) -> tuple[tuple[str, Sequence[TensorJob | DistanceJob]], ...]:
        distances = tuple(job for job in self.jobs if isinstance(job, DistanceJob))
        return (("verify", self.reading), ("distances", distances))

    @property
    def reading(self) -> tuple[TensorJob, ...]:
        return tuple(job for job in self.jobs if isinstance(job, TensorJob))


def _plan(subjects: tuple[Subject, ...], comparison: Comparison | None) -> VerifyPlan:
    distances = None if comparison is None else comparison.distances
    reading = tuple(job for subject in subjects for job in subject.jobs)
    measuring = () if distances is None else distances.jobs
    jobs: tuple[TensorJob | DistanceJob, ...] = (*reading, *measuring)
    size = sum(job.bytes for job in jobs)
    updates = [update.memory(job.tuned) for job in measuring for update in job.updates]
    return VerifyPlan(
        command="verify",
        output=None,
        jobs=jobs,
        coverage=Coverage.of(_pending(subjects) if distances is None else distances.coverage),
        read_bytes=size,
        write_bytes=0,
        kept_bytes=sum(updates),
        overhead_bytes=overhead("verify"),
        likeness="compared" if measuring else "read",
        warnings=(
            *(f"{one.reference}: {line}" for one in subjects if one.opened for line in one.opened.warnings),
            *(distances.warnings if distances is not None else ()),
            *(comparison.notes if comparison is not None else ()),
        ),
        subjects=subjects,
        comparison=comparison,
    )


def _run(
    plan: VerifyPlan, options: VerifyOptions, engine: Engine, *, memory: PeakMemory, started: float
) -> Report:
    seen = [facts for _, facts in engine.run("verify", plan.reading, Path(), torch=False)]
    integrity = integrity_of(plan.subjects, list(zip(plan.reading, seen, strict=True)))
    coverage, checks = Coverage.of(_checked(integrity)), integrity.checks
    details: dict[str, Any] = {}
    if plan.comparison is not None:
        found = compare(plan.comparison, options, engine, integrity)
        coverage, checks, details = plan.coverage, (*checks, *found.checks), found.details()
    ok = all(check.ok is not False for check in checks)
    return Report(
        command="verify",
        version=loratools.__version__,
        output=None,
        coverage=coverage,
        warnings=tuple(dict.fromkeys(plan.warnings)),
        seconds=time.perf_counter() - started,
        peak_bytes=memory.peak_bytes,
        details={
            "verdict": verdict(integrity.references, checks, details.get("distance"), details.get("outputs")),
            "references": integrity.references,
            "checks": checks,
            **details,
        },
        ok=ok,
    )


def _pending(subjects: tuple[Subject, ...]) -> Iterator[CoverageRow]:
    for subject in subjects:
        for name, spec in () if subject.opened is None else subject.opened.items():
            yield CoverageRow(
                subject.reference, name, Action.PENDING, "its values are to be read", spec.bytes
            )


def _checked(integrity: Integrity) -> Iterator[CoverageRow]:
    """Every tensor, and what was said of it."""
    wrong: dict[tuple[str, str | None], Check] = {}
    for check in integrity.checks:
        if check.ok is False:
            wrong.setdefault((check.reference, check.tensor), check)
    for job, _ in integrity.read:
        if job.part == WEIGHTS:
            bad = wrong.get((job.reference, job.name))
            reason = "read whole" if bad is None else f"{bad.check}: {bad.detail}"
            yield CoverageRow(job.reference, job.name, Action.CHECKED, reason, job.bytes)
