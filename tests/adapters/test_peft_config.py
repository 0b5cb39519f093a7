"""adapter_config.json: what it means, and that no field of PEFT's LoraConfig is ignored in silence."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import PeftType
from peft.utils.other import get_pattern_key

from loratools.adapters.patterns import PatternTable
from loratools.adapters.peft_config import HARMLESS, HONOURED, BiasMode, PeftConfig
from loratools.adapters.peft_refusals import REFUSED_FIELDS, REFUSED_TYPES
from loratools.errors import LoratoolsError


def config(**fields: Any) -> PeftConfig:
    return PeftConfig.of({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **fields}, file="adapter_config.json")


def test_every_field_of_lora_config_is_classified_once() -> None:
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields <= HONOURED | HARMLESS.keys() | REFUSED_FIELDS.keys()
    assert not HONOURED & HARMLESS.keys()
    assert not (HONOURED | HARMLESS.keys()) & REFUSED_FIELDS.keys()


def test_every_method_of_peft_is_lora_or_refused_by_name() -> None:
    others = {kind.value for kind in PeftType} - {"LORA"}
    assert others <= REFUSED_TYPES.keys()
    for kind in others:
        with pytest.raises(LoratoolsError, match="cannot be merged: ") as error:
            PeftConfig.of({"peft_type": kind})
        assert REFUSED_TYPES[kind].what in str(error.value)
        assert error.value.hint


@pytest.mark.parametrize(
    ("peft_type", "words"),
    [
        ("LOHA", "LoHa cannot be merged"),
        ("PREFIX_TUNING", "prefix tuning cannot be merged: it adds positions to the context"),
        ("PROMPT_TUNING", "adds positions to the context"),
        ("XLORA", "X-LoRA cannot be merged: its scalings depend on the input"),
        ("NEW_THING", "PEFT's method NEW_THING cannot be merged"),
        ("", r"PEFT's method \(none\)"),
    ],
)
def test_other_methods(peft_type: str, words: str) -> None:
    with pytest.raises(LoratoolsError, match=words):
        PeftConfig.of({"peft_type": peft_type}, file="a/adapter_config.json")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"use_bdlora": {"nblocks": 2}}, "BD-LoRA"),
        ({"alora_invocation_tokens": [1, 2]}, "aLoRA"),
        ({"alora_invocation_tokens": []}, "aLoRA"),
        ({"arrow_config": {"top_k": 1}}, "Arrow"),
        ({"use_qalora": True}, "QALoRA"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "replicas share one weight"),
        ({"megatron_config": {"a": 1}}, "Megatron"),
        ({"enable_lora": [True, False]}, "MergedLinear"),
        ({"init_lora_weights": "pissa"}, "PiSSA.*init_lora_weights=pissa"),
        ({"init_lora_weights": "pissa_niter_4"}, "PiSSA"),
        ({"init_lora_weights": "olora"}, "OLoRA"),
        ({"init_lora_weights": "corda"}, "CorDA"),
        ({"init_lora_weights": "lora_ga"}, "LoRA-GA"),
        ({"init_lora_weights": "loftq"}, "LoftQ"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_variants_are_refused_by_name_and_reason(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(LoratoolsError, match=words) as error:
        config(**fields)
    assert "cannot be merged: " in error.value.message
    assert error.value.hint
    assert error.value.file == "adapter_config.json"


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", "eva", "mica", None])
def test_plain_initialisations_pass(init: object) -> None:
    assert config(init_lora_weights=init).scaling("q_proj") == 2


def test_what_refuses_nothing_when_it_asks_for_nothing() -> None:
    quiet = dict.fromkeys(REFUSED_FIELDS) | {"use_qalora": False, "target_parameters": []}
    assert config(**quiet).warnings == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"r": 0}, "r is 0"),
        ({"r": "8"}, "r is '8'"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"rank_pattern": ["q"]}, "rank_pattern"),
        ({"rank_pattern": {"q": 0}}, r"rank_pattern\[q\] is 0"),
        ({"rank_pattern": {"(": 4}}, "regular expression"),
        ({"alpha_pattern": {"q": "1"}}, r"alpha_pattern\[q\]"),
        ({"rank_pattern": {"(a+)+b": 4}}, "a repeated group can take forever"),
        ({"alpha_pattern": {"(?x: (a+) +)": 4}}, "flags, names and references"),
        ({"rank_pattern": {"q" * 1001: 4}}, "1,001 characters"),
        ({"rank_pattern": {"(" * 900: 4}}, "regular expression"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"modules_to_save": "lm_head"}, "modules_to_save"),
        ({"trainable_token_indices": [1, 1]}, "each token once"),
        ({"trainable_token_indices": [-1]}, "trainable_token_indices"),
        ({"trainable_token_indices": {"embed_tokens": "1"}}, "trainable_token_indices"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path"),
    ],
    ids=lambda value: json.dumps(value, default=str) if isinstance(value, dict) else None,
)
def test_wrong_types_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(LoratoolsError, match=words):
        config(**fields)


def test_unknown_field_that_asks_for_something_is_warned_about() -> None:
    quiet = config(new_flag=False, new_list=[], new_dict={}, new_none=None)
    assert quiet.warnings == ()
    assert config(use_magic=True).warnings == (
        "the config's field use_magic is not known here and was not applied",
    )


def test_values_come_through() -> None:
    read = config(
        bias="lora_only",
        lora_bias=True,
        use_dora=True,
        modules_to_save=["score"],
        trainable_token_indices=[3, 1],
        ensure_weight_tying=True,
        fan_in_fan_out=True,
        target_modules="all-linear",
        base_model_name_or_path="org/base",
        task_type="SEQ_CLS",
    )
    assert read.bias is BiasMode.LORA_ONLY
    assert read.modules_to_save == ("score",)
    assert read.trainable_token_indices == {"": (3, 1)}
    assert read.target_modules == "all-linear"
    assert (read.base_name, read.task_type) == ("org/base", "SEQ_CLS")
    assert read.lora_bias and read.use_dora and read.ensure_weight_tying and read.fan_in_fan_out
    assert config(trainable_token_indices={"wte": [2]}).trainable_token_indices == {"wte": (2,)}


NAMES = [f"model.layers.{n}.self_attn.{proj}" for n in (1, 2, 11, 111) for proj in ("q_proj", "v_proj")]
PATTERNS = [
    "layers.1",
    "q_proj",
    "layers.1.self_attn.q_proj",
    r"layers\.1\..*",
    "1.self_attn.q_proj",
    ".*",
    "^q",
    r"layers\.11\.self_attn\.q_proj",
    "layers.1.*q_proj",
    "layers.1.self.attn.q.proj",
    "^model.layers.2.self_attn.v_proj",
    r"^model\.layers\.2\.self_attn\.v_proj",
]


@given(st.lists(st.sampled_from(PATTERNS), unique=True), st.sampled_from(NAMES))
def test_first_pattern_is_pefts(patterns: list[str], name: str) -> None:
    """Also where PEFT's answer for no match is the name itself."""
    assert (PatternTable(patterns).first(name) or name) == get_pattern_key(patterns, name)


def test_patterns_keep_the_files_order_and_reach_the_end_of_the_name() -> None:
    read = config(
        rank_pattern={"layers.1": 99, "layers.1.self_attn.q_proj": 2, "q_proj": 16},
        alpha_pattern={r"layers\.11\..*": 5, "q_proj": 7},
    )
    assert [read.rank(name) for name in NAMES[::2]] == [2, 16, 16, 16]
    assert [read.alpha(name) for name in NAMES[::2]] == [7, 7, 5, 7]
    assert read.rank("model.layers.1.self_attn.v_proj") == 4


@given(st.integers(1, 512), st.floats(-1e6, 1e6))
def test_scaling(rank: int, alpha: float) -> None:
    assert config(r=rank, lora_alpha=alpha).scaling("q") == alpha / rank
    assert config(r=rank, lora_alpha=alpha, use_rslora=True).scaling("q") == alpha / math.sqrt(rank)


def test_what_peft_saves_by_default_is_read_without_a_warning(tmp_path: Path) -> None:
    LoraConfig(r=8, target_modules=["q_proj"]).save_pretrained(tmp_path)
    read = PeftConfig.of(json.loads((tmp_path / "adapter_config.json").read_text()))
    assert read.warnings == ()
    assert (read.r, read.lora_alpha, read.target_modules) == (8, 8, ("q_proj",))
