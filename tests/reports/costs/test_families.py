"""Configs counted by families, held to the models that transformers builds from the same configs."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from transformers.pytorch_utils import Conv1D

from fixtures.meta_models import meta_model, parameters_of
from loratools.reports.costs.architecture import Architecture, Role
from loratools.reports.costs.config import architecture_of
from loratools.reports.costs.families.register import FAMILIES

_DECODER = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 120, "max_position_embeddings": 50, "pad_token_id": 0,
}  # fmt: skip
_GPT2 = {"n_layer": 3, "n_embd": 64, "n_head": 4, "n_positions": 50, "vocab_size": 120}
_ENCODER = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
    "vocab_size": 120, "max_position_embeddings": 50, "type_vocab_size": 2,
}  # fmt: skip
_T5 = {"d_model": 64, "num_layers": 2, "num_heads": 3, "d_kv": 8, "d_ff": 96, "vocab_size": 120}
_NEOX = {**_ENCODER, "hidden_act": "gelu"}
_OPT = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 96, "vocab_size": 120,
    "max_position_embeddings": 50, "word_embed_proj_dim": 64,
}  # fmt: skip
_FALCON = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 120}
_BLOOM = {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 120}
_MIXTURE = {**_DECODER, "moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2}
_LATENT = {
    **_DECODER, "moe_intermediate_size": 48, "n_routed_experts": 8, "n_shared_experts": 2,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 24,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12, "n_group": 2, "topk_group": 1,
}  # fmt: skip
_RELATIVE = {**_ENCODER, "relative_attention": True, "position_biased_input": False}

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2,
    "gpt2 untied, narrow": {**_GPT2, "tie_word_embeddings": False, "n_inner": 100},
    "gptj": {**_GPT2, "rotary_dim": 8},
    "gptj tied": {**_GPT2, "rotary_dim": 8, "tie_word_embeddings": True},
    "gpt_neo": {
        "hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 120, "max_position_embeddings": 50,
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": {**_NEOX, "tie_word_embeddings": True},
    "gpt_neox without biases": {**_NEOX, "attention_bias": False},
    "bloom": _BLOOM,
    "opt": _OPT,
    "opt narrow": {**_OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False, "enable_bias": False},
    "opt plain norms": {**_OPT, "layer_norm_elementwise_affine": False, "tie_word_embeddings": False},
    "falcon": _FALCON,
    "falcon new": {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon old": {**_FALCON, "multi_query": False, "parallel_attn": False, "bias": True},
    "mpt": {"d_model": 64, "n_layers": 3, "n_heads": 4, "vocab_size": 120},
    "phi": _DECODER,
    "phi with norms, tied": {**_DECODER, "qk_layernorm": True, "tie_word_embeddings": True},
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "xlm-roberta": _ENCODER,
    "camembert": _ENCODER,
    "electra": {**_ENCODER, "embedding_size": 32},
    "electra wide": {**_ENCODER, "embedding_size": 64},
    "distilbert": {
        "dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96, "vocab_size": 120,
        "max_position_embeddings": 50,
    },
    "deberta": _ENCODER,
    "deberta relative": {**_RELATIVE, "pos_att_type": "c2p|p2c", "embedding_size": 32},
    "deberta half": {**_RELATIVE, "pos_att_type": ["c2p"], "max_relative_positions": 9},
    "deberta-v2": _ENCODER,
    "deberta-v2 relative": {
        **_RELATIVE, "pos_att_type": "p2c|c2p", "position_buckets": 16, "norm_rel_ebd": "layer_norm",
        "share_att_key": False, "conv_kernel_size": 3, "conv_act": "gelu",
    },
    "deberta-v2 shared": {**_RELATIVE, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
    "vit": {
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
        "image_size": 32, "patch_size": 8,
    },
    "vit without biases": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
        "image_size": 32, "patch_size": 8, "qkv_bias": False, "num_channels": 1,
    },
    "t5": _T5,
    "t5 gated, untied": {
        **_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3,
    },
    "mt5": {**_T5, "feed_forward_proj": "gated-gelu"},
    "umt5": {**_T5, "feed_forward_proj": "gated-gelu"},
    "llama": _DECODER,
    "llama with biases, tied": {
        **_DECODER, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 24,
    },
    "granite": _DECODER,
    "smollm3": _DECODER,
    "mistral": {**_DECODER, "head_dim": None},
    "qwen2": _DECODER,
    "qwen3": {**_DECODER, "attention_bias": True},
    "gemma": _DECODER,
    "gemma2": {**_DECODER, "head_dim": 32},
    "gemma3_text": _DECODER,
    "phi3": _DECODER,
    "olmo": {**_DECODER, "attention_bias": True},
    "olmo2": _DECODER,
    "cohere": _DECODER,
    "stablelm": {**_DECODER, "use_qkv_bias": True},
    "starcoder2": _DECODER,
    "starcoder2 without biases": {**_DECODER, "use_bias": False},
    "mixtral": {**_DECODER, "num_local_experts": 4},
    "gpt_oss": {**_DECODER, "num_local_experts": 4},
    "qwen2_moe": {**_MIXTURE, "shared_expert_intermediate_size": 80},
    "qwen2_moe sparse": {
        **_MIXTURE, "shared_expert_intermediate_size": 80, "decoder_sparse_step": 2, "qkv_bias": False,
    },
    "qwen3_moe": {**_MIXTURE, "mlp_only_layers": [1]},
    "olmoe": {**_DECODER, "num_experts": 4},
    "deepseek_v2": {**_LATENT, "q_lora_rank": None},
    "deepseek_v3": {**_LATENT, "attention_bias": True},
}  # fmt: skip
STACKED = {"mixtral", "gpt_oss", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3"}
"""Their experts are one tensor in memory, and a matrix each here and on disk."""


HEADLESS = {"t5 gated, untied": 120 * 64}
"""T5 without ties: transformers 5 builds the model tied, and unties it when its file holds a head."""


def counted(case: str) -> tuple[Architecture, Any]:
    """The config counted here, and the model that transformers makes of it."""
    config = {"model_type": case.split()[0], **CONFIGS[case]}
    made = architecture_of(config, name=case, source="a test")
    assert made.counted is not None
    return made, meta_model(made.counted, config)


def test_every_family_is_tried() -> None:
    assert {case.split()[0] for case in CONFIGS} == set(FAMILIES)


@pytest.mark.parametrize("case", CONFIGS)
def test_parameters_are_those_of_transformers(case: str) -> None:
    made, model = counted(case)
    assert made.parameters == parameters_of(model) + (HEADLESS.get(case) or 0)
    assert made.hidden == 64 and made.layers in (2, 3, 4, 5)


@pytest.mark.parametrize("case", [case for case in CONFIGS if case.split()[0] not in STACKED])
def test_each_has_the_name_and_shape_that_it_has_in_memory(case: str) -> None:
    """Not the sum alone: a mistake in one layer cannot hide behind another's."""
    made, model = counted(case)
    transposed = {name for name, module in model.named_modules() if isinstance(module, Conv1D)}
    held: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for name, parameter in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        shape = tuple(parameter.shape)
        where = module if leaf in ("weight", "bias") else name
        held[where, shape[::-1] if module in transposed and len(shape) == 2 else shape] += 1
    if case in HEADLESS:
        held["lm_head", (120, 64)] += 1
    mine = Counter(
        (name.removeprefix(_root(made)), part.shape) for part in made.parts for name in part.modules()
    )
    assert mine == Counter({(_on_disk(case, name), shape): count for (name, shape), count in held.items()})


def _root(made: Architecture) -> str:
    """What names begin with in a model with a head, and not in the bare one that is counted."""
    bare = (made.counted or "").endswith("Model") and made.counted != "GPT2LMHeadModel"
    return f"{made.parts[0].module.partition('.')[0]}." if bare else ""


def _on_disk(case: str, name: str) -> str:
    """transformers 5 renames some modules on load; here they have their names on disk."""
    for pattern, there in RENAMED.get(case.split()[0], ()):
        name = re.sub(pattern, there, name)
    return name


RENAMED = {
    "gpt_neox": ((r"^lm_head", "embed_out"),),
    "vit": (
        (r"^layers\.", "encoder.layer."),
        (r"attention\.q_proj", "attention.attention.query"),
        (r"attention\.k_proj", "attention.attention.key"),
        (r"attention\.v_proj", "attention.attention.value"),
        (r"attention\.o_proj", "attention.output.dense"),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
    ),
}


def test_matrices_are_what_stands_in_blocks() -> None:
    made, _ = counted("llama")
    assert sum(part.count for part in made.matrices) == 3 * 7
    assert {part.role for part in made.parts} == {Role.MATRIX, Role.EMBEDDING, Role.HEAD, Role.NORM}
    assert made.block_norms == 3 * 2
    gemma, _ = counted("gemma2")
    assert gemma.block_norms == 3 * 4


def test_fused_matrices_tell_their_slices() -> None:
    made, _ = counted("gpt2")
    (fused,) = (part for part in made.matrices if part.slices)
    assert fused.slices == (("q", 64), ("k", 64), ("v", 64))
    assert list(fused.modules())[1] == "transformer.h.1.attn.c_attn"
    grouped, _ = counted("phi3")
    assert {part.slices for part in grouped.matrices if part.slices} == {
        (("q", 64), ("k", 32), ("v", 32)),
        (("gate", 96), ("up", 96)),
    }
