"""Configs that cannot be counted, or only by a guess: what is said of them."""

from __future__ import annotations

from typing import Any

import pytest

from loratools.errors import LoratoolsError
from loratools.reports.costs.architecture import Architecture
from loratools.reports.costs.config import architecture_of

STANDARD = {
    "model_type": "novel", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 96, "vocab_size": 120,
}  # fmt: skip


def made(config: dict[str, Any]) -> Architecture:
    return architecture_of(config, name="model", source="a test", file="config.json")


def test_an_unknown_model_type_is_counted_like_llama_and_says_so() -> None:
    guess = made(STANDARD)
    assert guess.parameters == made({**STANDARD, "model_type": "llama"}).parameters
    assert guess.notes == ("the model_type 'novel' is not known: counted as if it were built like Llama",)


LLAMA = {**STANDARD, "model_type": "llama"}
MIXTURE = {**STANDARD, "model_type": "qwen3_moe", "num_experts": 2, "moe_intermediate_size": 8}
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 9}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an odd model_type": ({**STANDARD, "model_type": ["llama"]}, "the config has no model_type"),
    "no model_type": ({"hidden_size": 64}, "the config has no model_type"),
    "unknown, bare": ({"model_type": "novel", "hidden_size": 64}, "not known, and the config has no num_hid"),
    "unknown with experts": ({**STANDARD, "num_experts": 8}, r"more than attention .*\(num_experts\)"),
    "unknown with a state": ({**STANDARD, "ssm_state_size": 8}, "tells of more than attention"),
    "a field is missing": ({"model_type": "llama", "hidden_size": 64}, "has no num_attention_heads"),
    "a text for a number": ({**LLAMA, "vocab_size": "many"}, "vocab_size is no count"),
    "a flag for a number": ({**LLAMA, "vocab_size": True}, "vocab_size is no count"),
    "absurd": ({**LLAMA, "vocab_size": 10**12}, "vocab_size is no count"),
    "negative": ({**LLAMA, "num_hidden_layers": -1}, "num_hidden_layers is no count"),
    "a million layers": ({**LLAMA, "num_hidden_layers": 10**6}, "num_hidden_layers is absurd: 1,000,000"),
    "no list": ({**MIXTURE, "mlp_only_layers": 3}, "mlp_only_layers is no list of numbers"),
    "no layers": ({**LLAMA, "num_hidden_layers": 0}, "describes no layers"),
    "odd heads": ({**LLAMA, "num_attention_heads": 7}, "not divided by its 7 heads"),
    "no flag": ({**LLAMA, "attention_bias": "yes"}, "neither true nor false"),
    "a variant": ({**STANDARD, "model_type": "cohere", "use_qk_norm": True}, "cannot be counted from its"),
    "cross attention": ({**GPT2, "add_cross_attention": True}, "add_cross_attention True cannot be counted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_counted_is_refused_by_name(case: str) -> None:
    config, message = REFUSED[case]
    with pytest.raises(LoratoolsError, match=message) as refused:
        made(config)
    assert refused.value.file == "config.json"


def test_of_a_model_that_sees_only_its_language_model_is_counted() -> None:
    text = {**STANDARD, "model_type": "gemma3_text", "num_key_value_heads": 2, "head_dim": 16}
    both = made({"model_type": "gemma3", "vision_config": {"hidden_size": 8}, "text_config": text})
    assert both.parameters == made(text).parameters
    assert "gemma3: only its language model (gemma3_text) is counted" in both.notes


@pytest.mark.parametrize(
    ("field", "dtype"), [("torch_dtype", "float16"), ("dtype", "bfloat16"), ("other", None)]
)
def test_the_dtype_is_the_configs(field: str, dtype: str | None) -> None:
    assert made({**STANDARD, field: dtype}).dtype == dtype
