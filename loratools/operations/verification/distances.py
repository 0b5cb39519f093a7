"""Which tensors of base, tuned and base + adapter are held against each other; none is skipped in silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from loratools.adapters.bind import bind
from loratools.adapters.contents import VALUES, Contents
from loratools.adapters.layers import Layer
from loratools.adapters.names import NameMap
from loratools.adapters.tying import declared_tied
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.spec import TensorSpec
from loratools.engine.coverage import Action, CoverageRow
from loratools.operations.merge_coverage import planned_coverage
from loratools.operations.merge_inputs import MergeInputs
from loratools.operations.merge_options import OutputDtype
from loratools.operations.merge_plan import outgoing, said
from loratools.operations.pairing import Pair, PairedTensor, pair_checkpoints
from loratools.operations.rewrite_layout import Outgoing
from loratools.operations.rewrite_record import kinds
from loratools.operations.verification.distance_job import Apart, DistanceJob
from loratools.reports.verification import Distance, ModuleDistance

__all__ = ["Distances", "distance_rows", "plan_distances", "total"]


@dataclass(frozen=True)
class Distances:
    """What is to be measured, what cannot be (by name, with the reason), and the fate of every tensor."""

    inputs: MergeInputs
    jobs: tuple[DistanceJob, ...]
    incomparable: Mapping[str, str]
    coverage: tuple[CoverageRow, ...]
    warnings: tuple[str, ...]


def plan_distances(inputs: MergeInputs, tuned: Checkpoint, contents: Contents = VALUES) -> Distances:
    """Binds the adapters to the base and pairs it with tuned, from headers alone.

    Raises:
        LoratoolsError: the adapters do not fit the base, or the two checkpoints have nothing in common.
    """
    base = inputs.checkpoint
    pair = pair_checkpoints(base, tuned)
    binding = bind([(one.adapter, one.weight) for one in inputs.adapters], base, contents=contents)
    written = outgoing(base, binding, OutputDtype.KEEP)
    plan = _Planner(pair, {tensor.name: tensor for tensor in written}, NameMap.of(base))
    for name, tensor in pair.tensors.items():
        plan.take(name, tensor)
    plan.take_heads_written_apart()
    rows = planned_coverage(inputs, binding, written, role="base", verb="compared")
    return Distances(
        inputs,
        tuple(plan.jobs),
        plan.incomparable,
        (*plan.coverage(), *(row for row in rows if row.input != "base")),
        (*said(inputs, binding), *tuned.warnings, *pair.notes),
    )


@dataclass
class _Planner:
    """Collects jobs and fates. `written` is what a merge would write, by name on disk."""

    pair: Pair
    written: Mapping[str, Outgoing]
    names: NameMap
    jobs: list[DistanceJob] = field(default_factory=list)
    incomparable: dict[str, str] = field(default_factory=dict)
    fates: dict[tuple[str, str], tuple[Action, str, TensorSpec]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Tensors that the adapter adds, or writes apart from what they were tied to, by name in memory."""
        self.new = {
            self.names.memory(name): tensor
            for name, tensor in self.written.items()
            if name not in self.pair.base
        }

    def take(self, name: str, tensor: PairedTensor) -> None:
        """A tensor that stands in one of the two files, or in both."""
        reason = self._left_out(tensor)
        base, tuned = self._sides(name, tensor)
        if reason is None and tuned is None:
            reason = "only base has it: there is nothing that it could be near to"
        if reason is not None or tuned is None:
            self._fate(tensor, Action.DROPPED, reason or "")
            return
        self._compare(name, base, tuned, self._adapted(name, base))
        action = Action.DROPPED if name in self.incomparable else Action.COMPARED
        self._fate(tensor, action, self.incomparable.get(name, "compared"))

    def take_heads_written_apart(self) -> None:
        """Heads that neither file has, since both tie them, and that the adapter changes alone."""
        tuned_names = NameMap.of(self.pair.tuned)
        for name, head in sorted(self.new.items()):
            if name in self.pair.tensors or head.source is None:
                continue
            twin = tuned_names.disk(self.names.memory(head.source.name))
            if twin is not None:
                self._compare(name, head.source, self.pair.tuned[twin], head)

    def coverage(self) -> Iterator[CoverageRow]:
        for (side, name), (action, reason, spec) in self.fates.items():
            yield CoverageRow(side, name, action, reason, spec.bytes)

    def _left_out(self, tensor: PairedTensor) -> str | None:
        if tensor.layer.layer is Layer.BUFFER and tensor.layer.certain:
            return f"{tensor.layer.reason}: recomputed when the model is built"
        if not all(spec is None or spec.floating for spec in (tensor.base, tensor.tuned)):
            return "no floating tensor, and so no weight"
        return None

    def _sides(self, name: str, tensor: PairedTensor) -> tuple[TensorSpec | None, TensorSpec | None]:
        """The tensor on both sides; where one leaves a tied one to its embedding, that."""
        tie = self.pair.tie
        if tie is None or name not in tie.members or tensor.both:
            return tensor.base, tensor.tuned
        lacking = self.pair.base if tensor.base is None else self.pair.tuned
        if declared_tied(lacking.config) is False and name == tie.head:
            return tensor.base, tensor.tuned
        embedding = self.pair.tensors[tie.embedding]
        return tensor.base or embedding.base, tensor.tuned or embedding.tuned

    def _adapted(self, name: str, base: TensorSpec | None) -> Outgoing | None:
        """What it becomes: as a new tensor, or as the one on disk that it is."""
        return self.new.get(name) or (None if base is None else self.written[base.name])

    def _compare(
        self, name: str, base: TensorSpec | None, tuned: TensorSpec, adapted: Outgoing | None
    ) -> None:
        shapes = [one.shape for one in (base, adapted) if one is not None]
        odd = [one for one in shapes if one[1:] != tuned.shape[1:] or len(one) != len(tuned.shape)]
        if odd:
            self.incomparable[name] = f"shapes differ: {list(odd[0])}, and {list(tuned.shape)} in tuned"
            return
        if adapted is None:
            self.jobs.append(DistanceJob(name, None, tuned, 0, ()))
            return
        rows = adapted.shape[0] if adapted.shape else 1
        self.jobs.append(DistanceJob(name, adapted.source, tuned, rows, adapted.updates))

    def _fate(self, tensor: PairedTensor, action: Action, reason: str) -> None:
        for side, spec in (("base", tensor.base), ("tuned", tensor.tuned)):
            if spec is not None:
                self.fates[side, spec.name] = (action, reason, spec)


def distance_rows(jobs: tuple[DistanceJob, ...], apart: Mapping[str, Apart]) -> tuple[ModuleDistance, ...]:
    """A row for each tensor, in the order of names."""
    return tuple(
        ModuleDistance(
            name=job.name,
            shape=job.tuned.shape,
            kind=kinds(job.updates) if job.updates else None,
            distance_base=apart[job.name].base,
            distance_adapted=apart[job.name].adapted,
            remaining=_ratio(apart[job.name]),
        )
        for job in sorted(jobs, key=lambda job: job.name)
    )


def total(rows: tuple[ModuleDistance, ...]) -> Distance:
    """The norms over all tensors."""
    whole = Apart(
        sum(row.distance_base**2 for row in rows) ** 0.5, sum(row.distance_adapted**2 for row in rows) ** 0.5
    )
    return Distance(
        tensors=len(rows),
        moved=sum(row.distance_base > 0 for row in rows),
        farther=sum(row.distance_adapted > row.distance_base for row in rows),
        distance_base=whole.base,
        distance_adapted=whole.adapted,
        remaining=_ratio(whole),
    )


def _ratio(apart: Apart) -> float | None:
    return apart.adapted / apart.base if apart.base else None
