"""What of PEFT cannot be merged (yet), by name: the structural reason, and what to do instead."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

from loratools.errors import UnsupportedError

_LATER = "merge it with PEFT's merge_and_unload, or wait for a release that knows it"


class Use(str, Enum):
    """What an adapter is read for, in the word that a refusal takes: it cannot be ...

    Factors of convolutions are matrices for arithmetic among adapters; no merge applies them yet.
    """

    APPLIED = "merged"
    REWRITTEN = "resized or combined"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`what` cannot be merged for `reason`; `hint` is what to do. `even_if_empty`: so does an empty list."""

    what: str
    reason: str
    hint: str = _LATER
    even_if_empty: bool = False

    def error(
        self, file: str | os.PathLike[str] | None, setting: str | None = None, use: Use = Use.APPLIED
    ) -> UnsupportedError:
        """What to raise; `setting` is the part of the config that asks for it."""
        where = f" ({setting})" if setting else ""
        return UnsupportedError(
            f"{self.what}{where} cannot be {use.value}: {self.reason}", file=file, hint=self.hint
        )


_CONTEXT = "it adds positions to the context, which no weight of the base can hold"
_SERVE = "keep it beside the base and load both with PEFT"
_NOT_YET = "its arithmetic is not LoRA's and is not built in yet"

REFUSED_TYPES: dict[str, Refusal] = {
    "PROMPT_TUNING": Refusal("prompt tuning", _CONTEXT, _SERVE),
    "MULTITASK_PROMPT_TUNING": Refusal("multitask prompt tuning", _CONTEXT, _SERVE),
    "P_TUNING": Refusal("P-tuning", _CONTEXT, _SERVE),
    "PREFIX_TUNING": Refusal("prefix tuning", _CONTEXT, _SERVE),
    "CPT": Refusal("CPT", _CONTEXT, _SERVE),
    "CARTRIDGE": Refusal("Cartridge", _CONTEXT, _SERVE),
    "ADAPTION_PROMPT": Refusal(
        "Adaption Prompt", "it adds gated attention to learned positions, which no weight can hold", _SERVE
    ),
    "XLORA": Refusal("X-LoRA", "its scalings depend on the input, so that no one weight equals it", _SERVE),
    "POLY": Refusal("Poly", "its mixture depends on the task that is asked for", _SERVE),
    "LILY": Refusal("Lily", "its mixture of experts depends on the input", _SERVE),
    "SHADOW": Refusal(
        "Shadow", "it adds a network beside the base's layers, which no weight can hold", _SERVE
    ),
    "TRAINABLE_TOKENS": Refusal("trainable tokens without LoRA", "the format is not built in yet"),
    "ADALORA": Refusal("AdaLoRA", _NOT_YET),
    "ADAMSS": Refusal("AdaMSS", _NOT_YET),
    "BEFT": Refusal("BEFT", _NOT_YET),
    "BOFT": Refusal("BOFT", _NOT_YET),
    "BONE": Refusal("Bone", _NOT_YET),
    "C3A": Refusal("C3A", _NOT_YET),
    "DEFT": Refusal("DEFT", _NOT_YET),
    "DELORA": Refusal("DeLoRA", _NOT_YET),
    "FOURIERFT": Refusal("FourierFT", _NOT_YET),
    "FROD": Refusal("FRoD", _NOT_YET),
    "GLORA": Refusal("GLoRA", _NOT_YET),
    "GRALORA": Refusal("GraLoRA", _NOT_YET),
    "HIRA": Refusal("HiRA", _NOT_YET),
    "HRA": Refusal("HRA", _NOT_YET),
    "IA3": Refusal("IA3", _NOT_YET),
    "LN_TUNING": Refusal("LN tuning", _NOT_YET),
    "LOHA": Refusal("LoHa", _NOT_YET),
    "LOKR": Refusal("LoKr", _NOT_YET),
    "MISS": Refusal("MiSS", _NOT_YET),
    "OFT": Refusal("OFT", _NOT_YET),
    "OSF": Refusal("OSF", _NOT_YET),
    "PEANUT": Refusal("PEANuT", _NOT_YET),
    "PSOFT": Refusal("PSOFT", _NOT_YET),
    "PVERA": Refusal("PVeRA", _NOT_YET),
    "RANDLORA": Refusal("RandLoRA", _NOT_YET),
    "ROAD": Refusal("RoAd", _NOT_YET),
    "SHIRA": Refusal("SHiRA", _NOT_YET),
    "SUPERTUNING": Refusal("SuperTuning", _NOT_YET),
    "TINYLORA": Refusal("TinyLoRA", _NOT_YET),
    "UNILORA": Refusal("UniLoRA", _NOT_YET),
    "VBLORA": Refusal("VB-LoRA", _NOT_YET),
    "VERA": Refusal("VeRA", _NOT_YET),
    "WAVEFT": Refusal("WaveFT", _NOT_YET),
}
"""PEFT's methods other than LoRA, by `peft_type`."""

REFUSED_FORMATS: dict[str, Refusal] = {
    "prompt": Refusal("a prompt or prefix", _CONTEXT, _SERVE),
    "bottleneck": Refusal(
        "a bottleneck adapter",
        "it adds layers in series, with a nonlinearity that no weight of the base can hold",
        "keep it beside the base and load both with AdapterHub's adapters",
    ),
}
"""Adapters that no merge can express, by format: told from their keys where no `peft_type` names them."""

REFUSED_FIELDS: dict[str, Refusal] = {
    "kasa_config": Refusal(
        "KaSA", "it was trained on a base whose smallest singular directions were cut off"
    ),
    "use_bdlora": Refusal("BD-LoRA", "its factors are block-diagonal and stored compactly"),
    "alora_invocation_tokens": Refusal(
        "aLoRA", "it acts only on tokens after its invocation, a weight on all", _SERVE, even_if_empty=True
    ),
    "arrow_config": Refusal("Arrow", "its router chooses adapters by the input", _SERVE),
    "use_qalora": Refusal("QALoRA", "it pools groups of inputs and belongs to a quantised base", _SERVE),
    "target_parameters": Refusal(
        "LoRA on parameters of experts (target_parameters)",
        "the layout of its factors differs between versions of PEFT",
    ),
    "layer_replication": Refusal(
        "layer replication", "replicas share one weight in the base, and each has an update of its own"
    ),
    "megatron_config": Refusal("LoRA on Megatron layers", "its factors are shards of parallel layers"),
    "enable_lora": Refusal(
        "MergedLinear of PEFT 0.2 (enable_lora)", "its factors cover parts of a fused weight"
    ),
}
"""Fields of `LoraConfig` that ask for arithmetic that is not built in."""

_INITIAL = (
    "the adapter was trained on a base from which its initialisation was subtracted",
    "save it again with PEFT's path_initial_model_for_weight_conversion, which makes a plain adapter of it",
)

REFUSED_INITS: dict[str, Refusal] = {
    "pissa": Refusal("PiSSA", *_INITIAL),
    "olora": Refusal("OLoRA", *_INITIAL),
    "corda": Refusal("CorDA", *_INITIAL),
    "lora_ga": Refusal("LoRA-GA", *_INITIAL),
    "loftq": Refusal(
        "LoftQ",
        "the adapter belongs to the quantised base, not to the one it was quantised from",
        "merge it into the dequantised base with PEFT",
    ),
}
"""Initialisations that changed the base, by how `init_lora_weights` begins; others are the plain formula."""
