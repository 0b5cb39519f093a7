"""What is to be done with each pair of tensors, as far as headers tell: factor it, compare it, or neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from loratools.adapters.layers import Layer, head_of
from loratools.adapters.renamed import stacked_on_load
from loratools.adapters.tying import declared_tied
from loratools.checkpoints.spec import TensorSpec
from loratools.operations.extract_options import Selection
from loratools.operations.pairing import Pair, PairedTensor, Side

__all__ = ["Assignment", "Role", "assign"]


class Role(str, Enum):
    FACTOR = "factor"
    """A linear layer's weight: factored if it changed."""
    COMPARE = "compare"
    """Saved whole, dropped or refused if it changed, as `--rest` says."""
    NEW_HEAD = "new head"
    """Only tuned has it, and it is part of a head: saved, dropped or refused, as `--rest` says."""
    BUFFER = "buffer"
    """No parameter: recomputed when the model is built."""
    UNHOLDABLE = "unholdable"
    """What no adapter can hold: `--unholdable` says."""


@dataclass(frozen=True)
class Assignment:
    """A pair's role, why, and the specs to compare: where a side lacks a tied parameter, its embedding's."""

    tensor: PairedTensor
    role: Role
    reason: str
    base: TensorSpec | None
    tuned: TensorSpec | None


def assign(pair: Pair, selection: Selection) -> dict[str, Assignment]:
    """The role of every pair, by name in memory, in the order of names."""
    return {name: _assign(tensor, pair, selection) for name, tensor in pair.tensors.items()}


def _assign(tensor: PairedTensor, pair: Pair, selection: Selection) -> Assignment:
    for rule in _RULES:
        found = rule(tensor, pair, selection)
        if found is not None:
            return found
    raise AssertionError(f"no rule for {tensor.name}")


def _as(tensor: PairedTensor, role: Role, reason: str) -> Assignment:
    return Assignment(tensor, role, reason, tensor.base, tensor.tuned)


def _buffer(tensor: PairedTensor, pair: Pair, selection: Selection) -> Assignment | None:
    if tensor.layer.layer is not Layer.BUFFER or not tensor.layer.certain:
        return None
    return _as(tensor, Role.BUFFER, f"{tensor.layer.reason}: recomputed when the model is built")


def _written_once(tensor: PairedTensor, pair: Pair, selection: Selection) -> Assignment | None:
    """A tied parameter that one file holds and the other leaves to its embedding."""
    tie = pair.tie
    if tie is None or tensor.name not in tie.members or tensor.both:
        return None
    lacking, checkpoint = (Side.BASE, pair.base) if tensor.base is None else (Side.TUNED, pair.tuned)
    if declared_tied(checkpoint.config) is False and tensor.name == tie.head:
        return None
    embedding = pair.tensors[tie.embedding]
    base, tuned = tensor.base or embedding.base, tensor.tuned or embedding.tuned
    reason = f"{lacking.value} writes it once, as {tie.embedding}"
    return Assignment(tensor, Role.COMPARE, reason, base, tuned)


def _one_sided(tensor: PairedTensor, pair: Pair, selection: Selection) -> Assignment | None:
    if tensor.both:
        return None
    if tensor.base is None and head_of(tensor.name) is not None and tensor.spec.floating:
        return _as(tensor, Role.NEW_HEAD, "a head that only tuned has")
    side = Side.BASE if tensor.tuned is None else Side.TUNED
    return _as(tensor, Role.UNHOLDABLE, f"only {side.value} has it")


def _reshaped(tensor: PairedTensor, pair: Pair, selection: Selection) -> Assignment | None:
    if tensor.same_shape:
        return None
    holds_tokens = tensor.layer.layer in (Layer.EMBEDDING, Layer.HEAD) or head_of(tensor.name) is not None
    if tensor.grown and holds_tokens:
        return _as(tensor, Role.COMPARE, "tuned has more rows")
    assert tensor.base is not None and tensor.tuned is not None
    shapes = f"{list(tensor.base.shape)} in base, {list(tensor.tuned.shape)} in tuned"
    return _as(tensor, Role.UNHOLDABLE, f"shapes differ: {shapes}")


def _linear(tensor: PairedTensor, pair: Pair, selection: Selection) -> Assignment | None:
    if tensor.layer.layer not in (Layer.LINEAR, Layer.CONV1D) or not tensor.spec.elements:
        return None
    if not _floating(tensor) or f"{tensor.module.rpartition('.')[0]}.in_proj_weight" in pair.tensors:
        return None
    if not selection.includes(tensor.module):
        return _as(tensor, Role.COMPARE, "not among the targets")
    if not tensor.layer.certain and not selection.named(tensor.module):
        return _as(tensor, Role.COMPARE, f"uncertain: {tensor.layer.reason}; --targets would factor it")
    return _as(tensor, Role.FACTOR, f"{tensor.layer.layer.value}: {tensor.layer.reason}")


def _expert(tensor: PairedTensor, pair: Pair, selection: Selection) -> Assignment | None:
    if not stacked_on_load(tensor.name):
        return None
    return _as(tensor, Role.COMPARE, "one expert's own tensor, which transformers stacks on load")


def _other(tensor: PairedTensor, pair: Pair, selection: Selection) -> Assignment | None:
    guess = tensor.layer
    doubt = "" if guess.certain else "uncertain: "
    return _as(tensor, Role.COMPARE, f"{doubt}{guess.layer.value}: {guess.reason}")


def _floating(tensor: PairedTensor) -> bool:
    return all(spec is None or spec.floating for spec in (tensor.base, tensor.tuned))


_Rule = Callable[[PairedTensor, Pair, Selection], Assignment | None]
_RULES: tuple[_Rule, ...] = (_buffer, _written_once, _one_sided, _reshaped, _expert, _linear, _other)


def candidates(assignments: Mapping[str, Assignment]) -> frozenset[str]:
    """The modules that may be factored."""
    return frozenset(a.tensor.module for a in assignments.values() if a.role is Role.FACTOR)
