"""Every method's row for one model: what it trains, what that takes, what it costs at inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loratools.reports.costs import formulas
from loratools.reports.costs.architecture import Architecture
from loratools.reports.costs.rows import Method, MethodRow
from loratools.reports.costs.targets import Targets
from loratools.reports.costs.yardstick import Yardstick

__all__ = ["Lengths", "method_rows"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Positions that prefixes and prompts take: the paper's l_p and l_i for GPT-3, and 100 for a prompt
    (Lester et al. 2021), or an eighth of the context where that is less."""

    prefix: int
    infix: int
    layer_prefix: int
    layer_infix: int
    prompt: int

    @classmethod
    def for_context(cls, positions: int | None) -> Lengths:
        eighth = max(1, positions // 8) if positions else 256
        few = min(8, max(1, eighth // 2))
        return cls(min(256, eighth), few, few, few, min(100, eighth))


def method_rows(
    model: Architecture, targets: Targets, ranks: Sequence[int], yardstick: Yardstick
) -> Iterator[MethodRow]:
    """The full fine-tune, BitFit, LoRA, adapters of three kinds at the ranks, prefixes and a prompt.

    An adapter's bottleneck is as wide as LoRA's rank, so that the two stand side by side.
    """
    yield yardstick.row(Method.FULL, formulas.full(model), size=yardstick.bytes)
    biases = formulas.bitfit(model)
    note = None if biases.value else "the model has no biases, so there is nothing to train"
    yield yardstick.row(Method.BITFIT, biases, note=note)
    for rank in ranks:
        yield yardstick.row(
            Method.LORA, formulas.lora(targets, rank), {"rank": rank, "targets": targets.names}
        )
    for rank in ranks:
        yield _houlsby(model, rank, yardstick)
        yield _after_feed_forward(model, rank, yardstick, norms=model.layers, kind="Lin")
        yield _after_feed_forward(model, rank, yardstick, norms=0, kind="Pfeiffer")
    yield from _prefixes(model, Lengths.for_context(model.positions), yardstick)


def _houlsby(model: Architecture, bottleneck: int, yardstick: Yardstick) -> MethodRow:
    """Adapter-H: two adapters a block, and the norms of the blocks are trained, too (Houlsby et al. 2019)."""
    adapters, norms = 2 * model.layers, model.block_norms
    count = formulas.adapter_layers(model.hidden, adapters, bottleneck, norms, norm_biases=model.norm_biases)
    settings = {"bottleneck": bottleneck, "adapters": adapters, "norms": norms}
    return yardstick.row(Method.HOULSBY, count, {**settings}, serial_layers=2 * adapters)


def _after_feed_forward(
    model: Architecture, bottleneck: int, yardstick: Yardstick, *, norms: int, kind: str
) -> MethodRow:
    """One adapter a block: Adapter-L with a LayerNorm of its own (Lin et al. 2020), Adapter-P without
    (Pfeiffer et al. 2021)."""
    count = formulas.adapter_layers(model.hidden, model.layers, bottleneck, norms)
    return yardstick.row(
        Method.BOTTLENECK,
        count,
        {"kind": kind, "bottleneck": bottleneck, "adapters": model.layers, "norms": norms},
        serial_layers=2 * model.layers,
    )


def _prefixes(model: Architecture, lengths: Lengths, yardstick: Yardstick) -> Iterator[MethodRow]:
    d, layers = model.hidden, model.layers
    yield yardstick.row(
        Method.PREFIX_EMBEDDING,
        formulas.prefix_embedding(d, lengths.prefix, lengths.infix),
        {"l_p": lengths.prefix, "l_i": lengths.infix},
        context_positions=lengths.prefix + lengths.infix,
    )
    positions = lengths.layer_prefix + lengths.layer_infix
    yield yardstick.row(
        Method.PREFIX_LAYER,
        formulas.prefix_layer(layers, d, lengths.layer_prefix, lengths.layer_infix),
        {"l_p": lengths.layer_prefix, "l_i": lengths.layer_infix},
        context_positions=positions,
    )
    width = model.key_value_width
    if width is not None:
        yield yardstick.row(
            Method.PREFIX_LAYER,
            formulas.prefix_key_values(model.prefixed_layers or layers, width, positions),
            {"tokens": positions, "of": "K and V"},
            context_positions=positions,
            note="as PEFT stores a prefix",
        )
    yield yardstick.row(
        Method.PROMPT,
        formulas.prompt(d, lengths.prompt),
        {"tokens": lengths.prompt},
        context_positions=lengths.prompt,
    )
