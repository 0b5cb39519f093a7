"""The plan of analysing a base and its fine-tune: what is decomposed, what is compared, what neither."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loratools.adapters.contents import VALUES, Contents
from loratools.adapters.layers import Layer
from loratools.adapters.lowrank import LowRank
from loratools.adapters.tying import input_embedding
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.engine.plan import Plan
from loratools.errors import UsageError
from loratools.operations.analysis.adapters_on_base import BoundAdapter, bind_adapters
from loratools.operations.analysis.delta_job import DeltaJob
from loratools.operations.analysis.movement import MoveJob
from loratools.operations.analysis.options import AnalyzeOptions, SpectrumExtent
from loratools.operations.analysis.places import in_model_order
from loratools.operations.extract_options import FAILURE_PROBABILITY, NOISE_PROBABILITY, Selection
from loratools.operations.pairing import Pair, PairedTensor, Side, pair_checkpoints
from loratools.operations.rates import overhead, torch_to_load
from loratools.operations.roles import Assignment, Role, assign

__all__ = ["DEFAULT_RANKS", "PairPlan", "plan_pair"]

DEFAULT_RANKS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class PairPlan(Plan[DeltaJob | MoveJob]):
    """A plan, and what its run needs: matrices to decompose, and tensors to compare."""

    pair: Pair = field(kw_only=True, repr=False)
    adapters: tuple[BoundAdapter, ...] = field(kw_only=True, repr=False)
    decomposed: tuple[DeltaJob, ...] = field(kw_only=True, repr=False)
    compared: tuple[MoveJob, ...] = field(kw_only=True, repr=False)

    @property
    def stages(self) -> tuple[tuple[str, Sequence[DeltaJob | MoveJob]], ...]:
        return (("analysing", self.decomposed), ("comparing", self.compared))


def plan_pair(
    base: Checkpoint,
    tuned: Checkpoint,
    adapters: Sequence[Checkpoint],
    options: AnalyzeOptions,
    contents: Contents = VALUES,
) -> PairPlan:
    """Pairs the two checkpoints, binds the adapters to the base, and settles what headers can tell.

    Raises:
        UsageError: one of the two is an adapter.
        LoratoolsError: checkpoints that do not belong together, an adapter that cannot be read or bound.
    """
    pair = pair_checkpoints(base, tuned)
    bound = bind_adapters(base, adapters, contents) if adapters else ()
    assignments = assign(pair, Selection((), ()))
    compared = _compared(pair, assignments)
    decomposed = _decomposed(assignments, bound, options)
    _refuse_above(options.ranks or (), decomposed)
    loading = torch_to_load()
    jobs: tuple[DeltaJob | MoveJob, ...] = (*decomposed, *compared)
    return PairPlan(
        command="analyze",
        output=None,
        jobs=jobs,
        coverage=Coverage.of(_coverage(assignments, decomposed, compared, bound)),
        read_bytes=sum(job.bytes for job in jobs),
        write_bytes=0,
        kept_bytes=loading.bytes,
        loading_seconds=loading.seconds,
        overhead_bytes=overhead("analyze"),
        likeness=_likeness(options),
        warnings=(
            *base.warnings,
            *tuned.warnings,
            *pair.notes,
            *(line for adapter in bound for line in adapter.warnings),
        ),
        pair=pair,
        adapters=bound,
        decomposed=decomposed,
        compared=compared,
    )


def _decomposed(
    assignments: Mapping[str, Assignment], adapters: Sequence[BoundAdapter], options: AnalyzeOptions
) -> tuple[DeltaJob, ...]:
    names = [name for name, one in assignments.items() if one.role is Role.FACTOR]
    ranks = tuple(sorted(set(options.ranks or DEFAULT_RANKS)))
    return tuple(
        _delta_job(assignments[name], adapters, options, ranks, len(names)) for name in in_model_order(names)
    )


def _delta_job(
    one: Assignment,
    adapters: Sequence[BoundAdapter],
    options: AnalyzeOptions,
    ranks: tuple[int, ...],
    count: int,
) -> DeltaJob:
    assert one.base is not None and one.tuned is not None
    updates = tuple(
        (adapter.reference, update)
        for adapter in adapters
        if isinstance(update := adapter.matrices.get(one.base.name), LowRank)
    )
    return DeltaJob(
        name=one.tensor.name,
        base=one.base,
        tuned=one.tuned,
        transposed=one.tensor.layer.layer is Layer.CONV1D,
        ranks=tuple(sorted({*ranks, *(update.rank for _, update in updates)})),
        asked=ranks,
        amplification=options.amplification,
        full=options.spectrum is SpectrumExtent.FULL,
        adapters=updates,
        seed=options.seed,
        failure_probability=FAILURE_PROBABILITY / count,
        noise_probability=NOISE_PROBABILITY / count,
    )


def _compared(pair: Pair, assignments: Mapping[str, Assignment]) -> tuple[MoveJob, ...]:
    tokens = _token_tables(pair)
    names = [name for name, one in assignments.items() if _comparable(one)]
    return tuple(_move_job(name, assignments[name], name in tokens) for name in in_model_order(names))


def _move_job(name: str, one: Assignment, tokens: bool) -> MoveJob:
    assert one.base is not None and one.tuned is not None
    return MoveJob(name, one.base, one.tuned, tokens)


def _comparable(one: Assignment) -> bool:
    """Whether norms tell something: floating on both sides, and of one shape but for the number of tokens."""
    if one.role in (Role.FACTOR, Role.BUFFER) or one.base is None or one.tuned is None:
        return False
    if not (one.base.floating and one.tuned.floating and one.base.elements and one.tuned.elements):
        return False
    tokens = (
        one.tensor.layer.layer in (Layer.EMBEDDING, Layer.HEAD) and one.base.shape[1:] == one.tuned.shape[1:]
    )
    return one.base.shape == one.tuned.shape or tokens


def _token_tables(pair: Pair) -> frozenset[str]:
    """The parameters with a row for each token: the input embedding, and a head of as many rows."""
    embeddings = [
        tensor.module
        for tensor in pair.tensors.values()
        if tensor.layer.layer is Layer.EMBEDDING and tensor.leaf == "weight" and len(tensor.spec.shape) == 2
    ]
    module = input_embedding(embeddings)
    if module is None:
        return frozenset()
    embedding = pair.tensors[f"{module}.weight"]
    heads = {name for name, tensor in pair.tensors.items() if _is_head_of(tensor, embedding)}
    return frozenset({embedding.name, *heads})


def _is_head_of(tensor: PairedTensor, embedding: PairedTensor) -> bool:
    return (
        tensor.layer.layer is Layer.HEAD
        and tensor.leaf == "weight"
        and len(tensor.spec.shape) == 2
        and tensor.spec.rows == embedding.spec.rows
    )


def _coverage(
    assignments: Mapping[str, Assignment],
    decomposed: Sequence[DeltaJob],
    compared: Sequence[MoveJob],
    adapters: Sequence[BoundAdapter],
) -> Iterator[CoverageRow]:
    analysed = {job.name for job in decomposed}
    measured = {job.name for job in compared}
    for name, one in assignments.items():
        if name in analysed:
            action, reason = Action.FACTORED, f"{one.reason}: its difference is decomposed"
        elif name in measured:
            action, reason = Action.COMPARED, _why_compared(one)
        else:
            action, reason = Action.DROPPED, _why_dropped(one)
        for side in Side:
            spec = one.tensor.of(side)
            if spec is not None:
                yield CoverageRow(side.value, spec.name, action, reason, spec.bytes)
    weights = {job.base.name for job in decomposed}
    for adapter in adapters:
        yield from adapter.coverage(dict(_passed(adapter, weights)))


def _passed(adapter: BoundAdapter, weights: set[str]) -> Iterator[tuple[str, str]]:
    """Updates that are not held beside a difference, by the base's tensor, and why."""
    for name, update in adapter.matrices.items():
        if name not in weights:
            yield name, f"the difference of {name} is not decomposed"
        elif not isinstance(update, LowRank):
            yield name, "DoRA scales its factors' product: what it adds is not of their rank"


def _why_compared(one: Assignment) -> str:
    guess = one.tensor.layer
    doubt = "" if guess.certain else "uncertain: "
    grown = "" if one.tensor.same_shape or not one.tensor.both else ", over the rows that both have"
    return f"{doubt}{guess.layer.value}: {guess.reason}: its norms{grown}"


def _why_dropped(one: Assignment) -> str:
    if one.role is Role.COMPARE:
        return "not of a floating dtype on both sides, or empty"
    return one.reason


def _refuse_above(ranks: Sequence[int], jobs: Sequence[DeltaJob]) -> None:
    """Raises UsageError where no matrix can have such a rank."""
    most = max((job.smaller_side for job in jobs), default=0)
    for rank in ranks:
        if jobs and rank > most:
            raise UsageError(
                f"rank {rank} is above what any of these matrices can have, {most}",
                hint=f"ask for {most} or less",
            )


def _likeness(options: AnalyzeOptions) -> str:
    """What decides, beside shapes, how long decompositions take."""
    amount = (
        "all values"
        if options.spectrum is SpectrumExtent.FULL
        else f"rank {max(options.ranks or DEFAULT_RANKS)}"
    )
    return f"change, {amount}" + ("" if options.amplification else ", without amplification")
