"""Adapters beside the base that they are for: which of its matrices each one's low-rank updates go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loratools.adapters.bind import bind
from loratools.adapters.binding import Adapter, Binding
from loratools.adapters.contents import VALUES, Contents
from loratools.adapters.dora import Dora
from loratools.adapters.lowrank import LowRank
from loratools.adapters.peft import read_adapter
from loratools.adapters.update import Update
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.spec import TensorSpec
from loratools.engine.coverage import Action, CoverageRow
from loratools.operations.analysis.skinny import NO_FACTORS, adapter_labels

__all__ = ["BoundAdapter", "Matrix", "bind_adapters"]

Matrix = LowRank | Dora
"""The updates that have directions: of a weight, and no replacement of it."""


@dataclass(frozen=True)
class BoundAdapter:
    """One adapter. `matrices` are its low-rank updates, by the name on disk of the tensor they go to: the
    base's, or one that a merge would write apart from what it is tied to."""

    reference: str
    label: str
    opened: Checkpoint
    adapter: Adapter
    binding: Binding
    matrices: Mapping[str, Matrix]

    @property
    def sources(self) -> dict[str, TensorSpec]:
        """The base's tensor that each of `matrices` is added to: for a tied name, the one shared."""
        return {
            name: source
            for name in self.matrices
            if (source := self.binding.tensors[name].source) is not None
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        notes = (*self.adapter.warnings, *self.binding.decisions, *self.binding.warnings)
        return tuple(f"{self.reference}: {line}" for line in notes)

    def coverage(self, passed: Mapping[str, str]) -> Iterator[CoverageRow]:
        """A row for each key of the adapter.

        Args:
            passed: why the update of a tensor (by its name on disk) was not analysed, where it was not.
        """
        fates = dict(self._fates(passed))
        for key, spec in self.opened.items():
            action, reason = fates[key]
            why = self.binding.pending.get((self.adapter.name, key))
            action, reason = (action, reason) if why is None else (Action.PENDING, why)
            yield CoverageRow(self.label, key, action, reason, spec.bytes)

    def _fates(self, passed: Mapping[str, str]) -> Iterator[tuple[str, tuple[Action, str]]]:
        yield from ((key, (Action.DROPPED, reason)) for key, reason in self.adapter.ignored.items())
        for (_, key), reason in self.binding.idle.items():
            yield key, (Action.UNCHANGED, reason)
        for name, bound in self.binding.tensors.items():
            for update in bound.updates:
                fate = _fate(name, update, self.matrices, passed)
                yield from ((key, fate) for key in update.sources)


def _fate(
    name: str, update: Update, matrices: Mapping[str, Matrix], passed: Mapping[str, str]
) -> tuple[Action, str]:
    if name in passed:
        return Action.DROPPED, passed[name]
    if matrices.get(name) is update:
        return Action.APPLIED, f"to {name}"
    return Action.DROPPED, NO_FACTORS.get(update.kind, "added to what the adapter itself replaces")


def bind_adapters(
    base: Checkpoint, adapters: Sequence[Checkpoint], contents: Contents = VALUES
) -> tuple[BoundAdapter, ...]:
    """Each adapter, bound to the base by itself.

    Raises:
        LoratoolsError: one cannot be read, or has a key that finds no tensor or does not fit.
    """
    labels = adapter_labels(len(adapters))
    return tuple(
        _bound(base, opened, label, contents) for opened, label in zip(adapters, labels, strict=True)
    )


def _bound(base: Checkpoint, opened: Checkpoint, label: str, contents: Contents) -> BoundAdapter:
    adapter = read_adapter(opened)
    binding = bind([(adapter, 1.0)], base, contents=contents)
    matrices = {
        name: bound.updates[0]
        for name, bound in binding.tensors.items()
        if len(bound.updates) == 1 and isinstance(bound.updates[0], (LowRank, Dora))
    }
    return BoundAdapter(opened.reference, label, opened, adapter, binding, matrices)
