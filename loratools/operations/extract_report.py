"""What an extraction has to say: a row for each factored module, and warnings that a user should read."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from loratools.checkpoints.parts import stored_bytes
from loratools.engine.coverage import Action
from loratools.linalg.ranks import breakeven_rank
from loratools.operations.extract_findings import Findings
from loratools.operations.extract_job import FactorFacts, FactorJob
from loratools.operations.extract_plan import ExtractPlan
from loratools.reports.report import ExtractedModule

__all__ = ["module_rows", "warnings_of"]

UNRELATED = 0.7
"""||delta|| / ||W|| from which a pair looks unrelated; two independent models have about 1.4."""


def module_rows(plan: ExtractPlan, findings: Findings) -> tuple[ExtractedModule, ...]:
    """One row for each module with factors, in the order of names."""
    return tuple(
        _row(plan, job, findings.factors[job.name])
        for job in plan.factoring
        if findings.factors[job.name].factors is not None
    )


def warnings_of(plan: ExtractPlan, findings: Findings, rows_to: int | None) -> tuple[str, ...]:
    """What the user should know; `rows_to`: the vocabulary that the base must be resized to."""
    found = [
        _unrelated(findings),
        _costly(plan, findings),
        _capped(plan, findings),
        _energy_missed(plan, findings),
        *_noise(plan, findings),
        _stored_worse(plan, findings),
        _tokens(rows_to),
        _biasless(plan, findings),
        _uncertain(plan, findings),
        *_dropped(plan, findings),
    ]
    return tuple(warning for warning in found if warning)


def _row(plan: ExtractPlan, job: FactorJob, facts: FactorFacts) -> ExtractedModule:
    factors = facts.factors
    assert factors is not None
    rows, columns = job.sides
    dtype = plan.options.truncation.save_dtype.value
    shapes = ((factors.rank, columns), (rows, factors.rank))
    return ExtractedModule(
        name=plan.pair.tensors[job.name].module,
        shape=job.tuned.shape,
        dtype=job.tuned.dtype,
        rank=factors.rank,
        alpha=float(factors.rank),
        method=factors.method,
        norm=facts.norm,
        energy=factors.energy,
        residual=factors.residual,
        excess=factors.excess,
        storage_error=factors.storage_error,
        noise_floor=None if facts.noise is None else facts.noise.floor,
        noise_rank=None if facts.noise is None else facts.noise.rank,
        noise_note=None if facts.noise is None else facts.noise.note,
        failure_probability=factors.failure_probability,
        parameters=sum(math.prod(shape) for shape in shapes),
        bytes=sum(stored_bytes(dtype, shape) for shape in shapes),
        seconds=facts.seconds,
    )


def _unrelated(findings: Findings) -> str | None:
    delta = math.sqrt(sum(facts.norm**2 for facts in findings.factors.values()))
    base = math.sqrt(sum(facts.base_norm**2 for facts in findings.factors.values()))
    if not delta > UNRELATED * base:
        return None
    told = f"has {delta / base:.2g} times the norm of the base's weights" if base else "is all there is"
    return f"base and tuned look unrelated: the difference {told}"


def _costly(plan: ExtractPlan, findings: Findings) -> str | None:
    costly = [
        job.name
        for job in plan.factoring
        if (factors := findings.factors[job.name].factors) is not None
        and factors.rank > breakeven_rank(*job.sides)
    ]
    return f"{_named(costly)}: factors of that rank are larger than the matrix" if costly else None


def _capped(plan: ExtractPlan, findings: Findings) -> str | None:
    wanted = plan.options.truncation.rank
    if wanted is None:
        return None
    capped = [job.name for job in plan.factoring if job.name in findings.factored and min(job.sides) < wanted]
    return (
        f"{_named(capped)}: rank {wanted} is more than the matrix has, so all of it is kept"
        if capped
        else None
    )


def _energy_missed(plan: ExtractPlan, findings: Findings) -> str | None:
    cut = plan.options.truncation
    if cut.energy is None or cut.max_rank is None:
        return None
    missed = [
        name
        for name, facts in findings.factored.items()
        if facts.factors is not None
        and facts.factors.rank == cut.max_rank
        and facts.factors.energy < cut.energy - 1e-6
    ]
    return f"{_named(missed)}: --max-rank {cut.max_rank} keeps less energy than asked" if missed else None


def _noise(plan: ExtractPlan, findings: Findings) -> Iterator[str]:
    """What `--rank auto` could not decide, and what it left out."""
    held = {name: facts.noise for name, facts in findings.factors.items() if facts.noise is not None}
    rounded = [name for name, noise in held.items() if noise.rank == 0 and findings.factors[name].drowned]
    if rounded:
        yield f"{_named(rounded)}: base and tuned differ by rounding only, so there are no factors"
    on_grid = [name for name, noise in held.items() if noise.above > 0 and noise.rank_bounds[0] < noise.above]
    undecided = [name for name in on_grid if held[name].rank is None and name in findings.factored]
    if undecided:
        yield (
            f"{_named(undecided)}: the rounding grid decides what is seen of the update; every direction "
            f"above independent rounding is kept, and some may be the grid's own"
        )
    whole = [name for name in findings.whole if findings.factors[name].noise is not None]
    if whole:
        yield (
            f"{_named(whole)}: more directions stand above the noise than factors are worth, so saved whole; "
            f"--max-rank caps them"
        )
    most = plan.options.truncation.max_rank
    capped = [name for name, noise in held.items() if most is not None and noise.above >= most]
    left_out = [name for name in capped if name in findings.factored and held[name].rank is None]
    if left_out:
        yield f"{_named(left_out)}: --max-rank {most} may leave out directions that stand above the noise"
    spoken_of = {*undecided, *left_out}
    running_down = [
        name
        for name in findings.factored
        if name in held and held[name].rank is None and name not in spoken_of
    ]
    if running_down:
        yield (
            f"{_named(running_down)}: the change runs down into the noise; every direction above it is kept, "
            "and more may lie below (--energy and --max-rank keep fewer)"
        )


def _stored_worse(plan: ExtractPlan, findings: Findings) -> str | None:
    cut = plan.options.truncation
    errors = {
        name: facts.factors.storage_error
        for name, facts in findings.factored.items()
        if facts.factors is not None and facts.factors.storage_error > cut.tolerance
    }
    if not errors:
        return None
    worst = max(errors.values())
    return f"{_named(list(errors))}: {cut.save_dtype.value} adds up to {worst:.2g} to the residual"


def _tokens(rows: int | None) -> str | None:
    if rows is None:
        return None
    return f"tuned has more tokens: resize_token_embeddings({rows}) on the base must come before the adapter"


def _biasless(plan: ExtractPlan, findings: Findings) -> str | None:
    """PEFT applies (and switches off) a bias beside factors anywhere, but merges it only into one."""
    if not findings.holdings.biases:
        return None
    tensors = plan.pair.tensors
    without = [name for name in findings.factored if f"{tensors[name].module}.bias" not in tensors]
    if not without:
        return None
    return f"{_named(without)}: no bias, while others' changed: PEFT runs this adapter but cannot merge it"


def _uncertain(plan: ExtractPlan, findings: Findings) -> str | None:
    names = [
        name
        for name, assignment in plan.assignments.items()
        if assignment.reason.startswith("uncertain") and name in findings.changes.rest
    ]
    return f"{_named(names)}: what layer it is cannot be told, so it is saved whole" if names else None


def _dropped(plan: ExtractPlan, findings: Findings) -> Iterator[str]:
    rows = [
        row
        for row in findings.coverage
        if row.action is Action.DROPPED and not row.reason.endswith("recomputed when the model is built")
    ]
    if rows:
        names = sorted({row.tensor for row in rows})
        size = sum(row.bytes for row in rows if row.input == "tuned")
        yield f"{_named(names)}: dropped, {size:,} bytes of tuned that the adapter does not hold"


def _named(names: Sequence[str] | Collection[str]) -> str:
    """The first name, and how many more there are."""
    first, *more = names
    return f"{first} and {len(more)} more" if more else first
