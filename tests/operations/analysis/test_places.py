"""Layers and kinds of modules, told by their names."""

from __future__ import annotations

from collections import defaultdict

import pytest

from fixtures.peft_models import tiny_bert, tiny_gpt2, tiny_llama
from loratools.operations.analysis.places import in_model_order, place_of

NAMED = {
    "model.layers.3.self_attn.q_proj": (3, "q_proj"),
    "model.layers.11.mlp.down_proj": (11, "down_proj"),
    "model.layers.0.self_attn.q_proj.bias": (0, "q_proj.bias"),
    "model.layers.2.self_attn.dense": (2, "self_attn.dense"),
    "model.layers.2.input_layernorm": (2, "input_layernorm"),
    "model.language_model.layers.1.mlp.gate_proj": (1, "gate_proj"),
    "model.layers.5.mlp.experts.7.up_proj": (5, "mlp.experts.up_proj"),
    "model.layers.5.mlp.shared_expert.up_proj": (5, "mlp.shared_expert.up_proj"),
    "model.layers.5.block_sparse_moe.experts.0.w1": (5, "block_sparse_moe.experts.w1"),
    "transformer.h.4.attn.c_proj": (4, "attn.c_proj"),
    "transformer.h.4.mlp.c_proj": (4, "mlp.c_proj"),
    "bert.encoder.layer.2.attention.self.query": (2, "attention.self.query"),
    "bert.encoder.layer.2.attention.output.dense": (2, "attention.output.dense"),
    "bert.encoder.layer.2.output.dense": (2, "output.dense"),
    "encoder.layer.2.intermediate.dense": (2, "intermediate.dense"),
    "decoder.block.1.layer.0.SelfAttention.q": (1, "decoder.layer.0.SelfAttention.q"),
    "decoder.block.1.layer.1.EncDecAttention.q": (1, "decoder.layer.1.EncDecAttention.q"),
    "encoder.block.1.layer.0.SelfAttention.q": (1, "layer.0.SelfAttention.q"),
    "model.decoder.layers.1.encoder_attn.q_proj": (1, "decoder.encoder_attn.q_proj"),
    "vision_tower.vision_model.encoder.layers.9.self_attn.q_proj": (9, "vision_tower.vision_model.q_proj"),
    "model.embed_tokens": (None, "embed_tokens"),
    "bert.embeddings.word_embeddings": (None, "embeddings.word_embeddings"),
    "lm_head": (None, "lm_head"),
    "model": (None, "model"),
    "classifier.0": (None, "classifier.0"),
}


@pytest.mark.parametrize("module", NAMED)
def test_places(module: str) -> None:
    assert place_of(module) == NAMED[module]


@pytest.mark.parametrize("model", [tiny_llama, tiny_gpt2, tiny_bert])
def test_modules_of_a_layer_have_kinds_of_their_own_and_layers_have_the_same(model: object) -> None:
    kinds: dict[int | None, list[str]] = defaultdict(list)
    for name, module in model().named_modules():  # type: ignore[operator]
        if any(True for _ in module.parameters(recurse=False)):
            place = place_of(name)
            kinds[place.layer].append(place.kind)
    assert kinds[0] == kinds[1]
    for inside in kinds.values():
        assert len(set(inside)) == len(inside)


def test_numbers_are_ordered_as_numbers() -> None:
    assert in_model_order(["h.10.a", "h.9.b", "h.9.a", "lm_head"]) == ["h.9.a", "h.9.b", "h.10.a", "lm_head"]
