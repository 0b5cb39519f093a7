"""Which kind of thing a set of tensor names is: a checkpoint, or an adapter of one format or another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loratools.checkpoints.checkpoint import Kind


@dataclass(frozen=True)
class AdapterFormat:
    """An adapter format, the keys that only it has, and where the rank of a module stands.

    `keys` is searched in the names, one a line. `rank_keys` are the endings of the keys that come once for
    each module and whose leading axis is the module's rank; what stands before is the module. `unmergeable`
    says why such an adapter can never become part of the weights, if it cannot.
    """

    name: str
    keys: re.Pattern[str]
    rank_keys: tuple[str, ...] = ()
    unmergeable: str | None = None


def _lines(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.MULTILINE)


ADAPTER_FORMATS: tuple[AdapterFormat, ...] = (
    AdapterFormat(
        "prompt",
        _lines(r"^(base_model\.)?prompt_embeddings$"),
        unmergeable="it takes up positions of the context, which no weight can replace",
    ),
    AdapterFormat(
        "bottleneck",
        _lines(r"(^|\.)adapter_(down|up)(\.\d+)?\.(weight|bias|W(_left|_right)?)$"),
        (".adapter_down.weight", ".adapter_down.0.weight"),
        unmergeable="it adds layers in series, with a nonlinearity that no weight can replace",
    ),
    AdapterFormat("peft", _lines(r"^base_model\.model\.")),
    AdapterFormat(
        "kohya",
        _lines(
            r"^lora_(unet|te\d?|transformer|prior_\w+)_",
            r"\.lora_(up|down|mid)\.weight$",
            r"\.(hada|lokr)_[wt][12](_[ab])?$",
            r"\.b?oft_(blocks|diag)$",
        ),
        (".lora_down.weight", ".hada_w1_b", ".lokr_w2_b"),
    ),
    AdapterFormat(
        "diffusers",
        _lines(
            r"^(unet|transformer|text_encoder(_\d)?|prior)\..*\.lora_A\.weight$",
            r"[._]lora\.down\.weight$",
        ),
        (".lora_A.weight", ".lora.down.weight", "_lora.down.weight"),
    ),
    AdapterFormat(
        "peft",
        _lines(
            r"\.lora_[AB]\.weight$",
            r"\.lora_embedding_[AB]$",
            r"\.lora_magnitude_vector",
            r"\.trainable_tokens_delta$",
        ),
        (".lora_A.weight", ".lora_embedding_A", ".lora_A", ".hada_w1_b", ".lokr_w2_b"),
    ),
    AdapterFormat("loralib", _lines(r"(^|\.)lora_[AB]$"), (".lora_A",)),
    AdapterFormat("gguf", _lines(r"\.lora_[ab]$"), (".lora_a",)),
)
"""Asked in this order: the first whose keys one of the names has. PEFT's prefix goes before the endings,
since PEFT writes LoHa and others under those of LyCORIS."""


def adapter_format(names: Iterable[str]) -> AdapterFormat | None:
    """The adapter format that tensors of these names belong to, or None for a checkpoint's."""
    lines = "\n".join(names)
    found = next((known for known in ADAPTER_FORMATS if known.keys.search(lines)), None)
    return None if found is None else format_named(found.name)


def format_named(name: str) -> AdapterFormat | None:
    """The adapter format called `name`, if there is one."""
    return _BY_NAME.get(name)


def kind_and_format(
    names: Iterable[str], container: str, adapter_config: Mapping[str, Any] | None
) -> tuple[Kind, str]:
    """What a reference is and its format: an adapter's, else `container` (`safetensors` or `torch`)."""
    found = adapter_format(names)
    if adapter_config is not None:
        if adapter_config.get("peft_type") in _SOFT_PROMPTS:
            return Kind.ADAPTER, "prompt"
        of_adapter_hub = (
            found is not None and found.name == "bottleneck" and "peft_type" not in adapter_config
        )
        return Kind.ADAPTER, "bottleneck" if of_adapter_hub else "peft"
    return (Kind.CHECKPOINT, container) if found is None else (Kind.ADAPTER, found.name)


_BY_NAME = {known.name: known for known in ADAPTER_FORMATS}
_SOFT_PROMPTS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")
