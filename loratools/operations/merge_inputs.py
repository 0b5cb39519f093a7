"""What `merge` and `unmerge` read: one checkpoint and adapters with weights, told apart by what they are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratools.adapters.binding import Adapter
from loratools.adapters.peft import read_adapter
from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.foreign import require_computable
from loratools.checkpoints.provenance import read_provenance
from loratools.checkpoints.reference import open_checkpoint, resolve_base, split_weight
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.references import OpenedReference, Reference


@dataclass(frozen=True)
class WeightedAdapter:
    """An adapter as it was opened and understood, with its weight, and whether the user gave it that weight.

    `base_roots` are the hashes of the base's tensors where the adapter's provenance knows them.
    """

    opened: Checkpoint
    adapter: Adapter
    weight: float
    weight_given: bool
    base_roots: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.opened.name


@dataclass(frozen=True)
class MergeInputs:
    """The checkpoint and the adapters in the order given."""

    checkpoint: Checkpoint
    adapters: tuple[WeightedAdapter, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """What must not be written to."""
        return (self.checkpoint.root, *(one.opened.root for one in self.adapters))

    def require_unchanged(self) -> None:
        """Raises LoratoolsError where a weight file was written since it was opened."""
        self.checkpoint.require_unchanged()
        for one in self.adapters:
            one.opened.require_unchanged()

    def labels(self) -> list[str]:
        """What coverage calls the adapters: `adapter`, or `adapter 1`, `adapter 2`, ..."""
        if len(self.adapters) == 1:
            return ["adapter"]
        return [f"adapter {place}" for place in range(1, len(self.adapters) + 1)]


def open_inputs(
    checkpoint: Reference | None, adapters: Sequence[Reference], weights: Sequence[float] | None
) -> MergeInputs:
    """Opens everything from headers.

    Args:
        checkpoint: the base or the merged checkpoint; None for the base that the adapters' configs name.
        adapters: in the order in which they are applied, perhaps with a weight (`adapter=0.8`).
        weights: one for each adapter; None where they stand inline or are all 1.

    Raises:
        UsageError: no adapter, a checkpoint where an adapter has to be or the reverse, weights both inline
            and given, not one for each adapter, or not finite.
        LoratoolsError: something cannot be opened, is quantised, or cannot be merged.
    """
    if not adapters:
        raise UsageError("no adapter was given", hint="name an adapter after the checkpoint")
    chosen = weights_of(list(map(_inline_weight, adapters)), weights)
    opened = list(map(_open_adapter, adapters))
    read = [read_adapter(one) for one in opened]  # before the base: it may be what is not here
    base = _open_checkpoint(checkpoint if checkpoint is not None else _named_base(opened))
    return MergeInputs(
        base,
        tuple(
            WeightedAdapter(
                one,
                adapter,
                1.0 if weight is None else weight,
                weight is not None,
                _base_roots(one),
            )
            for one, adapter, weight in zip(opened, read, chosen, strict=True)
        ),
    )


def weights_of(inline: Sequence[float | None], given: Sequence[float] | None) -> list[float | None]:
    """One weight for each adapter, None where neither stands beside its name nor apart.

    Raises:
        UsageError: weights in both places, not one for each adapter, or not finite.
    """
    if given and any(weight is not None for weight in inline):
        raise UsageError("weights are given both inline and apart", hint="use one of the two")
    if not given:
        return list(inline)
    if len(given) != len(inline):
        raise UsageError(
            f"{len(given)} weights for {len(inline)} adapters", hint="give one weight for each adapter"
        )
    if not all(math.isfinite(weight) for weight in given):
        raise UsageError("a weight is not finite")
    return [float(weight) for weight in given]


def _inline_weight(reference: Reference) -> float | None:
    if isinstance(reference, OpenedReference):
        return reference.weight
    return split_weight(os.fspath(reference))[1]


def _open_adapter(reference: Reference) -> Checkpoint:
    opened = OpenedReference.of(reference).checkpoint
    if opened.kind is not Kind.ADAPTER:
        raise UsageError(
            "a checkpoint stands where an adapter has to be",
            file=opened.reference,
            hint="name one checkpoint, and its adapters after it",
        )
    return opened


def _open_checkpoint(reference: Reference) -> Checkpoint:
    opened = reference.checkpoint if isinstance(reference, OpenedReference) else open_checkpoint(reference)
    if opened.kind is not Kind.CHECKPOINT:
        raise UsageError(
            "an adapter stands where the checkpoint has to be",
            file=os.fspath(reference),
            hint="name the checkpoint first, or the adapter alone to use the base that its config names",
        )
    require_computable(opened)
    return opened


def _named_base(adapters: Sequence[Checkpoint]) -> str:
    named = list(dict.fromkeys(resolve_base(adapter) for adapter in adapters))
    if len(named) > 1:
        raise UsageError(
            f"the adapters name different bases, {named[0]} and {named[1]}",
            hint="name the base that is meant first",
        )
    return named[0]


def _base_roots(adapter: Checkpoint) -> Mapping[str, str]:
    """Hashes of the base's tensors, by their names in it, if the adapter's provenance tells them."""
    try:
        record = read_provenance(adapter.root)
    except LoratoolsError as error:
        raise LoratoolsError(
            error.message,
            file=error.file or adapter.root,
            hint="remove the file, or extract the adapter again",
        ) from error
    inputs = () if record is None else record.inputs
    return next((one.tensors for one in inputs if one.role == "base"), {})
