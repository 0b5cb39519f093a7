"""`extract`: the low-rank adapter of a full fine-tune's difference from its base."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from loratools.checkpoints.codec import Codec
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import make_folder
from loratools.checkpoints.fingerprints import InputMark, RunFingerprint
from loratools.checkpoints.publication import Publication
from loratools.checkpoints.reference import open_checkpoint
from loratools.checkpoints.sizes import size_in_bytes
from loratools.checkpoints.target import named_target
from loratools.engine.engine import Engine
from loratools.engine.execution import Execution
from loratools.engine.foresight import Foresight
from loratools.engine.memory import PeakMemory
from loratools.engine.placement import Placement
from loratools.engine.progress import Progress
from loratools.operations.base_name import base_name as name_of_base
from loratools.operations.extract_assembly import assemble, vocabulary
from loratools.operations.extract_findings import conclude, look_at_changes
from loratools.operations.extract_job import FactorFacts
from loratools.operations.extract_options import FAILURE_PROBABILITY, ExtractOptions
from loratools.operations.extract_plan import ExtractPlan, make_plan
from loratools.operations.extract_report import module_rows, warnings_of
from loratools.operations.pairing import Side
from loratools.operations.resuming import journaled, keep_only
from loratools.reports.report import Report, Totals

__all__ = ["extract", "plan_extract", "run_extract"]


FACTS = Codec(FactorFacts)


def extract(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    rank: int | Literal["auto"] | None = None,
    energy: float | None = None,
    max_rank: int | None = None,
    svd: str = "auto",
    tolerance: float = 1e-3,
    fold: str = "sqrt",
    save_dtype: str = "float32",
    targets: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rest: str = "save",
    unholdable: str = "refuse",
    base_name: str | None = None,
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
    """Writes the adapter that, on `base`, comes as near to `tuned` as its rank allows.

    Args:
        base, tuned: paths or hub ids of two checkpoints of one architecture.
        output: the adapter's folder; a dry run needs none.
        rank: of every module; 16 if neither it nor `energy` is given. "auto": for each module, as many
            directions as stand above the noise that rounding to the stored dtype puts under its delta.
        energy: instead, the share in (0, 1] of each delta's squared norm to keep, at the least rank.
        max_rank: the most that `energy`, or "auto", may choose.
        svd: "auto" (randomized, until its certificate holds) or "exact" (LAPACK in float64).
        tolerance: allowed excess of the residual over the optimum, as a share of it.
        fold: where singular values go: "sqrt" (both factors), "A" or "B".
        save_dtype: of the factors: "float32", "bfloat16" or "float16".
        targets, exclude: regular expressions, searched for in module names: factor only, or none of, these.
        rest: "save", "drop" or "refuse" changed tensors that are not factored.
        unholdable: "refuse" or "drop" tensors that no adapter can hold, such as those that one side lacks.
        base_name: what the adapter's config calls its base.
        seed: of the randomized SVD.
        workers: modules that are worked on side by side; by default as many as there are processors.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps": where deltas are factored. "auto" takes all CUDA
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
        progress: a watcher.

    Raises:
        UsageError: options that make no sense.
        LoratoolsError: a checkpoint that cannot be read or holds values that are not finite, a pair or an
            output that is refused; nothing has been written then.
    """
    options = ExtractOptions.of(
        rank=rank,
        energy=energy,
        max_rank=max_rank,
        svd=svd,
        tolerance=tolerance,
        fold=fold,
        save_dtype=save_dtype,
        targets=targets,
        exclude=exclude,
        rest=rest,
        unholdable=unholdable,
        base_name=base_name,
        seed=seed,
    )
    target = named_target(output, dry_run=dry_run)
    if not dry_run:
        import torch  # noqa: F401 (its second, and its memory, are no part of what is estimated)
    started = time.perf_counter()
    execution = Execution(
        workers=workers,
        device=device,
        max_memory=size_in_bytes(max_memory),
        cluster=cluster,
    )
    foresight = Foresight(progress, learn=not resume)
    engine = execution.engine(foresight)
    with PeakMemory() as memory:
        plan = plan_extract(base, tuned, target, options=options, force=force)
        forecast = foresight.expect(plan, engine, execution.max_memory)
        if dry_run:
            seconds = time.perf_counter() - started
            return Report.of_plan(
                plan, forecast, version=_version(), seconds=seconds, peak_bytes=memory.peak_bytes, totals=None
            )
        return foresight.learnt(run_extract(plan, engine, memory=memory, started=started, resume=resume))


def plan_extract(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    output: Path | None,
    *,
    options: ExtractOptions,
    force: bool = False,
) -> ExtractPlan:
    """Opens both checkpoints and plans, from headers alone. Raises as `extract` does."""
    opened = open_checkpoint(os.fspath(base))
    return make_plan(
        opened,
        open_checkpoint(os.fspath(tuned)),
        output,
        options=options,
        base_name=name_of_base(opened, options.base_name),
        force=force,
    )


def run_extract(
    plan: ExtractPlan,
    engine: Engine,
    *,
    memory: PeakMemory,
    started: float | None = None,
    resume: bool = False,
) -> Report:
    """Reads, factors, assembles and publishes. `started`: when the verb began, by `time.perf_counter`.

    Raises:
        LoratoolsError: as `extract`; nothing is left behind then.
    """
    started = time.perf_counter() if started is None else started
    assert plan.output is not None
    placement = engine.settle(plan.factoring)
    fingerprint = _fingerprint(plan, placement)
    with Publication(
        plan.output, force=plan.force, inputs=plan.inputs, fingerprint=fingerprint, resume=resume
    ) as publication:
        workspace = publication.parts
        with disk_errors(workspace):
            make_folder(workspace)
            keep_only(workspace, [name for job in plan.factoring for name in job.leaves])
            keep_only(publication.folder, ())
        read = {job.name: facts for job, facts in engine.run("reading", plan.reading, workspace)}
        changes = look_at_changes(plan, read)
        jobs = journaled(plan.factoring, "factors", FACTS, publication.journal, resumed=publication.resumed)
        factored = {job.name: done for job, done in engine.run("factoring", jobs, workspace)}
        factors = {name: done.result for name, done in factored.items()}
        findings = conclude(plan, changes, factors)
        rows = module_rows(plan, findings)
        warnings = warnings_of(plan, findings, vocabulary(plan, findings))
        roots: dict[tuple[Side, str], str] = {}
        for told in [*(facts.roots for facts in read.values()), *(facts.roots for facts in factors.values())]:
            roots.update(told)
        assembled = assemble(
            publication.folder,
            workspace,
            plan,
            findings,
            roots,
            modules=rows,
            version=_version(),
            notes=warnings,
            kind=placement.kind,
        )
        for opened in (plan.pair.base, plan.pair.tuned):
            opened.require_unchanged()
        left = publication.publish()
    return Report(
        command="extract",
        version=_version(),
        output=plan.output,
        coverage=findings.coverage,
        warnings=(*plan.warnings, *warnings, *placement.warnings(), *left),
        seconds=time.perf_counter() - started,
        peak_bytes=memory.peak_bytes,
        modules=rows,
        totals=Totals.of(
            assembled.parameters, assembled.bytes, plan.pair.base.parameters, plan.pair.base.bytes
        ),
        details={
            "base_name": plan.base_name,
            "rest_bytes": assembled.rest_bytes,
            "rest_share": assembled.rest_bytes / assembled.bytes if assembled.bytes else 0.0,
            "failure_probability": FAILURE_PROBABILITY,
            "devices": placement.choice.details(),
            **({"resumed_jobs": sum(done.taken for done in factored.values())} if resume else {}),
        },
    )


def _fingerprint(plan: ExtractPlan, placement: Placement) -> RunFingerprint:
    import numpy as np
    import torch

    return RunFingerprint(
        "extract",
        _version(),
        {"numpy": np.__version__, "torch": str(torch.__version__)},
        {**plan.options.plain(), "base_name": plan.base_name, "device": placement.mark},
        (InputMark.of("base", plan.pair.base), InputMark.of("tuned", plan.pair.tuned)),
    )


def _version() -> str:
    import loratools

    return loratools.__version__
