"""Which family a model_type belongs to, and what is done with one that is not known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loratools.reports.costs.families import decoders, encoders, experts, t5
from loratools.reports.costs.families.llama import LIKE_LLAMA, like_llama
from loratools.reports.costs.families.shape import Shape
from loratools.reports.costs.fields import Fields

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True)
class Family:
    """How one model_type is counted: its builder, the class of transformers that it counts, and fields that
    would change the count in a way that is not known here, with the value at which they do not."""

    build: Callable[[Fields], Shape]
    counted: str
    only: Mapping[str, object] | None = None


FAMILIES: dict[str, Family] = {
    "gpt2": Family(decoders.gpt2, "GPT2LMHeadModel", {"add_cross_attention": False}),
    "gptj": Family(decoders.gptj, "GPTJForCausalLM"),
    "gpt_neo": Family(decoders.gpt_neo, "GPTNeoForCausalLM"),
    "gpt_neox": Family(decoders.gpt_neox, "GPTNeoXForCausalLM"),
    "bloom": Family(decoders.bloom, "BloomForCausalLM"),
    "opt": Family(decoders.opt, "OPTForCausalLM"),
    "falcon": Family(decoders.falcon, "FalconForCausalLM"),
    "mpt": Family(decoders.mpt, "MptForCausalLM", {"no_bias": True}),
    "phi": Family(decoders.phi, "PhiForCausalLM"),
    "bert": Family(encoders.bert, "BertModel", {"add_cross_attention": False}),
    "roberta": Family(encoders.roberta, "RobertaModel", {"add_cross_attention": False}),
    "xlm-roberta": Family(encoders.roberta, "XLMRobertaModel", {"add_cross_attention": False}),
    "camembert": Family(encoders.roberta, "CamembertModel", {"add_cross_attention": False}),
    "electra": Family(encoders.electra, "ElectraModel"),
    "distilbert": Family(encoders.distilbert, "DistilBertModel"),
    "deberta": Family(encoders.deberta, "DebertaModel"),
    "deberta-v2": Family(encoders.deberta_v2, "DebertaV2Model"),
    "vit": Family(encoders.vit, "ViTModel"),
    "t5": Family(t5.t5, "T5ForConditionalGeneration"),
    "mt5": Family(t5.t5, "MT5ForConditionalGeneration"),
    "umt5": Family(t5.umt5, "UMT5ForConditionalGeneration"),
    "mixtral": Family(experts.mixtral, "MixtralForCausalLM"),
    "gpt_oss": Family(experts.gpt_oss, "GptOssForCausalLM"),
    "deepseek_v2": Family(experts.deepseek(correction=False), "DeepseekV2ForCausalLM"),
    "deepseek_v3": Family(experts.deepseek(correction=True), "DeepseekV3ForCausalLM"),
    **{kind: Family(experts.mixture(how), how.traits.counted) for kind, how in experts.EXPERTS.items()},
    **{kind: Family(like_llama(how), how.counted, how.only) for kind, how in LIKE_LLAMA.items()},
}
"""By model_type, as config.json writes it."""
