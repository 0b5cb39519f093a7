"""Real checkpoints counted from their headers: as transformers counts them, and as their configs do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError
from loratools.operations.costs.measured import measured
from loratools.reports.costs.architecture import Architecture, Role
from loratools.reports.costs.config import architecture_of

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"num_key_value_heads": 2}),
    "llama tied": ("LlamaForCausalLM", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "gpt2": ("GPT2LMHeadModel", {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 40}),
    "bert": ("BertModel", {}),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48},
    ),
    "mixtral": ("MixtralForCausalLM", {"num_key_value_heads": 2, "num_local_experts": 3}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {"num_experts": 3, "moe_intermediate_size": 24, "head_dim": 8}),
    "opt": ("OPTForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi3": ("Phi3ForCausalLM", {"pad_token_id": 0}),
}  # fmt: skip
_COMMON = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "vocab_size": 90, "max_position_embeddings": 40,
}  # fmt: skip


def saved(case: str, folder: Path) -> torch.nn.Module:
    """The model of a case, saved as transformers saves it."""
    torch.manual_seed(0)
    name, fields = MODELS[case]
    kind = case.split()[0]
    known = {} if kind in ("gpt2", "t5") else _COMMON
    config = transformers.AutoConfig.for_model(kind, **{**known, "vocab_size": 90, **fields})
    model: torch.nn.Module = getattr(transformers, name)(config)
    model.save_pretrained(folder)  # type: ignore[operator]
    return model


def read(folder: Path) -> Architecture:
    return measured(open_checkpoint(folder))


@pytest.mark.parametrize("case", MODELS)
def test_parameters_and_matrices_are_those_of_the_model_and_of_its_config(case: str, tmp_path: Path) -> None:
    model = saved(case, tmp_path)
    found = read(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    described = architecture_of(config, name="model", source="its config")
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.parameters == described.parameters
    assert found.by_role[Role.MATRIX] == described.by_role[Role.MATRIX]
    assert found.biases == described.biases
    assert found.block_norms == described.block_norms
    assert (found.layers, found.hidden) == (described.layers, described.hidden)
    assert found.norm_biases is described.norm_biases
    assert found.stored_bytes == open_checkpoint(tmp_path).bytes
    if case != "bert":
        assert found.tied is described.tied


def test_a_fused_matrix_of_a_file_tells_its_slices(tmp_path: Path) -> None:
    saved("gpt2", tmp_path)
    fused = {part.module: part for part in read(tmp_path).matrices if part.slices}
    assert list(fused) == [f"transformer.h.{layer}.attn.c_attn" for layer in (0, 1)]
    assert fused["transformer.h.0.attn.c_attn"].shape == (96, 32), "(out, in), though stored as (in, out)"


def test_a_tied_head_that_the_file_holds_too_counts_once(tmp_path: Path) -> None:
    model = saved("llama tied", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, file, {"format": "pt"})
    assert read(tmp_path).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_without_a_config_the_names_tell_layers_and_width(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    (tmp_path / "config.json").unlink()
    found = read(tmp_path)
    assert (found.layers, found.hidden, found.heads) == (2, 32, None)
    assert found.source == "its headers"
    assert found.notes == ("no config.json tells its layers and width: both are told by the tensors",)


def test_what_has_no_layers_is_refused(tmp_path: Path) -> None:
    save_file({"one": torch.zeros(3, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(LoratoolsError, match="neither a config nor the tensors' names tell of layers"):
        read(tmp_path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(LoratoolsError, match="gptq"):
        read(tmp_path)
