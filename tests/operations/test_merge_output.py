"""What a merge writes: dtypes, one file or a folder, the config and the tokenizer that follow the tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fixtures.lora_files import (
    Tensors,
    decoder,
    decoder_config,
    exact_sum,
    lora_factors,
    write_adapter,
    write_decoder,
)
from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.provenance import read_provenance
from loratools.engine.coverage import Action
from loratools.errors import LoratoolsError, UsageError
from loratools.linalg.rounding_torch import round_once
from loratools.operations.merge import merge

BF16 = torch.bfloat16


@pytest.fixture
def tensors() -> Tensors:
    return decoder(dtype=BF16)


@pytest.fixture
def base(tmp_path: Path, tensors: Tensors) -> Path:
    return write_decoder(tmp_path / "base", tensors)


@pytest.fixture
def adapter(tmp_path: Path, tensors: Tensors) -> Path:
    return write_adapter(tmp_path / "adapter", lora_factors(tensors), base="org/base")


def everything(folder: Path) -> Tensors:
    """All tensors of a checkpoint's safetensors files."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def root(tensor: torch.Tensor) -> str:
    hasher = TensorHasher()
    hasher.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hasher.root()


def test_values_that_overflow_are_refused_with_their_number(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.float32)
    tensors["model.norm.weight"][:3] = 1e6
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    with pytest.raises(LoratoolsError, match="3 values do not fit into float16") as refused:
        merge(base, [adapter], tmp_path / "out", dtype="float16")
    assert refused.value.tensor == "model.norm.weight"
    assert "--dtype bfloat16" in (refused.value.hint or "")
    merge(base, [adapter], tmp_path / "out", dtype="bfloat16")
    with pytest.raises(LoratoolsError, match="values do not fit into bfloat16") as refused:
        merge(base, [f"{adapter}=1e300"], tmp_path / "huge", dtype="bfloat16")
    assert "alpha and weight" in (refused.value.hint or "")


def test_what_was_not_finite_before_stays_and_is_said(tmp_path: Path) -> None:
    tensors = decoder(dtype=BF16)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    tensors["model.layers.0.mlp.up_proj.weight"][0, :2] = float("inf")
    base = write_decoder(tmp_path / "base", tensors)
    report = merge(base, [adapter], tmp_path / "out")
    assert [line for line in report.warnings if "2 elements of model.layers.0.mlp.up_proj.weight" in line]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_converts_everything_that_floats(dtype: str, tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.float32)
    # Halfway between two bfloat16 numbers plus a little that float32 cannot hold: rounding twice goes wrong.
    tensors["model.norm.weight"] = torch.full((32,), 1 + 2**-8, dtype=torch.float64) + 2**-40
    tensors["model.position_ids"] = torch.arange(5)
    base = write_decoder(tmp_path / "base", tensors)
    factors = lora_factors(tensors)
    merge(base, [write_adapter(tmp_path / "adapter", factors)], tmp_path / "out", dtype=dtype)
    exact, written = exact_sum(tensors, (factors, 1.0)), everything(tmp_path / "out")
    assert torch.equal(written.pop("model.position_ids"), torch.arange(5))
    for name, tensor in written.items():
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.equal(tensor, round_once(exact[name], tensor.dtype)), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype


def test_a_bfloat16_base_written_in_float32_is_computed_in_float64(
    base: Path, tensors: Tensors, tmp_path: Path
) -> None:
    factors = lora_factors(tensors)
    merge(base, [write_adapter(tmp_path / "adapter", factors)], tmp_path / "out", dtype="float32")
    exact = exact_sum(tensors, (factors, 1.0))
    same = [
        (tensor == exact[name].float()).double().mean()
        for name, tensor in everything(tmp_path / "out").items()
    ]
    assert min(same) >= 0.999


def test_one_file_holds_its_provenance_in_the_header(tensors: Tensors, adapter: Path, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt", "author": 'ä "quoted"'})
    report = merge(tmp_path / "model.safetensors", [adapter], tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["author"]) == ("pt", 'ä "quoted"')
    record = read_provenance(tmp_path / "out.safetensors")
    assert record is not None
    written = load_file(tmp_path / "out.safetensors")
    assert record.tensors == {name: root(tensor) for name, tensor in written.items()}
    assert report.output == tmp_path / "out.safetensors"
    merge(tmp_path / "model.safetensors", [adapter], tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "loratools.json",
        "model.safetensors",
    ]
    assert {k: v.tolist() for k, v in everything(tmp_path / "folder").items()} == {
        k: v.tolist() for k, v in written.items()
    }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.bin", {}, "written as safetensors"),
        ("out.safetensors", {}, "a checkpoint that has 2"),
        ("out.safetensors", {"shard_size": "1MB", "shards": 1}, "no shards"),
    ],
    ids=["suffix", "shards", "shard size"],
)
def test_one_file_where_none_can_be(
    name: str, options: dict[str, object], message: str, adapter: Path, tensors: Tensors, tmp_path: Path
) -> None:
    base = write_decoder(tmp_path / "sharded", tensors, shards=int(str(options.pop("shards", 2))))
    with pytest.raises(UsageError, match=message):
        merge(base, [adapter], tmp_path / name, **options)  # type: ignore[arg-type]


def test_an_output_that_exists_is_replaced_whole_by_force_only(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    merge(base, [adapter], tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(LoratoolsError, match="exists"):
        merge(base, [adapter], tmp_path / "out")
    merge(base, [adapter], tmp_path / "out", force=True)
    assert not (tmp_path / "out" / "notes.txt").exists()
    with pytest.raises(LoratoolsError, match="input"):
        merge(base, [adapter], base, force=True)


def test_a_config_is_copied_as_it_is_where_nothing_changes(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge(base, [adapter], tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_a_grown_vocabulary_is_followed_by_config_and_tokenizer(
    base: Path, tensors: Tensors, tmp_path: Path
) -> None:
    grown = {name: torch.randn(43, 32) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors), more=grown)
    for folder, content in ((base, "old"), (adapter, "new")):
        (folder / "tokenizer.json").write_text(content)
        (folder / "tokenizer_config.json").write_text(content)
    (base / "added_tokens.json").write_text("old")
    (base / "vocab.json").write_text("old")
    report = merge(base, [adapter], tmp_path / "out")
    written = everything(tmp_path / "out")
    for name, tensor in grown.items():
        assert torch.equal(written[name], tensor.to(BF16))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {**decoder_config(tensors), "vocab_size": 43}
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "new"
    assert (tmp_path / "out" / "vocab.json").read_text() == "old"
    assert not (tmp_path / "out" / "added_tokens.json").exists()
    assert any("vocab_size 40 -> 43" in line for line in report.warnings)
    assert report.coverage is not None
    assert report.coverage.counts()[Action.REPLACED] == 2


def test_a_vocabulary_that_grows_on_one_side_only_is_refused(
    base: Path, tensors: Tensors, tmp_path: Path
) -> None:
    more = {"model.embed_tokens.weight": torch.randn(43, 32)}
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors), more=more)
    with pytest.raises(LoratoolsError, match=r"43|40"):
        merge(base, [adapter], tmp_path / "out")
