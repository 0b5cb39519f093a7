"""Writing a PEFT adapter: stable fields, equal bytes, contents from wherever they come."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file, save_file

from loratools.adapters.peft_config import PeftConfig
from loratools.adapters.peft_write import (
    AdapterTensor,
    LoraConfig,
    PartFile,
    Stored,
    StoredRows,
    Values,
    key_of_a,
    key_of_b,
    key_of_bias,
    key_of_parameter,
    key_of_rows,
    write_config,
    write_weights,
)
from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.reference import open_checkpoint

PLAIN = LoraConfig(
    base_name="org/base",
    revision=None,
    task="CAUSAL_LM",
    ranks={"model.layers.0.q_proj": 4, "model.layers.1.q_proj": 4, "model.layers.0.k_proj": 2},
    saved=("model.norm",),
    rows={"model.embed_tokens": (1, 5)},
    modules=("model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.0.k_proj", "model.norm"),
)


def test_the_config_is_what_peft_and_we_read(tmp_path: Path) -> None:
    write_config(tmp_path, PLAIN)
    loaded = peft.LoraConfig.from_pretrained(tmp_path)
    assert (loaded.r, loaded.lora_alpha, loaded.peft_type.value, loaded.task_type) == (
        4,
        4,
        "LORA",
        "CAUSAL_LM",
    )
    assert loaded.rank_pattern == loaded.alpha_pattern == {"model.layers.0.k_proj": 2}
    assert loaded.target_modules == {"q_proj", "k_proj"}
    assert loaded.trainable_token_indices == {"model.embed_tokens": [1, 5]}
    ours = PeftConfig.of(json.loads((tmp_path / "adapter_config.json").read_text()))
    assert ours.warnings == ()
    assert ours.scaling("model.layers.0.k_proj") == ours.scaling("model.layers.1.q_proj") == 1.0


def test_only_fields_that_peft_knows_and_newer_ones_only_where_needed() -> None:
    known = {field.name for field in dataclasses.fields(peft.LoraConfig)} | {"revision", "auto_mapping"}
    full = dataclasses.replace(PLAIN, lora_bias=True, ensure_weight_tying=True)
    assert full.to_json().keys() <= known
    plain = dataclasses.replace(PLAIN, rows={}).to_json()
    assert not {"lora_bias", "ensure_weight_tying", "trainable_token_indices"} & plain.keys()


def test_an_adapter_without_factors_targets_nothing() -> None:
    config = dataclasses.replace(PLAIN, ranks={}).to_json()
    assert (config["target_modules"], config["r"]) == ("dummy-target-modules", 1)


def test_the_config_s_bytes_do_not_depend_on_order(tmp_path: Path) -> None:
    for name, ranks in (("one", PLAIN.ranks), ("other", dict(reversed(PLAIN.ranks.items())))):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, dataclasses.replace(PLAIN, ranks=ranks))
    one, other = ((tmp_path / name / "adapter_config.json").read_bytes() for name in ("one", "other"))
    assert one == other
    assert one.endswith(b"}\n")


def test_weights_come_from_files_rows_parts_and_memory(tmp_path: Path) -> None:
    source = torch.randn(6, 4, dtype=torch.bfloat16)
    save_file({"w": source}, tmp_path / "model.safetensors")
    spec = open_checkpoint(tmp_path / "model.safetensors")["w"]
    part = torch.arange(8, dtype=torch.float32)
    (tmp_path / "part").write_bytes(part.numpy().tobytes())
    tensors = [
        AdapterTensor("whole", "bfloat16", (6, 4), Stored(spec)),
        AdapterTensor("rows", "bfloat16", (2, 4), StoredRows(spec, (1, 5))),
        AdapterTensor("part", "float32", (2, 4), PartFile(tmp_path / "part")),
        AdapterTensor("memory", "float32", (2,), Values(bytes(8))),
    ]
    (tmp_path / "out").mkdir()
    (tmp_path / "again").mkdir()
    roots = write_weights(tmp_path / "out", tensors)
    write_weights(tmp_path / "again", reversed(tensors))
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    written = load_file(tmp_path / "out" / name)
    assert torch.equal(written["whole"], source)
    assert torch.equal(written["rows"], source[[1, 5]])
    assert torch.equal(written["part"], part.reshape(2, 4))
    assert torch.equal(written["memory"], torch.zeros(2))
    hasher = TensorHasher()
    hasher.update(part.numpy().tobytes())
    assert roots["part"] == hasher.root()
    assert roots.keys() == written.keys()


def test_keys_are_peft_s() -> None:
    model = torch.nn.ModuleDict(
        {"query": torch.nn.Linear(4, 3), "tokens": torch.nn.Embedding(5, 4), "norm": torch.nn.LayerNorm(4)}
    )
    config = peft.LoraConfig(
        target_modules=["query"],
        modules_to_save=["norm"],
        trainable_token_indices={"tokens": [1]},
        lora_bias=True,
    )
    state = peft.get_peft_model_state_dict(peft.get_peft_model(model, config))
    ours = {key_of_a("query"), key_of_b("query"), key_of_bias("query"), key_of_rows("tokens")}
    assert state.keys() == ours | {key_of_parameter("norm.weight"), key_of_parameter("norm.bias")}
