"""A user's own adapters, told from their headers: what method each is, its formula with its own numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.errors import LoratoolsError
from loratools.operations.analysis.places import place_of
from loratools.operations.inspect import dtype_of
from loratools.reports import words
from loratools.reports.costs import formulas
from loratools.reports.costs.architecture import Architecture
from loratools.reports.costs.formulas import Count
from loratools.reports.costs.rows import Method, MethodRow, Setting
from loratools.reports.costs.targets import Adapted, Targets
from loratools.reports.costs.yardstick import Yardstick

__all__ = ["adapter_row"]


@dataclass(frozen=True)
class Recognised:
    """What an adapter is: its method, settings and count; and the (out, in) of the matrices that it adapts,
    or the width of the states that it works on."""

    method: Method
    count: Count
    settings: dict[str, Setting]
    serial_layers: int = 0
    context_positions: int = 0
    note: str | None = None
    sides: frozenset[tuple[int, int]] = frozenset()
    width: int | None = None


def adapter_row(adapter: Checkpoint, yardstick: Yardstick, model: Architecture | None) -> MethodRow:
    """The row of one adapter, exact: its parameters are those in the file, and the formula comes to them, or
    the note says what else is in there.

    Raises:
        LoratoolsError: it is of a method that report does not compare, or cannot be this model's.
    """
    known = _RECOGNISERS.get(adapter.format, _low_rank)(adapter)
    if model is not None:
        _require_fit(adapter, known, model)
    return yardstick.row(
        known.method,
        _exact(known.count, adapter.parameters),
        known.settings,
        size=adapter.bytes,
        dtype=dtype_of(adapter) or yardstick.dtype,
        serial_layers=known.serial_layers,
        context_positions=known.context_positions,
        reference=adapter.reference,
        model=None if model is None else model.name,
        note=known.note,
    )


def _require_fit(adapter: Checkpoint, known: Recognised, model: Architecture) -> None:
    """Raises where no matrix of the model has the sides of those adapted, or its states another width."""
    shapes = {part.shape for part in model.parts if len(part.shape) == 2}
    fits = not known.sides or any({(out, into), (into, out)} & shapes for out, into in known.sides)
    if known.width not in (None, model.hidden):
        fits = False
    if not fits:
        raise LoratoolsError(
            f"its shapes are none of {model.name}'s", file=adapter.root, hint="name the base that it is for"
        )


def _exact(count: Count, held: int) -> Count:
    """The count as the file has it: the formula's, and what is in there beside."""
    rest = held - count.value
    if not rest:
        return count
    return Count(f"{count.formula} + the rest", f"{count.evaluation} + {rest:,}", held)


def _low_rank(adapter: Checkpoint) -> Recognised:
    """LoRA, of whatever format, and what is built like it: r · (in + out) a pair."""
    pairs = list(_pairs(adapter))
    declared = str(adapter.config.get("peft_type", "LORA"))
    if not pairs or declared not in ("LORA", "PeftType.LORA"):
        what = declared if declared != "LORA" else f"this adapter ({adapter.format})"
        raise LoratoolsError(
            f"{what} is of no method that report compares", file=adapter.root, hint="inspect tells its size"
        )
    ranks = sorted({rank for _, rank, _, _ in pairs})
    counted = Counter((words.family(module), out, into, rank) for module, rank, out, into in pairs)
    targets = Targets(
        tuple(Adapted(name, out, into, count) for (name, out, into, _), count in counted.items()), "its own"
    )
    one = ranks[0] if len(ranks) == 1 else None
    count = formulas.lora(targets, one) if one is not None else _mixed_ranks(counted)
    settings: dict[str, Setting] = {"rank": one if one is not None else f"{ranks[0]} to {ranks[-1]}"}
    rest = adapter.parameters - count.value
    note = f"{rest:,} of its parameters are saved whole, or are magnitudes" if rest else None
    sides = frozenset((one.out, one.into) for one in targets.matrices)
    return Recognised(Method.LORA, count, {**settings, "targets": targets.names}, note=note, sides=sides)


def _mixed_ranks(counted: Counter[tuple[str, int, int, int]]) -> Count:
    """Σ r · (in + out) where the ranks differ."""
    value = sum(count * rank * (out + into) for (_, out, into, rank), count in counted.items())
    by_rank: Counter[int] = Counter()
    for (_, out, into, rank), count in counted.items():
        by_rank[rank] += count * (out + into)
    terms = " + ".join(f"{rank}·{sides:,}" for rank, sides in sorted(by_rank.items()))
    return Count("Σ r · (in + out)", terms, value)


_ENDINGS = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A", ".lora_B"),
    (".lora_embedding_A", ".lora_embedding_B"),
    (".lora_down.weight", ".lora_up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
)
"""What a pair of factors is called, by format: (r, in) and (out, r)."""


def _pairs(adapter: Checkpoint) -> Iterable[tuple[str, int, int, int]]:
    """Module, rank, out and in of each pair; convolutions' kernels count as part of in."""
    for name, spec in adapter.items():
        ending = next((pair for pair in _ENDINGS if name.endswith(pair[0])), None)
        up = adapter.tensors.get(name.removesuffix(ending[0]) + ending[1]) if ending else None
        if ending is None or up is None or not spec.shape or not up.shape:
            continue
        rank = spec.shape[0]
        yield name.removesuffix(ending[0]), rank, up.elements // rank, spec.elements // rank


def _prompt(adapter: Checkpoint) -> Recognised:
    """PEFT's prompts, and prefixes, whose rows hold keys and values of all layers (Li and Liang 2021)."""
    found = [spec for name, spec in adapter.items() if name.rpartition(".")[2] == "prompt_embeddings"]
    if not found or len(found[0].shape) != 2:
        raise LoratoolsError("a prompt without prompt_embeddings (n, width)", file=adapter.root)
    tokens, width = found[0].shape
    kind = str(adapter.config.get("peft_type", "")).removeprefix("PeftType.")
    layers = adapter.config.get("num_layers")
    if kind == "PREFIX_TUNING" and isinstance(layers, int) and layers > 0 and width % (2 * layers) == 0:
        count = formulas.prefix_key_values(layers, width // (2 * layers), tokens)
        settings: dict[str, Setting] = {"tokens": tokens, "of": "K and V", "layers": layers}
        return Recognised(Method.PREFIX_LAYER, count, settings, context_positions=tokens)
    settings = {"tokens": tokens}
    note = None
    if kind == "PREFIX_TUNING":
        count = Count("n · width", f"{tokens} · {width:,}", tokens * width)
        note = "its config does not tell the layers that the width is of"
        return Recognised(Method.PREFIX_LAYER, count, settings, context_positions=tokens, note=note)
    count = formulas.prompt(width, tokens)
    return Recognised(Method.PROMPT, count, settings, context_positions=tokens, width=width)


def _bottleneck(adapter: Checkpoint) -> Recognised:
    """AdapterHub's bottleneck adapters: Houlsby's where a layer has two, else one of those after the
    feed-forward; L_adpt · (2·d·r + r + d), and norms that an adapter has of its own."""
    downs = {
        name: spec
        for name, spec in adapter.items()
        if ".adapter_down." in name and name.endswith(".weight") and len(spec.shape) == 2
    }
    if not downs:
        raise LoratoolsError(
            "a bottleneck adapter whose matrices are not plain ones (Compacter and its kin) is of no method "
            "that report compares",
            file=adapter.root,
            hint="inspect tells its size",
        )
    widths, sizes = (
        Counter(spec.shape[0] for spec in downs.values()),
        {spec.shape[1] for spec in downs.values()},
    )
    if len(sizes) > 1:
        raise LoratoolsError("its adapters are of different widths", file=adapter.root)
    ((d),) = sizes
    houlsby = max(Counter(map(_block, downs)).values()) > 1
    count = _several_widths(d, widths)
    norms, odd = divmod(adapter.parameters - count.value, 2 * d)
    if not odd and norms and len(widths) == 1:
        count = formulas.adapter_layers(d, len(downs), next(iter(widths)), norms)
    settings: dict[str, Setting] = {
        "bottleneck": next(iter(widths)) if len(widths) == 1 else f"{min(widths)} to {max(widths)}",
        "adapters": len(downs),
        "norms": 0 if odd else norms,
    }
    note = None
    if rest := adapter.parameters - count.value:
        note = f"{rest:,} of its parameters are none of those of plain adapters"
    method = Method.HOULSBY if houlsby else Method.BOTTLENECK
    return Recognised(method, count, settings, serial_layers=2 * len(downs), note=note, width=d)


def _block(name: str) -> str:
    """The name up to its layer's number: what the adapters of one block share."""
    layer = place_of(name).layer
    return name if layer is None else f"{name.partition(f'.{layer}.')[0]}.{layer}"


def _several_widths(d: int, widths: Counter[int]) -> Count:
    """The formula, once for each width of a bottleneck."""
    each = [formulas.adapter_layers(d, adapters, width, 0) for width, adapters in sorted(widths.items())]
    return Count(each[0].formula, " + ".join(one.evaluation for one in each), sum(one.value for one in each))


_RECOGNISERS: dict[str, Callable[[Checkpoint], Recognised]] = {
    "prompt": _prompt,
    "bottleneck": _bottleneck,
}
"""By format; the others are low-rank or of no method that is compared."""
