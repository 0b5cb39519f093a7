"""Names in memory and names on disk, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from loratools.adapters.names import BASE_MODEL_PREFIX, NameMap
from loratools.errors import LoratoolsError

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
BARE_BERT = {"model_type": "bert", "architectures": ["BertModel"]}


@pytest.mark.parametrize(
    ("config", "disk", "memory"),
    [
        (LLAMA, "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        (LLAMA, "lm_head.weight", "lm_head.weight"),
        (GPT2, "h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.weight"),
        (GPT2, "lm_head.weight", "lm_head.weight"),
        (BERT, "bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
        (BERT, "cls.predictions.bias", "cls.predictions.bias"),
        (BARE_BERT, "bert.encoder.layer.0.output.dense.weight", "encoder.layer.0.output.dense.weight"),
        (BARE_BERT, "pooler.dense.weight", "pooler.dense.weight"),
        ({"model_type": "something"}, "a.b.weight", "a.b.weight"),
        ({}, "transformer.h.0.weight", "transformer.h.0.weight"),
    ],
)
def test_memory(config: dict[str, object], disk: str, memory: str) -> None:
    names = NameMap.from_names([disk], config)
    assert names.memory(disk) == memory
    assert names.disk(memory) == disk


@pytest.mark.parametrize("config", [LLAMA, GPT2, BERT, BARE_BERT], ids=["llama", "gpt2", "bert", "bare bert"])
@pytest.mark.parametrize("prefixed", [True, False], ids=["with prefix", "without"])
def test_an_adapter_of_either_class_finds_its_tensors(config: dict[str, object], prefixed: bool) -> None:
    prefix = BASE_MODEL_PREFIX[str(config["model_type"])]
    disk = f"{prefix}.block.0.w.weight" if prefixed else "block.0.w.weight"
    names = NameMap.from_names([disk, "score.weight"], config)
    assert names.disk(f"{prefix}.block.0.w.weight") == disk
    assert names.disk("block.0.w.weight") == disk
    assert names.disk("block.1.w.weight") is None
    assert names.core(f"{prefix}.block.0.w.weight") == names.core("block.0.w.weight")
    assert names.new("block.2.w.weight") == disk.replace(".0.", ".2.")
    assert names.new("lm_head.weight") == "lm_head.weight"


def test_head_beside_a_prefixed_model_keeps_its_name() -> None:
    names = NameMap.from_names(["model.norm.weight", "my_head.weight"], LLAMA)
    assert names.memory("my_head.weight") == "my_head.weight"


def test_the_same_parameter_twice_is_refused() -> None:
    with pytest.raises(LoratoolsError, match="are the same parameter"):
        NameMap.from_names(["model.norm.weight", "norm.weight"], LLAMA)


def test_without_a_known_model_type_one_prefix_may_differ() -> None:
    names = NameMap.from_names(["encoder.x.weight", "model.y.weight"], {})
    assert names.disk("bert.encoder.x.weight") == "encoder.x.weight"
    assert names.disk("y.weight") == "model.y.weight"
    assert names.core("y.weight") == names.core("model.y.weight") == "model.y.weight"
    assert names.disk("z.y.weight") is None


def test_what_could_be_two_tensors_is_refused() -> None:
    names = NameMap.from_names(["model.y.weight", "transformer.y.weight"], {})
    with pytest.raises(LoratoolsError, match=r"can be .* or "):
        names.disk("y.weight")


PARTS = st.sampled_from(
    ["layers", "0", "11", "norm", "LayerNorm", "w", "model", "bert", "lm_head", "gamma", "weight"]
)
CONFIGS = st.sampled_from([LLAMA, GPT2, BERT, BARE_BERT, {}])


@given(st.lists(st.lists(PARTS, min_size=2, max_size=4).map(".".join), unique=True, min_size=1), CONFIGS)
def test_disk_undoes_memory(disk_names: list[str], config: dict[str, object]) -> None:
    """For any names that are not one parameter twice, each name on disk is found again."""
    try:
        names = NameMap.from_names(disk_names, config)
    except LoratoolsError as error:
        assert "same parameter" in error.message
        return
    memory = [names.memory(name) for name in disk_names]
    assert len(set(memory)) == len(memory) or not names.prefix
    for name in disk_names:
        if names.memory(name) == name or names.memory(name) not in names.names:
            assert names.disk(names.memory(name)) == name


def test_prefixes_are_transformers() -> None:
    for model_type, prefix in BASE_MODEL_PREFIX.items():
        config = CONFIG_MAPPING[model_type]
        model = AutoModel._model_mapping[config]
        model = model[0] if isinstance(model, tuple) else model
        assert model.base_model_prefix == prefix, model_type
