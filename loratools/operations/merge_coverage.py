"""The fate of every tensor of the base and of each adapter in a merge, and what the data settled of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from loratools.adapters.binding import Binding
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.operations.merge_inputs import MergeInputs, WeightedAdapter
from loratools.operations.rewrite_layout import Outgoing
from loratools.operations.rewrite_record import kinds
from loratools.operations.streaming import TensorFigures


def planned_coverage(
    inputs: MergeInputs, binding: Binding, tensors: Iterable[Outgoing], *, role: str, verb: str
) -> Coverage:
    """A row for each tensor of each input, from headers alone.

    Args:
        role: what coverage calls the checkpoint: `base`, or `merged`.
        verb: what the reason says of a tensor that changes: `merged`, or `subtracted`.
    """
    outgoing = list(tensors)
    rows = [_checkpoint_row(role, tensor, verb) for tensor in outgoing if tensor.name in inputs.checkpoint]
    rows = [_unless_pending(row, binding.pending_tensors.get(row.tensor)) for row in rows]
    users, unmatched = _users(outgoing), frozenset(binding.unmatched)
    for label, adapter in zip(inputs.labels(), inputs.adapters, strict=True):
        of_adapter = _adapter_rows(label, adapter, users, unmatched, binding.idle, inputs.checkpoint)
        rows += (
            _unless_pending(row, binding.pending.get((adapter.adapter.name, row.tensor)))
            for row in of_adapter
        )
    return Coverage.of(rows)


def settled_coverage(coverage: Coverage, role: str, figures: Mapping[str, TensorFigures]) -> Coverage:
    """The coverage once the data has told: a tensor that was merged without a change is `unchanged`."""
    return Coverage.of(_settled(coverage, role, figures))


def _settled(coverage: Coverage, role: str, figures: Mapping[str, TensorFigures]) -> Iterator[CoverageRow]:
    for row in coverage:
        found = figures.get(row.tensor) if row.input == role else None
        if found is not None and row.action is Action.MERGED and found.changed == 0:
            row = replace(row, action=Action.UNCHANGED, reason=f"{row.reason}, which changed no element")
        yield row


def _unless_pending(row: CoverageRow, why: str | None) -> CoverageRow:
    """The row, or that its fate is open: that happens in a dry run only, which reads no values."""
    return row if why is None else replace(row, action=Action.PENDING, reason=why)


def _checkpoint_row(role: str, tensor: Outgoing, verb: str) -> CoverageRow:
    if tensor.source is None:
        raise ValueError(f"{tensor.name} stands in the checkpoint, and yet starts from nothing")
    how = kinds(tensor.updates)
    if "replace" in how.split("+"):
        action = Action.REPLACED
        reason = "the adapter holds it whole" if how == "replace" else f"{verb}: {how}"
    elif tensor.updates:
        action, reason = Action.MERGED, f"{verb}: {how}"
    elif tensor.source.dtype != tensor.dtype:
        action, reason = Action.COPIED, f"no update; {tensor.source.dtype} to {tensor.dtype}"
    else:
        action, reason = Action.COPIED, "no update"
    return CoverageRow(role, tensor.name, action, reason, tensor.source.bytes)


def _users(tensors: Iterable[Outgoing]) -> dict[str, tuple[str, ...]]:
    """Names of the tensors that use an adapter's key, each once, in order."""
    users: dict[str, tuple[str, ...]] = {}
    for tensor in tensors:
        alone = (tensor.name,)
        for update in tensor.updates:
            for key in update.sources:
                known = users.setdefault(key, alone)
                if known[-1] != tensor.name:
                    users[key] = known + alone
    return users


def _adapter_rows(
    label: str,
    adapter: WeightedAdapter,
    users: Mapping[str, Sequence[str]],
    unmatched: frozenset[tuple[str, str]],
    idle: Mapping[tuple[str, str], str],
    checkpoint: Checkpoint,
) -> Iterator[CoverageRow]:
    for key, spec in adapter.opened.items():
        action, reason = _adapter_fate(key, adapter, users, unmatched, idle, checkpoint)
        yield CoverageRow(label, key, action, reason, spec.bytes)


def _adapter_fate(
    key: str,
    adapter: WeightedAdapter,
    users: Mapping[str, Sequence[str]],
    unmatched: frozenset[tuple[str, str]],
    idle: Mapping[tuple[str, str], str],
    checkpoint: Checkpoint,
) -> tuple[Action, str]:
    if key in adapter.adapter.ignored:
        return Action.DROPPED, adapter.adapter.ignored[key]
    if (adapter.adapter.name, key) in unmatched:
        return Action.DROPPED, "finds no tensor in the checkpoint"
    why = idle.get((adapter.adapter.name, key))
    if why is not None:
        return Action.UNCHANGED, why
    targets = users.get(key)
    if not targets:
        raise ValueError(f"{key} of {adapter.name} was bound to nothing, and nobody says why")
    there = targets[0] in checkpoint or any(name in checkpoint for name in targets)
    action = Action.APPLIED if there else Action.ADDED
    return action, f"to {', '.join(targets)}"
