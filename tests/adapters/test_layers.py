"""What layer a tensor belongs to, against the modules that transformers really builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from fixtures.pairs import tiny
from loratools.adapters.layers import Layer, Layers, config_values, head_of, layer_of, transposed
from loratools.checkpoints.spec import TensorSpec


def spec(*shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("on disk", dtype, shape, 0, Path("model.safetensors"), 0)


KINDS = {torch.nn.Linear: Layer.LINEAR, torch.nn.Embedding: Layer.EMBEDDING, Conv1D: Layer.CONV1D}
MODELS = [
    "llama",
    "llama-cls",
    "qwen2",
    "gpt2",
    "bert",
    "bert-mlm",
    "bert-cls",
    "t5",
    "whisper",
    "mixtral",
    "vit",
]


@pytest.mark.parametrize("kind", MODELS)
def test_every_matrix_of_real_models(kind: str) -> None:
    """Vocabulary and feed-forward sizes are equal, so that shapes cannot help."""
    model = tiny(kind)
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        guess = layer_of(name, spec(*parameter.shape), config)
        module = modules[name.rpartition(".")[0]]
        if name.endswith(".weight") and parameter.ndim == 2 and type(module) in KINDS:
            assert guess.certain, (name, guess)
            expected = Layer.HEAD if head_of(name) and "pooler" not in name else KINDS[type(module)]
            if kind == "whisper" and name == "proj_out.weight":
                expected = Layer.HEAD
            assert guess.layer is expected, (name, guess)
        elif isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d) and name.endswith("weight"):
            assert guess.layer is Layer.CONV
        elif name.endswith(".bias"):
            assert guess.layer is Layer.BIAS
        elif "norm" in type(module).__name__.lower():
            assert (guess.layer, guess.certain) == (Layer.NORM, True), name


@pytest.mark.parametrize(
    ("name", "shape", "config", "layer", "certain"),
    [
        ("model.layers.0.mlp.gate_proj.weight", (64, 16), {"num_experts": 64}, Layer.LINEAR, True),
        ("model.layers.0.mlp.gate.weight", (8, 16), {"num_local_experts": 8}, Layer.ROUTER, True),
        (
            "model.layers.0.mlp.gate.weight",
            (64, 16),
            {"text_config": {"num_experts": 64}},
            Layer.ROUTER,
            True,
        ),
        ("model.layers.0.mlp.gate.weight", (8, 16), {}, Layer.ROUTER, False),
        ("encoder.block.1.layer.1.mlp.router.classifier.weight", (8, 16), {}, Layer.HEAD, True),
        ("model.layers.0.feed_forward.router.weight", (8, 16), {}, Layer.ROUTER, True),
        ("model.layers.0.mlp.experts.gate_up_proj", (8, 32, 16), {}, Layer.EXPERTS, True),
        ("model.layers.0.block_sparse_moe.experts.3.w1.weight", (32, 16), {}, Layer.LINEAR, True),
        ("transformer.h.0.attn.c_attn.weight", (16, 48), {"model_type": "gpt2"}, Layer.CONV1D, True),
        ("transformer.h.0.attn.c_attn.weight", (48, 16), {"model_type": "gpt_bigcode"}, Layer.LINEAR, True),
        ("h.0.mlp.c_fc.weight", (16, 64), {"architectures": ["GPT2Model"]}, Layer.CONV1D, True),
        ("decoder.h.0.mlp.c_fc.weight", (16, 64), {"decoder": {"model_type": "gpt2"}}, Layer.CONV1D, True),
        ("transformer.wpe.weight", (32, 16), {}, Layer.EMBEDDING, True),
        (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            (32, 4),
            {},
            Layer.EMBEDDING,
            True,
        ),
        ("model.tokens.weight", (500, 16), {"vocab_size": 500}, Layer.HEAD, True),
        ("model.my_embedder.weight", (500, 16), {"vocab_size": 500}, Layer.EMBEDDING, True),
        ("model.layers.0.mlp.up_proj.weight", (500, 16), {"vocab_size": 500}, Layer.LINEAR, True),
        ("model.layers.0.strange.weight", (8, 16), {}, Layer.LINEAR, False),
        ("model.my_embedder.weight", (8, 16), {}, Layer.EMBEDDING, False),
        ("backbone.layers.0.mixer.A_log", (64, 16), {}, Layer.OTHER, True),
        ("backbone.layers.0.mixer.D", (64,), {}, Layer.OTHER, True),
        ("attn.in_proj_weight", (48, 16), {}, Layer.OTHER, True),
        ("attn.in_proj_bias", (48,), {}, Layer.BIAS, True),
        ("vit.embeddings.cls_token", (1, 1, 16), {}, Layer.OTHER, True),
        ("model.layers.0.input_layernorm.weight", (16,), {}, Layer.NORM, True),
        ("bn1.running_mean", (16,), {}, Layer.NORM, True),
        ("model.layers.0.odd.weight", (16,), {}, Layer.NORM, False),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (8,), {}, Layer.BUFFER, True),
        ("transformer.h.0.attn.masked_bias", (), {}, Layer.BUFFER, True),
        ("transformer.h.0.attn.bias", (1, 1, 32, 32), {}, Layer.BUFFER, True),
        ("transformer.h.0.attn.c_proj.bias", (32,), {}, Layer.BIAS, True),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_layers_by_name_and_config(
    name: str, shape: tuple[int, ...], config: dict[str, Any], layer: Layer, certain: bool
) -> None:
    guess = layer_of(name, spec(*shape), config)
    assert (guess.layer, guess.certain) == (layer, certain), guess


def test_integers_are_no_parameters() -> None:
    assert layer_of("embeddings.position_ids", spec(1, 32, dtype="int64"), {}).certain
    guess = layer_of("model.layers.0.up_proj.weight", spec(8, 8, dtype="int32"), {})
    assert (guess.layer, guess.certain) == (Layer.BUFFER, False)


def test_only_conv1d_is_stored_transposed() -> None:
    assert transposed("h.0.attn.c_attn.weight", spec(16, 48), {"model_type": "gpt2"})
    assert not transposed("h.0.attn.c_attn.weight", spec(16, 48), {"model_type": "llama"})
    assert not transposed("wte.weight", spec(64, 16), {"model_type": "gpt2"})


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("score.weight", "score"),
        ("classifier.dense.bias", "classifier"),
        ("cls.predictions.transform.dense.weight", "cls"),
        ("bert.pooler.dense.weight", "bert.pooler"),
        ("model.layers.0.mlp.up_proj.weight", None),
    ],
)
def test_heads_by_name(name: str, head: str | None) -> None:
    assert head_of(name) == head


def test_values_of_nested_configs() -> None:
    config = {"vocab_size": None, "text_config": {"vocab_size": 5, "deep": {"vocab_size": 7}}, "other": 3}
    assert list(config_values(config, "vocab_size")) == [5, 7]


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_looked_at_once_says_the_same(kind: str) -> None:
    """Of every block, and of names that are numbers themselves, in whichever order they are asked about."""
    model = tiny(kind)
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    held = {name: spec(*parameter.shape) for name, parameter in model.named_parameters()}
    held |= {f"tower.{block}.mlp.{part}.weight": spec(8, 8) for block in range(2) for part in range(3)}
    held |= {f"{block}.experts.{block}.weight": spec(4, 8, 8) for block in range(2)}
    layers = Layers(config)
    for name, one in (*held.items(), *reversed(held.items())):
        assert layers.of(name, one) == layer_of(name, one, config), name
        assert layers.transposed(name, one) == transposed(name, one, config), name
