"""An adapter as arithmetic takes it: pairs of factors by module, and what is no pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from loratools.adapters.bias import Bias
from loratools.adapters.binding import Adapter
from loratools.adapters.dora import Dora
from loratools.adapters.lowrank import LowRank
from loratools.adapters.peft import read_adapter
from loratools.adapters.peft_config import PeftConfig
from loratools.adapters.peft_keys import Key, Part, parse_key, written_key
from loratools.adapters.peft_refusals import Use
from loratools.adapters.replace import Replace, Rows
from loratools.adapters.update import Update
from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.provenance import InputRecord, read_provenance
from loratools.checkpoints.reference import open_checkpoint
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.rewrite_record import input_name

__all__ = ["CARRIED", "Carried", "FactorPair", "FactoredAdapter", "open_factored"]

CARRIED = {
    "replace": "held in full",
    "rows": "rows of an embedding, held in full",
}
"""What is no pair of factors, by the kind of the update."""


@dataclass(frozen=True)
class FactorPair:
    """A module's factors, unread: what they add is `scaling · B A`.

    `A` is (r, n), or (r, in, k...) of a convolution, then taken as (r, in · k...); `B` is (m, r) or
    (m, r, 1...). `bias` is what `lora_bias` trained beside B, added with the same scaling; `magnitude` is
    DoRA's.
    """

    module: str
    A: TensorSpec
    B: TensorSpec
    scaling: float
    alpha: float
    """As the config has it, but for rsLoRA, where it is what makes alpha / rank the scaling."""
    embedding: bool
    bias: TensorSpec | None = None
    magnitude: TensorSpec | None = None

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the product."""
        return self.B.shape[0], math.prod(self.A.shape[1:])

    @property
    def layout(self) -> tuple[bool, tuple[int, ...], tuple[int, ...]]:
        """What a module's factors have in common in all adapters: kind, and all lengths but the rank."""
        return self.embedding, self.A.shape[1:], (self.B.shape[0], *self.B.shape[2:])

    @property
    def bytes(self) -> int:
        return self.A.bytes + self.B.bytes

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in (self.A, self.B, self.bias, self.magnitude) if spec is not None)

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of factors of another rank."""
        return (rank, *self.A.shape[1:]), (self.B.shape[0], rank, *self.B.shape[2:])

    def written_keys(self) -> tuple[str, str]:
        """The keys of A and B as PEFT writes them."""
        A, B = (Part.EMBEDDING_A, Part.EMBEDDING_B) if self.embedding else (Part.A, Part.B)
        return written_key(Key("", self.module, A)), written_key(Key("", self.module, B))


@dataclass(frozen=True)
class Carried:
    """A tensor that is no factor, and why.

    `beside`: it lies under the factors of its module, and not in the place of a module without. `foundation`:
    it is the weight that factors of this adapter, of its module or of the one tied to it, were trained on:
    mostly the base's own, which PEFT saves beside those of an embedding. `rows`: those of an embedding that
    it is, if it is some.
    """

    spec: TensorSpec
    why: str
    module: str
    beside: bool
    foundation: bool
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True)
class FactoredAdapter:
    """An opened adapter: its pairs by module, in the order of names; what else it holds, by the key it will
    have, with the reason why it is no pair; keys that mean nothing, with theirs."""

    opened: Checkpoint
    config: PeftConfig
    pairs: Mapping[str, FactorPair]
    carried: Mapping[str, Carried]
    ignored: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        return input_name(self.opened)

    @property
    def rank(self) -> int:
        """The largest that its config allows, as PEFT counts it."""
        return max(self.config.r, *self.config.rank_pattern.values(), *(p.rank for p in self.pairs.values()))

    @cached_property
    def base_record(self) -> InputRecord | None:
        """What the adapter's own provenance knows of its base: it stays true of what is made of the adapter.

        Raises:
            LoratoolsError: there is a provenance, and it cannot be read.
        """
        record = read_provenance(self.opened.root)
        return next((one for one in record.inputs if one.role == "base"), None) if record else None


def open_factored(reference: str) -> FactoredAdapter:
    """Opens an adapter of PEFT's format from its headers.

    Raises:
        UsageError: it is a checkpoint.
        LoratoolsError: it cannot be opened, is of another format or of a method whose factors cannot be
            computed with, is broken, or has no factors.
    """
    opened = open_checkpoint(reference)
    if opened.kind is not Kind.ADAPTER:
        raise UsageError(
            "a checkpoint stands where an adapter has to be",
            file=reference,
            hint="name adapters; extract makes one of a base and its fine-tune",
        )
    if opened.format not in ("peft", "prompt", "bottleneck"):
        raise LoratoolsError(
            f"an adapter of the format {opened.format} cannot be resized or combined yet",
            file=opened.root,
            hint="name a LoRA adapter as PEFT saves it",
        )
    adapter = read_adapter(opened, Use.REWRITTEN)
    config = PeftConfig.of(opened.config, file=str(opened.folder), use=Use.REWRITTEN)
    pairs = dict(_pairs(adapter, config))
    if not pairs:
        raise LoratoolsError("the adapter has no low-rank factors", file=opened.root)
    return FactoredAdapter(
        opened, config, pairs, dict(_carried(adapter)), adapter.ignored, _warnings(opened, adapter)
    )


def _warnings(opened: Checkpoint, adapter: Adapter) -> tuple[str, ...]:
    return tuple(f"{opened.reference}: {line}" for line in adapter.warnings)


def _pairs(adapter: Adapter, config: PeftConfig) -> Iterator[tuple[str, FactorPair]]:
    """By module, with the bias that is trained beside B."""
    biases = {
        parse_key(update.value.key).module: update.value.spec
        for update in _updates(adapter)
        if isinstance(update, Bias)
    }
    for update in _updates(adapter):
        direction = update.direction if isinstance(update, Dora) else update
        if isinstance(direction, LowRank):
            pair = _pair(direction, config)
            magnitude = update.magnitude.spec if isinstance(update, Dora) else None
            yield pair.module, replace(pair, bias=biases.get(pair.module), magnitude=magnitude)


def _pair(update: LowRank, config: PeftConfig) -> FactorPair:
    key = parse_key(update.A.key)
    rank = update.A.spec.shape[0]
    alpha = update.scaling * rank if config.use_rslora else config.alpha(key.module)
    return FactorPair(
        module=key.module,
        A=update.A.spec,
        B=update.B.spec,
        scaling=update.scaling,
        alpha=alpha,
        embedding=key.part is Part.EMBEDDING_A,
    )


def _carried(adapter: Adapter) -> Iterator[tuple[str, Carried]]:
    for update in _updates(adapter):
        if isinstance(update, (Replace, Rows)):
            key = parse_key(update.value.key)
            beside = key.part not in (Part.PARAMETER, Part.SAVED)
            foundation = isinstance(update, Replace) and update.shared and key.leaf == "weight"
            rows = update.indices if isinstance(update, Rows) else None
            carried = Carried(update.value.spec, CARRIED[update.kind], key.module, beside, foundation, rows)
            yield written_key(key), carried


def _updates(adapter: Adapter) -> Iterator[Update]:
    for updates in adapter.updates.values():
        yield from updates
