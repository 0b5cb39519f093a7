"""`Replace` and `Rows`: a tensor that an adapter holds in full, or some rows of one."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from dataclasses import replace as changed
from functools import cached_property

from loratools.adapters.update import Block, ReadRows
from loratools.adapters.values import Values
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError


@dataclass(frozen=True)
class Replace:
    """Puts the adapter's tensor in the place of the base's: saved modules, biases, resized embeddings.

    Args:
        value: what is put there, in any floating dtype.
        shared: whether it stands for the base model's own parameter (`.base_layer.weight`, or a key that no
            list names), which a tied module shares, and not for a copy that one module has of its own
            (`modules_to_save`).
        resizable: whether the number of rows may change (embeddings and heads: a grown vocabulary).
    """

    value: Values
    shared: bool = False
    resizable: bool = False

    kind = "replace"
    subtractable = False
    rank = None
    scaling = None

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.value.key,)

    @property
    def parameters(self) -> int:
        return self.value.spec.elements

    def may_resize(self) -> Replace:
        """The same for an embedding or a head, whose rows may be more or fewer than the base's."""
        return changed(self, resizable=True)

    def weighted(self, weight: float) -> Replace:
        if weight != 1:
            raise _no_weight(self.value, weight, "holds this tensor in full")
        return self

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """The value's shape. Raises LoratoolsError where more than a vocabulary differs from `before`."""
        after = self.value.shape
        if after == before or (self.resizable and after and before and after[1:] == before[1:]):
            return after
        raise LoratoolsError(
            f"the adapter's tensor of {after} cannot replace the base's of {before}",
            file=self.value.spec.file,
            tensor=self.value.key,
            hint="is this the base that the adapter was trained on?",
        )

    def prepare(self, read: ReadRows[Block], spec: TensorSpec) -> None:
        """Nothing: the tensor is not looked at."""

    def apply(self, block: Block, first: int) -> Block:
        return self.value.rows_like(block, first)

    def norm(self) -> None:
        """None: what is added depends on the tensor."""

    def memory(self, spec: TensorSpec) -> int:
        """Nothing is kept: blocks of it are read as they are needed."""
        return 0

    def release(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Rows:
    """Puts the adapter's rows in the place of some of an embedding's: `W[indices] = value`.

    PEFT calls them `trainable_tokens_delta`; they are values, not differences.

    Args:
        value: (n, d).
        indices: n different rows of the tensor.
    """

    value: Values
    indices: tuple[int, ...] = field(repr=False)

    kind = "rows"
    subtractable = False
    rank = None
    scaling = None

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.value.key,)

    @property
    def parameters(self) -> int:
        return self.value.spec.elements

    @cached_property
    def _sorted(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The rows in ascending order, and where each stands in `value`."""
        places = sorted(range(len(self.indices)), key=self.indices.__getitem__)
        return tuple(self.indices[place] for place in places), tuple(places)

    def weighted(self, weight: float) -> Rows:
        if weight != 1:
            raise _no_weight(self.value, weight, "holds these token rows in full")
        return self

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """`before`. Raises LoratoolsError where rows or columns lie outside of it."""
        if len(before) != 2 or self.value.shape[1:] != before[1:]:
            raise LoratoolsError(
                f"token rows of {self.value.shape} do not fit the base's tensor of {before}",
                file=self.value.spec.file,
                tensor=self.value.key,
                hint="is this the base that the adapter was trained on?",
            )
        if max(self.indices, default=0) >= before[0]:
            raise LoratoolsError(
                f"token {max(self.indices)} lies outside of the base's vocabulary of {before[0]}",
                file=self.value.spec.file,
                tensor=self.value.key,
                hint="resize the base's embedding as it was for the training, and save it, first",
            )
        return before

    def prepare(self, read: ReadRows[Block], spec: TensorSpec) -> None:
        """Nothing: a block needs no other."""

    def apply(self, block: Block, first: int) -> Block:
        rows, places = self._sorted
        begin, end = bisect_left(rows, first), bisect_left(rows, first + len(block))
        if begin < end:
            values = self.value.like(block)
            block[[row - first for row in rows[begin:end]]] = values[list(places[begin:end])]
        return block

    def norm(self) -> None:
        """None: what is added depends on the tensor."""

    def memory(self, spec: TensorSpec) -> int:
        return self.value.memory(spec)

    def release(self) -> None:
        self.value.release()


def _no_weight(value: Values, weight: float, why: str) -> LoratoolsError:
    return LoratoolsError(
        f"a weight of {weight:g} cannot be given to an adapter that {why}",
        file=value.spec.file,
        tensor=value.key,
        hint="use weight 1: a replacement has no size to scale",
    )
