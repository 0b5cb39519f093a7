"""Where a module stands in its model: which layer, and which kind of module it is there; told by its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Place", "in_model_order", "module_of", "place_of"]


class Place(NamedTuple):
    """`layer` is the number of the block that a module is in, None outside of blocks; modules that do the
    same in different layers have one `kind`."""

    layer: int | None
    kind: str


_NEUTRAL = frozenset(
    {
        "model", "module", "base_model", "auto_model", "language_model", "text_model", "backbone",
        "transformer", "encoder", "layers", "layer", "h", "block", "blocks",
        "bert", "roberta", "deberta", "distilbert", "electra", "albert", "mpnet", "gpt_neox", "vit",
    }
)  # fmt: skip
"""Parts before the layer's number that most models have, and that tell no two stacks of one model apart."""

_TELLING = {
    "self_attn": frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"}),
    "mlp": frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj"}),
}
"""Names that say by themselves which part of the block they are in; others (`c_proj`, `dense`) do not."""

_NUMBERED = frozenset({"experts", "local_experts"})
"""What stands before a number that is no place: all experts of a layer are of one kind."""


def place_of(module: str) -> Place:
    """The layer and the kind of a module.

    The first number in the name is the layer. What stands before it counts only where it tells stacks of one
    model apart (a decoder beside an encoder, a vision tower beside a text model).

    >>> place_of("model.layers.3.self_attn.q_proj")
    Place(layer=3, kind='q_proj')
    >>> place_of("bert.encoder.layer.2.attention.output.dense")
    Place(layer=2, kind='attention.output.dense')
    >>> place_of("transformer.h.4.attn.c_attn")
    Place(layer=4, kind='attn.c_attn')
    >>> place_of("model.layers.0.mlp.experts.7.up_proj")
    Place(layer=0, kind='mlp.experts.up_proj')
    >>> place_of("model.decoder.layers.1.encoder_attn.q_proj")
    Place(layer=1, kind='decoder.encoder_attn.q_proj')
    >>> place_of("model.embed_tokens")
    Place(layer=None, kind='embed_tokens')
    """
    parts = module.split(".")
    numbered = next((at for at, part in enumerate(parts[:-1]) if at and _is_number(part)), None)
    if numbered is None:
        return Place(None, ".".join(_without_roots(parts)))
    stack = [part for part in parts[:numbered] if part not in _NEUTRAL]
    return Place(int(parts[numbered]), ".".join((*stack, *_within(parts[numbered + 1 :]))))


def module_of(parameter: str) -> str:
    """What a parameter is called in rows: its module, if it is the module's weight."""
    return parameter.removesuffix(".weight")


def in_model_order(modules: Iterable[str]) -> list[str]:
    """Sorted by name, with numbers as numbers: layer 2 comes before layer 10."""
    return sorted(modules, key=lambda module: [_part_order(part) for part in module.split(".")])


def _part_order(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if _is_number(part) else (1, 0, part)


def _within(parts: list[str]) -> list[str]:
    """The name inside of the block: without a parent that the child tells, and without an expert's number."""
    if len(parts) > 1 and parts[1] in _TELLING.get(parts[0], ()):
        parts = parts[1:]
    before = ["", *parts]
    return [part for at, part in enumerate(parts) if not (_is_number(part) and before[at] in _NUMBERED)]


def _without_roots(parts: list[str]) -> list[str]:
    """Without the neutral parts at the front; the last part always stays."""
    first = next((at for at, part in enumerate(parts) if part not in _NEUTRAL), len(parts) - 1)
    return parts[first:]


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit()
