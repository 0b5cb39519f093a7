"""`NameMap`: names in memory, as transformers and PEFT say them, and names of tensors on disk.

A checkpoint can be saved from a model with a head or from the bare model, and an adapter can be trained on
either: the same parameter is then `transformer.h.0.attn.c_attn.weight` here and `h.0.attn.c_attn.weight`
there. Only what is known of such prefixes, and transformers' old names for a LayerNorm's vectors, is mapped;
all else must agree to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.errors import LoratoolsError

BASE_MODEL_PREFIX: dict[str, str] = {
    model_type: prefix
    for prefix, model_types in {
        "model": (
            "llama mistral ministral mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text "
            "phi phi3 phimoe starcoder2 stablelm olmo olmo2 olmo3 olmoe cohere cohere2 granite "
            "granitemoe deepseek_v2 deepseek_v3 glm glm4 smollm3 nemotron persimmon gpt_oss helium opt "
            "bart mbart marian pegasus m2m_100 blenderbot blenderbot-small whisper plbart modernbert "
            "xglm jamba jetmoe zamba2 bamba seed_oss ernie4_5 lfm2 hunyuan_v1_dense apertus dots1"
        ),
        "transformer": "gpt2 gpt_bigcode gpt_neo gptj codegen falcon bloom mpt openai-gpt ctrl xlm xlnet",
        "gpt_neox": "gpt_neox",
        "gpt_neox_japanese": "gpt_neox_japanese",
        "backbone": "mamba mamba2 falcon_mamba",
        "rwkv": "rwkv",
        "biogpt": "biogpt",
        "bert": "bert megatron-bert big_bird",
        "roberta": "roberta xlm-roberta camembert xlm-roberta-xl xmod",
        "roberta_prelayernorm": "roberta-prelayernorm",
        "distilbert": "distilbert",
        "electra": "electra",
        "albert": "albert",
        "deberta": "deberta deberta-v2",
        "mpnet": "mpnet",
        "longformer": "longformer",
        "mobilebert": "mobilebert",
        "ernie": "ernie",
        "nystromformer": "nystromformer",
        "roformer": "roformer",
        "rembert": "rembert",
        "layoutlm": "layoutlm",
        "esm": "esm",
        "convbert": "convbert",
        "funnel": "funnel",
        "vit": "vit vit_mae vit_msn",
        "deit": "deit",
        "beit": "beit",
        "dinov2": "dinov2",
        "swin": "swin",
        "wav2vec2": "wav2vec2",
        "hubert": "hubert",
        "wavlm": "wavlm",
    }.items()
    for model_type in model_types.split()
}
"""transformers' `base_model_prefix` by `model_type`: the attribute under which a model with a head keeps the
bare model. A type that is not here keeps its names as they are on disk."""

HEADS = frozenset(
    {
        *("lm_head", "score", "classifier", "pre_classifier", "qa_outputs", "cls", "embed_out", "head"),
        *("vocab_projector", "vocab_transform", "vocab_layer_norm", "generator_lm_head", "lm_loss"),
        *("generator_predictions", "discriminator_predictions", "classification_head", "logits_proj"),
        *("sequence_summary", "multiple_choice_head", "pred_layer", "predictions", "proj_out", "projector"),
        *("output_projection", "final_logits_bias", "decoder_head", "masked_spec_embed"),
    }
)
"""Modules that stand beside the bare model, not inside it."""

_BARE = re.compile(r"(?<!LMHead)(?<!DoubleHeads)Model$")
_LEGACY = {"gamma": "weight", "beta": "bias"}
"""Old names of a LayerNorm's vectors, which transformers renames on load."""
_LEGACY_ENDINGS = tuple(f".{leaf}" for leaf in _LEGACY)


@dataclass(frozen=True)
class NameMap:
    """A checkpoint's tensor names, both ways.

    Args:
        names: the names on disk.
        prefix: the bare model's name inside a model with a head; "" where the model type is not known.
        bare: whether config.json's `architectures` names the bare model.
        prefixed: whether names on disk carry the prefix.
    """

    names: frozenset[str]
    prefix: str
    bare: bool
    prefixed: bool
    _by_core: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> NameMap:
        """The map of a checkpoint, from its names and its config.

        Raises:
            LoratoolsError: two tensors on disk are the same parameter, with and without the prefix.
        """
        return cls.from_names(checkpoint, checkpoint.config)

    @classmethod
    def from_names(cls, names: Iterable[str], config: Mapping[str, Any]) -> NameMap:
        """The same from names and a config alone."""
        ordered = sorted(names)
        prefix = BASE_MODEL_PREFIX.get(str(config.get("model_type")), "")
        architectures = config.get("architectures") or [""]
        prefixed = any(name.startswith(f"{prefix}.") for name in ordered) if prefix else False
        by_core: dict[str, str] = {}
        for name in ordered:
            core = _core(name, prefix)
            if core in by_core:
                raise LoratoolsError(
                    f"{by_core[core]} and {name} are the same parameter",
                    tensor=name,
                    hint="remove one of them from the checkpoint",
                )
            by_core[core] = name
        bare = _BARE.search(str(architectures[0])) is not None
        return cls(frozenset(ordered), prefix, bare, prefixed, by_core)

    def memory(self, disk_name: str) -> str:
        """The parameter's name in the class that `architectures` names.

        A name on disk that is not of this checkpoint is mapped by the same rules.
        """
        name = _modern(disk_name)
        if not self.prefix:
            return name
        core = _core(name, self.prefix)
        if self.bare or (self.prefixed and name == core) or _head(core):
            return core
        return f"{self.prefix}.{core}"

    def disk(self, memory_name: str) -> str | None:
        """The tensor on disk that a parameter is, for a class with or without a head; None if there is none.

        Raises:
            LoratoolsError: more than one tensor could be meant.
        """
        if memory_name in self.names:
            return memory_name
        if self.prefix:
            as_core = self._by_core.get(_modern(memory_name))
            return as_core or self._by_core.get(_core(memory_name, self.prefix))
        return self._by_suffix(_modern(memory_name))

    def core(self, name: str) -> str:
        """The name that a parameter has in any class of the family: without the prefix, in today's words."""
        if self.prefix or name in self._by_core:
            return _core(name, self.prefix)
        disk = self.disk(name)
        return _modern(name if disk is None else disk)

    def new(self, memory_name: str) -> str:
        """The name under which a parameter that the checkpoint lacks is written: as its neighbours are."""
        core = _core(memory_name, self.prefix)
        if self.prefix and self.prefixed and not _head(core):
            return f"{self.prefix}.{core}"
        return core if self.prefix else memory_name

    def _by_suffix(self, name: str) -> str | None:
        """For a model type that is not known: the tensor whose name differs by a prefix of some type."""
        found = [self._by_core[name]] if name in self._by_core else []
        for prefix in sorted(set(BASE_MODEL_PREFIX.values())):
            other = name.removeprefix(f"{prefix}.") if name.startswith(f"{prefix}.") else f"{prefix}.{name}"
            found += [self._by_core[other]] if other in self._by_core else []
        if len(found) > 1:
            raise LoratoolsError(
                f"{name} can be {' or '.join(found)}",
                tensor=name,
                hint="give the checkpoint's config.json its model_type",
            )
        return found[0] if found else None


def _core(name: str, prefix: str) -> str:
    """A name without the prefix, in today's words."""
    modern = _modern(name)
    return modern.removeprefix(f"{prefix}.") if prefix else modern


def _modern(name: str) -> str:
    if not name.endswith(_LEGACY_ENDINGS):
        return name
    module, _, leaf = name.rpartition(".")
    return f"{module}.{_LEGACY[leaf]}" if module.endswith("LayerNorm") else name


def _head(core: str) -> bool:
    return core.split(".", 1)[0] in HEADS
