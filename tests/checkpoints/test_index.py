"""Shard indexes as real writers make them. The lying ones are in `test_hostile`."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from transformers import LlamaConfig, LlamaForCausalLM

from fixtures.hostile_safetensors import BIAS, DATA, WEIGHT, safetensors_bytes
from fixtures.hostile_shards import write_shards
from fixtures.torch_files import Claim, pickled, torch_zip
from loratools.checkpoints.index import open_shards
from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=64,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def test_shards_that_transformers_wrote(model: LlamaForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    opened = open_checkpoint(tmp_path)
    state = model.state_dict()
    assert list(opened) == sorted(state)
    assert len(opened.shards) > 1 and list(opened.shards) == sorted(opened.shards)
    assert opened.warnings == ()
    assert opened.config["model_type"] == "llama"
    again = LlamaForCausalLM.from_pretrained(tmp_path).state_dict()
    for name in opened:
        assert torch.equal(opened.read(name).torch(), again[name])


def test_torch_shards_that_the_hubs_library_wrote(model: LlamaForCausalLM, tmp_path: Path) -> None:
    state = model.state_dict()
    save_torch_state_dict(state, tmp_path, max_shard_size="20KB", safe_serialization=False)
    assert (tmp_path / "pytorch_model.bin.index.json").exists()
    opened = open_checkpoint(tmp_path)
    assert (opened.format, list(opened)) == ("torch", sorted(state))
    assert len(opened.shards) > 1
    for name, tensor in state.items():
        assert torch.equal(opened.read(name).torch(), tensor)


def test_a_shard_named_by_itself_says_that_it_is_one_of_several(tmp_path: Path) -> None:
    write_shards(tmp_path)
    opened = open_checkpoint(tmp_path / "model-00001-of-00002.safetensors")
    assert list(opened) == ["weight"]
    assert "one shard of several" in opened.warnings[0]


def test_the_index_file_may_be_named_itself(tmp_path: Path) -> None:
    write_shards(tmp_path)
    assert list(open_checkpoint(tmp_path / "model.safetensors.index.json")) == ["bias", "weight"]


def test_shards_of_different_containers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(torch_zip(pickled({"weight": Claim()}), {"0": DATA[:24]}))
    bias = BIAS | {"data_offsets": [0, 8]}
    (tmp_path / "b.safetensors").write_bytes(safetensors_bytes({"bias": bias}, DATA[:8]))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": "a.bin", "bias": "b.safetensors"}}))
    with pytest.raises(LoratoolsError, match="some shards are safetensors"):
        open_shards(index)


def test_an_odd_total_size_is_no_reason_to_fail(tmp_path: Path) -> None:
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    weight_map = dict(zip(("weight", "bias"), names, strict=True))
    for total, warned in ((32, 0), (32.0, 0), ("32", 0), (None, 0), ([], 0), (10**30, 1)):
        write_shards(tmp_path, {"metadata": {"total_size": total}, "weight_map": weight_map})
        assert len(open_checkpoint(tmp_path).warnings) == warned
    write_shards(tmp_path, {"metadata": [], "weight_map": weight_map}, one={"weight": WEIGHT})
    assert open_checkpoint(tmp_path).warnings == ()
