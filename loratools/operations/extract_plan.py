"""The plan of an extraction: jobs, every tensor's fate as far as headers tell, what is refused at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loratools.adapters.layers import Layer
from loratools.adapters.renamed import renamed_note
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.publication import check_target
from loratools.checkpoints.spec import TensorSpec
from loratools.checkpoints.target import WEIGHT_SUFFIXES
from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.engine.plan import Plan
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.extract_estimates import likeness
from loratools.operations.extract_job import CompareJob, FactorJob, HashJob, ReadJob
from loratools.operations.extract_options import (
    FAILURE_PROBABILITY,
    NOISE_PROBABILITY,
    ExtractOptions,
    Rest,
    Selection,
    Truncation,
    Unholdable,
)
from loratools.operations.extract_size import most_written
from loratools.operations.pairing import Pair, Side, pair_checkpoints
from loratools.operations.rates import finishing, overhead, torch_to_load
from loratools.operations.roles import Assignment, Role, assign

__all__ = ["ExtractPlan", "make_plan", "refusal", "rows_of", "tie_job"]


@dataclass(frozen=True)
class ExtractPlan(Plan[FactorJob | ReadJob]):
    """A plan, and what its run needs. `reading` finds out what changed, `factoring` comes after it."""

    pair: Pair = field(kw_only=True, repr=False)
    options: ExtractOptions = field(kw_only=True)
    assignments: dict[str, Assignment] = field(kw_only=True, repr=False)
    base_name: str = field(kw_only=True)
    force: bool = field(kw_only=True)

    @property
    def reading(self) -> tuple[ReadJob, ...]:
        return tuple(job for job in self.jobs if not isinstance(job, FactorJob))

    @property
    def factoring(self) -> tuple[FactorJob, ...]:
        return tuple(job for job in self.jobs if isinstance(job, FactorJob))

    @property
    def stages(self) -> tuple[tuple[str, Sequence[FactorJob | ReadJob]], ...]:
        return (("reading", self.reading), ("factoring", self.factoring))

    @property
    def inputs(self) -> tuple[Path, ...]:
        return self.pair.base.root, self.pair.tuned.root


def make_plan(
    base: Checkpoint,
    tuned: Checkpoint,
    output: Path | None,
    *,
    options: ExtractOptions,
    base_name: str,
    force: bool,
) -> ExtractPlan:
    """Pairs the two checkpoints and settles everything that headers can tell.

    Raises:
        UsageError: an output that cannot hold an adapter, or targets that name no module.
        LoratoolsError: an output that may not be written, checkpoints that do not belong together, tensors
            that no adapter can hold (unless they are to be dropped).
    """
    if output is not None and output.suffix in WEIGHT_SUFFIXES:
        raise UsageError(
            "an adapter needs a folder", file=output, hint="name a folder with -o, without a file's suffix"
        )
    check_target(output, force=force, inputs=(base.root, tuned.root))
    pair = pair_checkpoints(base, tuned)
    assignments = assign(pair, options.selection)
    _refuse_unmatched(options.selection, assignments)
    _refuse_at_once(assignments, options)
    jobs = (*_reading(pair, assignments), *_factoring(assignments, options))
    written = most_written(pair, assignments, options)
    loading = torch_to_load()
    return ExtractPlan(
        command="extract",
        output=output,
        jobs=jobs,
        coverage=Coverage.of(_foretold(assignments, options)),
        read_bytes=sum(job.bytes for job in jobs),
        write_bytes=written,
        weight_bytes=written,
        kept_bytes=loading.bytes,
        loading_seconds=loading.seconds,
        overhead_bytes=overhead("extract"),
        finishing_seconds=finishing("extract", written),
        likeness=likeness(options.truncation),
        warnings=(*base.warnings, *tuned.warnings, *pair.notes, *renamed_note(pair.config)),
        pair=pair,
        options=options,
        assignments=assignments,
        base_name=base_name,
        force=force,
    )


def refusal(found: Sequence[tuple[TensorSpec, str]], what: str, hint: str) -> LoratoolsError:
    """One line for tensors that are refused: what they are, how many, and the first by name."""
    spec, reason = found[0]
    count = f"{len(found)} tensors" if len(found) > 1 else "a tensor"
    first = f", first of them {spec.name}" if len(found) > 1 else ""
    return LoratoolsError(f"{count} {what}{first}: {reason}", file=spec.file, tensor=spec.name, hint=hint)


def rows_of(assignment: Assignment, action: Action, reason: str) -> Iterator[CoverageRow]:
    """The coverage of a pair: a row for each side that has the tensor."""
    tensor = assignment.tensor
    for side in Side:
        spec = tensor.of(side)
        if spec is not None:
            yield CoverageRow(side.value, spec.name, action, reason, spec.bytes)


def _refuse_unmatched(selection: Selection, assignments: dict[str, Assignment]) -> None:
    """A pattern that finds nothing is a slip of the pen."""
    linear = {
        assignment.tensor.module
        for assignment in assignments.values()
        if assignment.tensor.layer.layer in (Layer.LINEAR, Layer.CONV1D)
    }
    for pattern in selection.targets:
        if not any(pattern.search(module) for module in linear):
            raise UsageError(
                f"--targets {pattern.pattern!r} finds no linear layer",
                hint="inspect lists the tensors' names",
            )


def _refuse_at_once(assignments: dict[str, Assignment], options: ExtractOptions) -> None:
    unholdable = _specs(assignments, Role.UNHOLDABLE)
    if unholdable and options.unholdable is Unholdable.REFUSE:
        raise refusal(unholdable, "no adapter can hold", "--unholdable drop goes on without")
    heads = _specs(assignments, Role.NEW_HEAD)
    if heads and options.rest is Rest.REFUSE:
        raise refusal(heads, "that would not be factored", "--rest save keeps them whole")


def _specs(assignments: dict[str, Assignment], role: Role) -> list[tuple[TensorSpec, str]]:
    return [(one.tensor.spec, one.reason) for one in assignments.values() if one.role is role]


def _reading(pair: Pair, assignments: dict[str, Assignment]) -> Iterator[ReadJob]:
    """Jobs that find out what changed; every tensor that no other job reads is hashed."""
    for name, assignment in assignments.items():
        base, tuned = assignment.base, assignment.tuned
        if assignment.role is Role.COMPARE and base is not None and tuned is not None:
            yield CompareJob(name, (Side.BASE, base), (Side.TUNED, tuned))
        elif assignment.role is not Role.FACTOR:
            for side, spec in ((Side.BASE, base), (Side.TUNED, tuned)):
                if spec is not None:
                    yield HashJob(
                        f"{name} ({side.value})", side, spec, parameter=assignment.role is not Role.BUFFER
                    )
    yield from _tie_reading(pair)


def _tie_reading(pair: Pair) -> Iterator[CompareJob]:
    """Whether a head that is written holds the values of its own side's embedding."""
    if pair.tie is None:
        return
    embedding = pair.tensors[pair.tie.embedding]
    for name in pair.tie.members:
        member = pair.tensors.get(name)
        if member is None:
            continue
        for side in Side:
            own, other = member.of(side), embedding.of(side)
            if own is not None and other is not None and own.shape == other.shape:
                yield CompareJob(tie_job(name, side), (side, other), (side, own))


def tie_job(name: str, side: Side) -> str:
    """The name of the job that compares a tied parameter with its own side's embedding."""
    return f"{name} ({side.value}, tied)"


def _factoring(assignments: dict[str, Assignment], options: ExtractOptions) -> Iterator[FactorJob]:
    chosen = [(name, one) for name, one in assignments.items() if one.role is Role.FACTOR]
    for name, one in chosen:
        assert one.base is not None and one.tuned is not None
        yield FactorJob(
            name=name,
            base=one.base,
            tuned=one.tuned,
            transposed=one.tensor.layer.layer is Layer.CONV1D,
            cut=options.truncation,
            whole_allowed=options.truncation.chooses and options.rest is Rest.SAVE,
            failure_probability=FAILURE_PROBABILITY / len(chosen),
            noise_probability=NOISE_PROBABILITY / len(chosen),
        )


_IF_CHANGED = {
    Rest.SAVE: "saved whole if it changed",
    Rest.DROP: "dropped if it changed",
    Rest.REFUSE: "refused if it changed",
}


def _amount(cut: Truncation) -> str:
    if cut.energy is not None:
        return f"for {cut.energy:g} of the energy"
    return "with what stands above the storage noise" if cut.above_noise else f"at rank {cut.rank}"


def _foretold(assignments: dict[str, Assignment], options: ExtractOptions) -> Iterator[CoverageRow]:
    amount = _amount(options.truncation)
    new_head = Action.SAVED if options.rest is Rest.SAVE else Action.DROPPED
    fates = {
        Role.FACTOR: (Action.PENDING, f"; factored {amount} if it changed"),
        Role.COMPARE: (Action.PENDING, f"; {_IF_CHANGED[options.rest]}"),
        Role.NEW_HEAD: (new_head, ""),
        Role.BUFFER: (Action.DROPPED, ""),
        Role.UNHOLDABLE: (Action.DROPPED, ""),
    }
    for assignment in assignments.values():
        action, more = fates[assignment.role]
        yield from rows_of(assignment, action, assignment.reason + more)
