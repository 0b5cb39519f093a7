"""Files of a rewritten checkpoint: shards kept or by size, torch turned to safetensors, indexes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fixtures.lora_files import Tensors, decoder, decoder_config, lora_factors, write_adapter, write_decoder
from loratools.checkpoints.reference import open_checkpoint
from loratools.operations.merge import merge


@pytest.fixture
def tensors() -> Tensors:
    return decoder(dtype=torch.bfloat16)


@pytest.fixture
def adapter(tmp_path: Path, tensors: Tensors) -> Path:
    return write_adapter(tmp_path / "adapter", lora_factors(tensors))


def weight_map(folder: Path) -> dict[str, str]:
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def weight_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def write_torch(folder: Path, tensors: Tensors, shards: int) -> Path:
    """A checkpoint in torch files, as transformers 4 wrote them."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(decoder_config(tensors)))
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder
    names, weight_map = sorted(tensors), {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05d}-of-{shards:05d}.bin"
        part = {name: tensors[name] for name in names[shard::shards]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_stay_as_the_base_has_them(tensors: Tensors, adapter: Path, tmp_path: Path) -> None:
    base = write_decoder(tmp_path / "base", tensors, shards=3)
    merge(base, [adapter], tmp_path / "out")
    assert weight_files(tmp_path / "out") == weight_files(base)
    assert weight_map(tmp_path / "out") == weight_map(base)
    for file in weight_files(base):
        assert load_file(tmp_path / "out" / file).keys() == load_file(base / file).keys()
    assert not open_checkpoint(tmp_path / "out").warnings


@pytest.mark.parametrize("limit", [6000, 15_000])
def test_shards_by_size_hold_no_more_than_asked(
    limit: int, tensors: Tensors, adapter: Path, tmp_path: Path
) -> None:
    base = write_decoder(tmp_path / "base", tensors, shards=3)
    merge(base, [adapter], tmp_path / "out", shard_size=f"{limit}B")
    files = weight_files(tmp_path / "out")
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 2
    for file in files:
        assert sum(tensor.nbytes for tensor in load_file(tmp_path / "out" / file).values()) <= limit
    merge(base, [adapter], tmp_path / "kept")
    one, other = open_checkpoint(tmp_path / "out"), open_checkpoint(tmp_path / "kept")
    assert {n: bytes(one.read(n).buffer) for n in one} == {n: bytes(other.read(n).buffer) for n in other}


def test_what_fits_one_file_needs_no_index(tensors: Tensors, adapter: Path, tmp_path: Path) -> None:
    base = write_decoder(tmp_path / "base", tensors, shards=3)
    merge(base, [adapter], tmp_path / "out", shard_size="1GiB")
    assert weight_files(tmp_path / "out") == ["model.safetensors"]
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(
    tensors: Tensors, adapter: Path, tmp_path: Path
) -> None:
    base = write_decoder(tmp_path / "base", tensors)
    merge(base, [adapter], tmp_path / "out", shard_size="1KB")
    assert len(weight_files(tmp_path / "out")) > 10
    assert open_checkpoint(tmp_path / "out").keys() == tensors.keys()


@pytest.mark.parametrize("shards", [1, 2])
def test_a_torch_base_comes_out_as_safetensors(
    shards: int, tensors: Tensors, adapter: Path, tmp_path: Path
) -> None:
    base = write_torch(tmp_path / "torch", tensors, shards)
    merge(base, [adapter], tmp_path / "out")
    expected = (
        ["model.safetensors"] if shards == 1 else [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    )
    assert weight_files(tmp_path / "out") == expected
    assert not list((tmp_path / "out").glob("*.bin*"))
    merge(write_decoder(tmp_path / "base", tensors), [adapter], tmp_path / "reference")
    one, other = open_checkpoint(tmp_path / "out"), open_checkpoint(tmp_path / "reference")
    assert one.keys() == other.keys()
    assert all(one.read(name).buffer == other.read(name).buffer for name in one)


def test_a_head_that_is_written_apart_lies_beside_its_embedding(tmp_path: Path) -> None:
    tensors = decoder(tied=True)
    base = write_decoder(tmp_path / "base", tensors, shards=2)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    merge(base, [adapter], tmp_path / "tied")
    assert weight_map(tmp_path / "tied") == weight_map(base)
    more = {
        "model.embed_tokens.lora_embedding_A": torch.randn(4, 40),
        "model.embed_tokens.lora_embedding_B": torch.randn(32, 4),
    }
    adapter = write_adapter(tmp_path / "second", lora_factors(tensors), more=more)
    merge(base, [adapter], tmp_path / "apart")
    apart = weight_map(tmp_path / "apart")
    assert apart["lm_head.weight"] == apart["model.embed_tokens.weight"]
    opened = open_checkpoint(tmp_path / "apart")
    assert not opened.config["tie_word_embeddings"]
    assert (
        bytes(opened.read("lm_head.weight").buffer) == tensors["model.embed_tokens.weight"].numpy().tobytes()
    )
    index = json.loads((tmp_path / "apart" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == opened.bytes
