"""Formulas against what real libraries make: PEFT's LoRA, prefixes and prompts, and layers of torch."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from fixtures.adapter_hub import adapter_module
from loratools.reports.costs import formulas
from loratools.reports.costs.architecture import Architecture
from loratools.reports.costs.config import architecture_of
from loratools.reports.costs.targets import choose

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 120, "max_position_embeddings": 50,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 50, "vocab_size": 90}
T5 = {
    "model_type": "t5",
    "d_model": 32,
    "num_layers": 3,
    "num_heads": 4,
    "d_kv": 8,
    "d_ff": 64,
    "vocab_size": 90,
}


def fields(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "model_type"}


def model_of(config: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    makers: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "gpt2": (GPT2Config, GPT2LMHeadModel),
        "t5": (T5Config, T5ForConditionalGeneration),
    }
    made, kind = makers[config["model_type"]]
    model: torch.nn.Module = kind(made(**fields(config)))
    return model


def described(config: dict[str, Any]) -> Architecture:
    return architecture_of(config, name="model", source="a test")


def trained(config: dict[str, Any], **options: Any) -> int:
    """The parameters that PEFT trains."""
    task = "SEQ_2_SEQ_LM" if config["model_type"] == "t5" else "CAUSAL_LM"
    kind = options.pop("kind", peft.LoraConfig)
    wrapped = peft.get_peft_model(model_of(config), kind(task_type=task, **options))
    return sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)


LORAS = {
    "all linear layers": (LLAMA, [], "all-linear"),
    "grouped queries": (LLAMA, [r"self_attn\.[qv]_proj$"], ["q_proj", "v_proj"]),
    "feed-forward": (LLAMA, ["up_proj", "down_proj"], ["up_proj", "down_proj"]),
    "one layer": (LLAMA, [r"layers\.1\.self_attn\.q_proj"], ["layers.1.self_attn.q_proj"]),
    "Conv1D": (GPT2, ["attn"], r".*attn\.(c_attn|c_proj)"),
    "encoder and decoder": (T5, [r"\.q$", r"\.v$"], ["q", "v"]),
}


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("case", LORAS)
def test_lora_trains_what_peft_trains(case: str, rank: int) -> None:
    config, patterns, targets = LORAS[case]
    count = formulas.lora(choose(described(config), patterns, given=True), rank)
    assert count.value == trained(config, r=rank, target_modules=targets)


def test_square_matrices_have_the_papers_formula() -> None:
    count = formulas.lora(choose(described(GPT2), [r"c_attn\.(q|v)$"], given=False), 4)
    assert count == formulas.Count("2 · L_lora · d · r", "2 · 4 · 32 · 4", 2 * 4 * 32 * 4)


def test_others_name_their_sides() -> None:
    count = formulas.lora(choose(described(LLAMA), [], given=False), 2)
    assert count.formula == "r · Σ (in + out)"
    assert count.evaluation == "2 · (6·(64 + 32) + 6·(64 + 64) + 6·(64 + 96) + 3·(96 + 64))"
    assert count.value == eval(count.evaluation.replace("·", "*"))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("adapters", [1, 7])
def test_adapters_have_the_parameters_of_their_layers(adapters: int, norm: bool) -> None:
    count = formulas.adapter_layers(48, adapters, 5, adapters if norm else 0)
    held = sum(tensor.numel() for tensor in adapter_module(48, 5, norm=norm).values())
    assert count.value == adapters * held
    assert ("L_ln" in count.formula) is norm


def test_rms_norms_have_one_vector() -> None:
    assert formulas.adapter_layers(48, 2, 5, 3, norm_biases=False).value == 2 * (2 * 48 * 5 + 5 + 48) + 3 * 48


@pytest.mark.parametrize("config", [LLAMA, GPT2, T5], ids=lambda config: config["model_type"])
def test_prefixes_and_prompts_are_those_of_peft(config: dict[str, Any]) -> None:
    made = described(config)
    assert made.key_value_width is not None
    prefix = formulas.prefix_key_values(made.prefixed_layers or made.layers, made.key_value_width, 6)
    assert prefix.value == trained(config, kind=peft.PrefixTuningConfig, num_virtual_tokens=6)
    sides = 2 if config["model_type"] == "t5" else 1  # PEFT gives a prompt to the encoder and to the decoder
    prompt = formulas.prompt(made.hidden, 6 * sides)
    assert prompt.value == trained(config, kind=peft.PromptTuningConfig, num_virtual_tokens=6)


@pytest.mark.parametrize(
    "config", [LLAMA, {**LLAMA, "attention_bias": True}, GPT2], ids=["none", "some", "all"]
)
def test_bitfit_trains_all_biases(config: dict[str, Any]) -> None:
    biases = [
        parameter.numel() for name, parameter in model_of(config).named_parameters() if name.endswith("bias")
    ]
    count = formulas.bitfit(described(config))
    assert count.value == sum(biases)
    assert count.value == eval(count.evaluation.replace("·", "*").replace(",", ""))


def test_the_whole_is_told_by_its_roles() -> None:
    count = formulas.full(described(GPT2))
    assert count.formula == "all parameters: matrices + embeddings + norms + biases + norms' biases"
    assert count.value == eval(count.evaluation.replace(",", "")) == described(GPT2).parameters


def test_the_papers_prefixes() -> None:
    assert formulas.prefix_embedding(12288, 256, 8).value == 3_244_032
    assert formulas.prefix_layer(96, 12288, 8, 8).value == 18_874_368
