"""Which references are checkpoints and which are adapters: told from headers, never from their order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.reference import open_checkpoint, split_weight
from loratools.errors import UsageError

Reference = str | os.PathLike[str]
"""A path or a hub id."""


@dataclass(frozen=True)
class OpenedReference(os.PathLike[str]):
    """A reference as it was written, and what it was found to be when it was opened: once is enough."""

    written: str
    checkpoint: Checkpoint
    weight: float | None

    @classmethod
    def of(cls, reference: Reference) -> OpenedReference:
        """Opens a reference, from its headers, unless it is open. Raises as `open_checkpoint` does."""
        if isinstance(reference, OpenedReference):
            return reference
        written = os.fspath(reference)
        name, weight = split_weight(written)
        return cls(written, open_checkpoint(name), weight)

    def __fspath__(self) -> str:
        return self.written


@dataclass(frozen=True)
class SortedReferences:
    """The checkpoint, if one was named, and the adapters in their order, perhaps with weights inline."""

    checkpoint: OpenedReference | None
    adapters: tuple[OpenedReference, ...]


def sort_references(references: Sequence[str]) -> SortedReferences:
    """Opens each reference, from its headers, and sorts them into one checkpoint and its adapters.

    Args:
        references: paths or hub ids, an adapter perhaps with a weight (`adapter=0.8`).

    Raises:
        UsageError: two checkpoints, no adapter, or a weight on a checkpoint.
        LoratoolsError: a reference cannot be opened.
    """
    checkpoints: list[OpenedReference] = []
    adapters: list[OpenedReference] = []
    for written in references:
        opened = OpenedReference.of(written)
        if opened.checkpoint.kind is Kind.ADAPTER:
            adapters.append(opened)
        elif opened.weight is not None:
            raise UsageError("a weight stands on a checkpoint", file=written, hint="weights are for adapters")
        else:
            checkpoints.append(opened)
    if len(checkpoints) > 1:
        raise UsageError(
            f"two checkpoints were given, {checkpoints[0].written} and {checkpoints[1].written}",
            hint="name one checkpoint and its adapters",
        )
    if not adapters:
        raise UsageError("no adapter was given", hint="name an adapter after the checkpoint")
    return SortedReferences(next(iter(checkpoints), None), tuple(adapters))


def as_list(references: Sequence[Reference] | Reference) -> list[Reference]:
    """One reference or several, as a list."""
    return [references] if isinstance(references, (str, os.PathLike)) else list(references)
