"""Two checkpoints side by side: every tensor of both, by its name in memory, and what either side lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from loratools.adapters.layers import Layer, LayerGuess, Layers
from loratools.adapters.names import NameMap
from loratools.adapters.tying import declared_tied, embedding_copies, input_embedding, output_head
from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.foreign import require_computable
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError, UsageError

__all__ = ["Pair", "PairedTensor", "Side", "Tie", "pair_checkpoints"]


class Side(str, Enum):
    BASE = "base"
    TUNED = "tuned"


@dataclass(frozen=True, slots=True)
class PairedTensor:
    """A parameter of the tuned model's class by its name in memory, and its spec on either side, if there."""

    name: str
    base: TensorSpec | None
    tuned: TensorSpec | None
    layer: LayerGuess

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def spec(self) -> TensorSpec:
        """That of the tuned side where there is one."""
        found = self.tuned or self.base
        assert found is not None
        return found

    def of(self, side: Side) -> TensorSpec | None:
        return self.base if side is Side.BASE else self.tuned

    @property
    def both(self) -> bool:
        return self.base is not None and self.tuned is not None

    @property
    def same_shape(self) -> bool:
        return self.base is not None and self.tuned is not None and self.base.shape == self.tuned.shape

    @property
    def grown(self) -> bool:
        """Whether tuned has more rows than base, and is alike otherwise: tokens were added."""
        if self.base is None or self.tuned is None or not self.tuned.shape or not self.base.shape:
            return False
        return self.tuned.shape[1:] == self.base.shape[1:] and self.tuned.shape[0] > self.base.shape[0]


@dataclass(frozen=True)
class Tie:
    """The input embedding and the parameters that hold the same values in memory, if the model ties them.

    `members` are names in memory, the head's among them; whether a file holds them is another matter.
    """

    embedding: str
    head: str | None
    members: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Both checkpoints and their tensors by names in memory, in the order of names."""

    base: Checkpoint
    tuned: Checkpoint
    config: Mapping[str, Any]
    tensors: Mapping[str, PairedTensor]
    tie: Tie | None
    notes: tuple[str, ...]

    def modules(self) -> frozenset[str]:
        """All modules of tuned that a tensor's name tells of, containers included."""
        return self._modules

    @cached_property
    def _modules(self) -> frozenset[str]:
        found: set[str] = set()
        for name in (name for name, tensor in self.tensors.items() if tensor.tuned is not None):
            parts = name.split(".")[:-1]
            found.update(".".join(parts[:length]) for length in range(1, len(parts) + 1))
        return frozenset(found)

    def within(self, module: str) -> list[PairedTensor]:
        """The tensors of a module and of all modules below it, in the order of names."""
        return [tensor for name, tensor in self.tensors.items() if name.startswith(f"{module}.")]


def pair_checkpoints(base: Checkpoint, tuned: Checkpoint) -> Pair:
    """Pairs the tensors of two checkpoints, from headers alone.

    Names are those in memory of the tuned model's class; where the base was saved from another class of the
    family (with or without `model.`), its names are brought in line.

    Raises:
        UsageError: one of the two is an adapter.
        LoratoolsError: nothing in common, or a dtype that cannot be computed with.
    """
    for side, checkpoint in ((Side.BASE, base), (Side.TUNED, tuned)):
        require_computable(checkpoint)
        if checkpoint.kind is not Kind.CHECKPOINT:
            raise UsageError(
                f"{side.value} is an adapter, not a checkpoint",
                file=checkpoint.root,
                hint="name the base checkpoint, then the fine-tuned one",
            )
    tuned_names = _in_memory(tuned)
    base_names, note = _in_line(_in_memory(base), tuned_names.keys())
    if not base_names.keys() & tuned_names.keys():
        raise LoratoolsError(
            "the two checkpoints have no tensor's name in common",
            file=tuned.root,
            hint="are they the same architecture, and is each a whole model?",
        )
    config = tuned.config or base.config
    layers = Layers(config)
    tensors = {
        name: _paired(name, base_names.get(name), tuned_names.get(name), layers)
        for name in sorted(base_names.keys() | tuned_names.keys())
    }
    notes = tuple(filter(None, (note, _dtype_note(tensors.values()))))
    return Pair(base, tuned, config, tensors, _tie(tensors, base, tuned), notes)


def _in_memory(checkpoint: Checkpoint) -> dict[str, TensorSpec]:
    names = NameMap.of(checkpoint)
    return {names.memory(name): spec for name, spec in checkpoint.items()}


def _paired(name: str, base: TensorSpec | None, tuned: TensorSpec | None, layers: Layers) -> PairedTensor:
    spec = tuned or base
    assert spec is not None
    return PairedTensor(name, base, tuned, layers.of(name, spec))


def _in_line(base: dict[str, TensorSpec], tuned: Iterable[str]) -> tuple[dict[str, TensorSpec], str | None]:
    """The base's names with a prefix more or less, if that is what keeps them from being tuned's."""
    known = set(tuned)
    direct = len(known & base.keys())
    best, best_count = base, direct
    note = None
    for prefix in sorted({name.partition(".")[0] + "." for name in (*known, *base)}):
        longer = {name if name in known else _with(prefix, name, known): spec for name, spec in base.items()}
        shorter = {
            name if name in known else _without(prefix, name, known): spec for name, spec in base.items()
        }
        for candidate, how in ((longer, "with"), (shorter, "without")):
            count = len(known & candidate.keys())
            if count > best_count and len(candidate) == len(base):
                best, best_count = candidate, count
                note = f"names of the base are read {how} the prefix {prefix!r}, as tuned has them"
    return best, note


def _with(prefix: str, name: str, known: set[str]) -> str:
    return prefix + name if prefix + name in known else name


def _without(prefix: str, name: str, known: set[str]) -> str:
    bare = name.removeprefix(prefix)
    return bare if bare in known else name


def _dtype_note(tensors: Iterable[PairedTensor]) -> str | None:
    pairs = sorted(
        {
            (tensor.base.dtype, tensor.tuned.dtype)
            for tensor in tensors
            if tensor.base is not None
            and tensor.tuned is not None
            and tensor.base.dtype != tensor.tuned.dtype
        }
    )
    if not pairs:
        return None
    told = ", ".join(f"{base} in base and {tuned} in tuned" for base, tuned in pairs)
    return f"dtypes differ: {told}; a tensor that is only rounded counts as unchanged"


def _tie(tensors: Mapping[str, PairedTensor], base: Checkpoint, tuned: Checkpoint) -> Tie | None:
    """Embedding, head and copies, whether or not the model ties them: that is for the data to tell."""
    embeddings = [
        tensor.module
        for tensor in tensors.values()
        if tensor.layer.layer is Layer.EMBEDDING and tensor.leaf == "weight" and tensor.both
    ]
    module = input_embedding(embeddings)
    if module is None:
        return None
    embedding = f"{module}.weight"
    copies = embedding_copies(module, {tensor.module for tensor in tensors.values()})
    head = _head_on_disk(tensors, tensors[embedding]) or _head_by_class(tensors, base, tuned)
    members = tuple(f"{copy}.weight" for copy in copies) + ((head,) if head else ())
    return Tie(embedding, head, members) if members else None


def _head_on_disk(tensors: Mapping[str, PairedTensor], embedding: PairedTensor) -> str | None:
    heads = [
        tensor.name
        for tensor in tensors.values()
        if tensor.layer.layer is Layer.HEAD
        and tensor.leaf == "weight"
        and tensor.spec.shape
        in {spec.shape for spec in (embedding.base, embedding.tuned) if spec is not None}
    ]
    return heads[0] if len(heads) == 1 else None


def _head_by_class(tensors: Mapping[str, PairedTensor], base: Checkpoint, tuned: Checkpoint) -> str | None:
    head = output_head(tuned.config or base.config)
    if head is None or declared_tied(base.config or tuned.config) is False:
        return None
    return f"{head}.weight" if f"{head}.weight" not in tensors else None
