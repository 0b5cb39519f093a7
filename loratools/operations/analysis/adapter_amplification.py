"""`analyze BASE ADAPTER...`: what each adapter's update amplifies in the weight that it is added to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loratools.adapters.contents import VALUES, Contents
from loratools.adapters.names import NameMap
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.foreign import require_computable
from loratools.checkpoints.spec import TensorSpec
from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.engine.engine import Engine
from loratools.engine.plan import Plan
from loratools.operations.analysis.adapters_on_base import BoundAdapter, Matrix, bind_adapters
from loratools.operations.analysis.amplify import Amplified, amplification_rows, amplified, measured
from loratools.operations.analysis.findings import Findings
from loratools.operations.analysis.options import AnalyzeOptions
from loratools.operations.analysis.pair_plan import DEFAULT_RANKS
from loratools.operations.analysis.places import in_model_order, module_of
from loratools.operations.analysis.update_directions import directions_of
from loratools.operations.delta import read_finite
from loratools.operations.extract_options import FAILURE_PROBABILITY
from loratools.operations.rates import MULTIPLY_RATE, READ_RATE, overhead
from loratools.operations.seeds import module_seed

__all__ = ["AmplifyJob", "AmplifyPlan", "amplify_adapters", "plan_adapters", "run_adapters"]

_PASSES = 16
"""Passes over the weight, behind what a job costs."""


@dataclass(frozen=True)
class AmplifiedBy:
    """What one adapter's update amplifies in one weight."""

    reference: str
    norm_of_weight: float
    norm: float
    figures: tuple[Amplified, ...]


@dataclass(frozen=True)
class AmplifyJob:
    """Reads one weight and holds it against the updates of it, by the references of their adapters."""

    name: str
    tensor: TensorSpec
    updates: tuple[tuple[str, Matrix], ...]
    ranks: tuple[int, ...]
    seed: int
    failure_probability: float

    @property
    def bytes(self) -> int:
        return self.tensor.bytes

    @property
    def memory(self) -> int:
        """The weight as stored and in float32, a Krylov space, and, for DoRA, the difference it makes."""
        elements = self.tensor.elements
        dense = 16 * elements if any(update.kind == "dora" for _, update in self.updates) else 0
        return self.bytes + 4 * elements + dense + 96 * (max(self.ranks) + 24) * sum(self.tensor.shape)

    @property
    def cost(self) -> float:
        products = _PASSES * 2 * self.tensor.elements * (max(self.ranks) + 24)
        return self.bytes / READ_RATE + products / MULTIPLY_RATE

    def run(self, workspace: Path) -> tuple[AmplifiedBy, ...]:
        weight = read_finite(self.tensor)
        rows, columns = weight.shape
        seed = module_seed(self.seed, self.name)
        chance = self.failure_probability / (len(self.updates) + 1)
        energies = measured(weight, self.ranks, seed=seed, failure_probability=chance)
        found = []
        for reference, update in self.updates:
            delta, norm = directions_of(
                update, weight, self.tensor, self.ranks, energies, seed=seed + 1, failure_probability=chance
            )
            figures = amplified((rows, columns), delta, self.ranks, energies)
            found.append(AmplifiedBy(reference, energies.norm, norm, tuple(figures)))
        return tuple(found)


@dataclass(frozen=True)
class AmplifyPlan(Plan[AmplifyJob]):
    """A plan; its jobs' names are those of parameters in memory."""

    adapters: tuple[BoundAdapter, ...] = field(kw_only=True, repr=False)


def plan_adapters(
    base: Checkpoint,
    adapters: Sequence[Checkpoint],
    options: AnalyzeOptions,
    contents: Contents = VALUES,
) -> AmplifyPlan:
    """Binds the adapters to the base, and settles what headers can tell.

    Raises:
        LoratoolsError: a base that cannot be computed with, an adapter that cannot be read, or that has a key
            which finds no tensor or does not fit.
    """
    require_computable(base)
    bound = bind_adapters(base, adapters, contents)
    jobs = tuple(_jobs(base, bound, options))
    return AmplifyPlan(
        command="analyze",
        output=None,
        jobs=jobs,
        coverage=Coverage.of(_coverage(base, bound)),
        read_bytes=sum(job.bytes for job in jobs),
        write_bytes=0,
        overhead_bytes=overhead("analyze"),
        likeness="amplification",
        warnings=(*base.warnings, *(line for adapter in bound for line in adapter.warnings)),
        adapters=bound,
    )


def amplify_adapters(
    base: Checkpoint, adapters: Sequence[Checkpoint], options: AnalyzeOptions, engine: Engine
) -> Findings:
    """Amplification of each adapter's update in the base's weights.

    Raises:
        LoratoolsError: as `plan_adapters`; a tensor that cannot be read, or holds values that are not finite.
    """
    return run_adapters(plan_adapters(base, adapters, options), engine)


def run_adapters(plan: AmplifyPlan, engine: Engine) -> Findings:
    """Reads and projects what a plan says. Raises LoratoolsError as `amplify_adapters`."""
    rows = [
        row
        for job, found in engine.run("analysing", plan.jobs, Path())
        for one in found
        for row in amplification_rows(
            module_of(job.name), one.reference, (one.norm_of_weight, one.norm), one.figures
        )
    ]
    return Findings(amplification=tuple(rows), coverage=plan.coverage.rows, warnings=plan.warnings)


def _jobs(
    base: Checkpoint, adapters: Sequence[BoundAdapter], options: AnalyzeOptions
) -> Iterator[AmplifyJob]:
    names = NameMap.of(base)
    by_parameter = {names.memory(name): name for adapter in adapters for name in adapter.matrices}
    sources = {name: spec for adapter in adapters for name, spec in adapter.sources.items()}
    ranks = tuple(sorted(set(options.ranks or _default_ranks(adapters))))
    for parameter in in_model_order(by_parameter):
        name = by_parameter[parameter]
        yield AmplifyJob(
            name=parameter,
            tensor=sources[name],
            updates=tuple(
                (adapter.reference, adapter.matrices[name])
                for adapter in adapters
                if name in adapter.matrices
            ),
            ranks=ranks,
            seed=options.seed,
            failure_probability=FAILURE_PROBABILITY / len(by_parameter),
        )


def _default_ranks(adapters: Sequence[BoundAdapter]) -> list[int]:
    """Those of a pair that an adapter reaches, and each adapter's own where it is less than the largest."""
    own = {update.rank for adapter in adapters for update in adapter.matrices.values()}
    return [rank for rank in DEFAULT_RANKS if rank <= max(own, default=1)]


def _coverage(base: Checkpoint, adapters: Sequence[BoundAdapter]) -> Iterator[CoverageRow]:
    touched = {spec.name for adapter in adapters for spec in adapter.sources.values()}
    for name, spec in base.items():
        if name in touched:
            action, reason = Action.COMPARED, "projected on directions of what is added to it"
        else:
            action, reason = Action.UNCHANGED, "nothing of low rank is added to it"
        yield CoverageRow("base", name, action, reason, spec.bytes)
    for adapter in adapters:
        yield from adapter.coverage({})
