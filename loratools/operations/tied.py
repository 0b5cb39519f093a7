"""What became of the input embedding and of the head that shares its weight, and how the adapter holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loratools.adapters.tying import declared_tied
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.spec import TensorSpec
from loratools.operations.pairing import Pair, Side, Tie

__all__ = ["Seen", "Tied", "hold_tied"]

_PEFT_TIES = frozenset({"embed_tokens", "lm_head"})
"""One of these must be among the modules to save for PEFT's `ensure_weight_tying` to do anything (0.21)."""


@dataclass(frozen=True)
class Seen:
    """What the data told of the embedding and those that may be tied to it.

    `changed`: for each name, how many rows differ between base and tuned (a name that one side does not write
    is compared by its embedding's values there). `rows`: of the embedding, which, where they are few.
    `apart`: names on disk whose values differ from their own side's embedding.
    """

    changed: Mapping[str, int]
    rows: tuple[int, ...] | None
    apart: frozenset[tuple[Side, str]]


@dataclass(frozen=True)
class Tied:
    """`saved` modules, changed `rows` of the embedding, and the tensors that hold the `values` of tied names.

    `names` are all parameters that are settled here; `together`: PEFT is to keep embedding and head one.
    """

    names: frozenset[str] = frozenset()
    saved: tuple[str, ...] = ()
    rows: Mapping[str, tuple[tuple[int, ...], TensorSpec]] = field(default_factory=dict)
    values: Mapping[str, TensorSpec] = field(default_factory=dict)
    together: bool = False


def hold_tied(pair: Pair, seen: Seen, *, embedding_only: bool) -> Tied:
    """Settles embedding, head and copies.

    Args:
        pair: the checkpoints.
        seen: what the data told.
        embedding_only: whether nothing else of the head's module changed, so that its rows may stand as
            trainable tokens.
    """
    tie = pair.tie
    if tie is None:
        return Tied()
    followers = tuple(name for name in tie.members if _follows(name, tie, pair, seen))
    alone = [
        name
        for name in tie.members
        if name in seen.changed and name not in followers and _moved(name, pair, seen)
    ]
    embedding = pair.tensors[tie.embedding]
    assert embedding.tuned is not None
    module = embedding.module
    values = _values(tie, pair, embedding.tuned)
    names = frozenset({tie.embedding, *tie.members})
    if not _moved(tie.embedding, pair, seen):
        return Tied(names, _modules(alone), {}, values)
    only_head = set(followers) <= {tie.head}
    if (
        seen.rows
        and not embedding.grown
        and only_head
        and embedding_only
        and not (alone and _tied_model(pair))
    ):
        rows = {module: (seen.rows, embedding.tuned)}
        return Tied(names, _modules(alone), rows, values)
    saved = _modules([tie.embedding, *followers, *alone])
    together = (
        bool(followers) and only_head and bool({name.rpartition(".")[2] for name in saved} & _PEFT_TIES)
    )
    return Tied(names, saved, {}, values, together)


def _follows(name: str, tie: Tie, pair: Pair, seen: Seen) -> bool:
    """Whether base's model ties it to the embedding, and tuned has the same values in both."""
    base_ties = name != tie.head or declared_tied(pair.base.config) is not False
    return base_ties and all((side, name) not in seen.apart for side in Side)


def _moved(name: str, pair: Pair, seen: Seen) -> bool:
    tensor = pair.tensors.get(name)
    return seen.changed.get(name, 0) > 0 or (tensor is not None and tensor.grown)


def _tied_model(pair: Pair) -> bool:
    return declared_tied(pair.base.config) is not False


def _values(tie: Tie, pair: Pair, embedding: TensorSpec) -> dict[str, TensorSpec]:
    """Where tuned keeps the values of each name: its own tensor, or the embedding's."""
    values = {tie.embedding: embedding}
    for name in tie.members:
        tensor = pair.tensors.get(name)
        own = None if tensor is None else tensor.tuned
        if own is not None:
            values[name] = own
        elif tensor is not None or _writes_nothing(pair.tuned, name, tie):
            values[name] = embedding
    return values


def _writes_nothing(tuned: Checkpoint, name: str, tie: Tie) -> bool:
    """Whether tuned has the parameter in memory though neither file writes it."""
    return name != tie.head or declared_tied(tuned.config) is not False


def _modules(names: list[str]) -> tuple[str, ...]:
    return tuple(name.rpartition(".")[0] for name in names)
