"""The keys of a PEFT adapter, taken apart: `base_model.model.<module>.<part>`.

PEFT 0.21 writes them without the adapter's name; older files and hand-made ones have it, as in
`lora_A.default.weight`, and are taken as meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from loratools.adapters.peft_matching import ROOT
from loratools.errors import UnsupportedError


class Part(str, Enum):
    """What a key holds of its module."""

    A = "lora_A"
    B = "lora_B"
    B_BIAS = "lora_B.bias"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    MAGNITUDE = "lora_magnitude_vector"
    TOKENS = "trainable_tokens_delta"
    BASE = "base_layer"
    SAVED = "modules_to_save"
    ORIGINAL = "original_module"
    SAMPLER = "monteclora_sampler"
    VELORA = "velora_embed"
    PARAMETER = "parameter"


_NAME = r"(?:\.[^.]+)?"
_GRAMMAR: tuple[tuple[re.Pattern[str], Part], ...] = tuple(
    (re.compile(rf"(?P<module>.+?)\.{pattern}"), part)
    for pattern, part in (
        (rf"lora_A{_NAME}\.weight", Part.A),
        (rf"lora_B{_NAME}\.weight", Part.B),
        (rf"lora_B{_NAME}\.bias", Part.B_BIAS),
        (rf"lora_embedding_A{_NAME}", Part.EMBEDDING_A),
        (rf"lora_embedding_B{_NAME}", Part.EMBEDDING_B),
        (rf"lora_magnitude_vector{_NAME}(?:\.weight)?", Part.MAGNITUDE),
        (rf"token_adapter\.trainable_tokens_delta{_NAME}", Part.TOKENS),
        (r"(?:token_adapter\.)?base_layer\.(?P<leaf>weight|bias)", Part.BASE),
        (r"modules_to_save\.[^.]+\.(?P<leaf>.+)", Part.SAVED),
        (r"original_module\.(?P<leaf>.+)", Part.ORIGINAL),
        (r"lora_monteclora_sampler\..+", Part.SAMPLER),
        (rf"lora_velora_embed{_NAME}", Part.VELORA),
    )
)
_USUAL = ((".lora_A.weight", Part.A), (".lora_B.weight", Part.B))
"""What the grammar says of most keys, told in a quarter of the time."""
_PARAMETER = re.compile(r"(?P<module>.+)\.(?P<leaf>[^.]+)")
_FOREIGN = re.compile(r"(^|\.)(lora_\w+|hada_\w+|lokr_\w+|ia3_l|oft_\w+|vera_lambda_\w+|base_layer)(\.|$)")
_FOREIGN_WORDS = ("lora_", "hada_", "lokr_", "ia3_l", "oft_", "vera_lambda_", "base_layer")
"""One of these stands in all that it finds."""

IGNORED: dict[Part, str] = {
    Part.ORIGINAL: "the base's own copy beside a saved module",
    Part.SAMPLER: "MonteCLoRA's sampler acts in training only",
    Part.VELORA: "VeLoRA's projection acts in the backward pass only",
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key taken apart: the module's name in memory, the part, and the parameter's own name if any."""

    name: str
    module: str
    part: Part
    leaf: str = "weight"


def parse_key(name: str) -> Key:
    """Takes a key apart.

    Raises:
        UnsupportedError: it belongs to a variant that is not known here, or is no key at all.
    """
    bare = name.removeprefix(ROOT)
    for ending, part in _USUAL:
        if bare.endswith(ending) and bare != ending and not _is_foreign(bare[: -len(ending)]):
            return Key(name, bare[: -len(ending)], part)
    for pattern, part in _GRAMMAR:
        match = pattern.fullmatch(bare)
        if match and not _is_foreign(match["module"]):
            return Key(name, match["module"], part, match.groupdict().get("leaf") or "weight")
    match = _PARAMETER.fullmatch(bare)
    if match is None or _is_foreign(bare):
        raise UnsupportedError(
            f"the key {name} belongs to no kind of LoRA layer that is known here",
            tensor=name,
            hint="several targets on one module, MultiheadAttention and other methods are not built in yet",
        )
    return Key(name, match["module"], Part.PARAMETER, match["leaf"])


def _is_foreign(name: str) -> bool:
    """Whether a part of the name belongs to some method's layers; mostly told without the expression."""
    return any(word in name for word in _FOREIGN_WORDS) and _FOREIGN.search(name) is not None


def written_key(key: Key) -> str:
    """The key as PEFT 0.21 writes it, whatever form it was found in: with the root, without a name."""
    if key.part in _AS_PARAMETER:
        return f"{ROOT}{key.module}.{key.leaf}"
    form = _WRITTEN.get(key.part, key.part.value)
    return f"{ROOT}{key.module}.{form.format(leaf=key.leaf)}"


_AS_PARAMETER = (Part.PARAMETER, Part.SAVED)
_WRITTEN = {
    Part.A: "lora_A.weight",
    Part.B: "lora_B.weight",
    Part.BASE: "base_layer.{leaf}",
    Part.TOKENS: "token_adapter.trainable_tokens_delta",
}
"""Those of the parts whose key is more than their value."""
