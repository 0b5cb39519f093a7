"""Formats are told from keys: what each library's own writer calls its tensors."""

import pytest

from loratools.checkpoints.checkpoint import Kind
from loratools.checkpoints.formats import kind_and_format

CASES = {
    "llama": (["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"], None),
    "bert": (["bert.encoder.layer.0.attention.self.query.weight", "cls.predictions.bias"], None),
    "names that sound like adapters": (
        ["lora.weight", "adapter.weight", "model.prompt_embeddings_proj.weight"],
        None,
    ),
    "segment anything": (["prompt_encoder.point_embeddings.0.weight", "mask_decoder.iou_token.weight"], None),
    "phi 4 with adapters of its own": (["model.layers.0.mlp.down_proj.lora_A.speech.weight"], None),
    "peft lora": (["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], "peft"),
    "peft loha": (["base_model.model.x.hada_w1_a"], "peft"),
    "peft saved modules": (["base_model.model.score.weight"], "peft"),
    "peft without its prefix": (["model.layers.0.q_proj.lora_A.weight"], "peft"),
    "peft prompt": (["prompt_embeddings"], "prompt"),
    "kohya unet": (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "kohya"),
    "kohya text encoder": (["lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha"], "kohya"),
    "lycoris": (["lycoris_blocks_0.hada_w1_a", "lycoris_blocks_0.alpha"], "kohya"),
    "diffusers": (["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"], "diffusers"),
    "diffusers, older": (["unet.mid_block.attn1.processor.to_q_lora.down.weight"], "diffusers"),
    "diffusers transformer": (["transformer.blocks.0.attn.to_q.lora_A.weight"], "diffusers"),
    "loralib": (["transformer.h.0.attn.c_attn.lora_A", "transformer.h.0.attn.c_attn.lora_B"], "loralib"),
    "adapterhub": (["bert.encoder.layer.0.output.adapters.task.adapter_down.0.weight"], "bottleneck"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_format_of_names(case: tuple[list[str], str | None]) -> None:
    names, form = case
    expected = (Kind.CHECKPOINT, "torch") if form is None else (Kind.ADAPTER, form)
    assert kind_and_format(names, "torch", None) == expected


def test_an_adapters_config_decides_before_the_keys() -> None:
    assert kind_and_format(["odd"], "safetensors", {"peft_type": "IA3"}) == (Kind.ADAPTER, "peft")
    assert kind_and_format(["odd"], "safetensors", {"peft_type": "PREFIX_TUNING"}) == (Kind.ADAPTER, "prompt")
