"""Which tensor goes into which file, and what the index says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.checkpoints.parts import Entry, stored_bytes, write_safetensors
from loratools.checkpoints.shards import parse_size, shard_plan
from loratools.errors import UsageError

ENTRIES: list[Entry] = [
    ("a", "float32", (2,)),
    ("b", "bfloat16", (3,)),
    ("c", "float64", (5,)),
    ("d", "uint8", ()),
]


def test_one_file_has_no_index() -> None:
    for limit in (None, 1000):
        plan = shard_plan(ENTRIES, limit)
        assert [shard.file for shard in plan.shards] == ["model.safetensors"]
        assert plan.shards[0].entries == tuple(ENTRIES)
        assert plan.index_file is None


def test_no_tensors_are_one_empty_file() -> None:
    plan = shard_plan([], 5)
    assert [(shard.file, shard.entries) for shard in plan.shards] == [("model.safetensors", ())]


def test_shards_fill_in_the_order_given_and_a_larger_tensor_stands_alone() -> None:
    plan = shard_plan(ENTRIES, 14)
    assert [(shard.file, [entry[0] for entry in shard.entries], shard.bytes) for shard in plan.shards] == [
        ("model-00001-of-00003.safetensors", ["a", "b"], 14),
        ("model-00002-of-00003.safetensors", ["c"], 40),
        ("model-00003-of-00003.safetensors", ["d"], 1),
    ]
    assert plan.index_file == "model.safetensors.index.json"
    assert plan.index() == {
        "metadata": {"total_size": 55},
        "weight_map": {
            "a": "model-00001-of-00003.safetensors",
            "b": "model-00001-of-00003.safetensors",
            "c": "model-00002-of-00003.safetensors",
            "d": "model-00003-of-00003.safetensors",
        },
    }


def test_a_stem_names_other_parts() -> None:
    plan = shard_plan(ENTRIES, 14, stem="diffusion_pytorch_model")
    assert plan.shards[0].file == "diffusion_pytorch_model-00001-of-00003.safetensors"
    assert plan.index_file == "diffusion_pytorch_model.safetensors.index.json"


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 60))
def test_every_tensor_is_in_one_shard_and_none_is_overfull(sizes: list[int], limit: int) -> None:
    entries: list[Entry] = [(f"t{place}", "uint8", (size,)) for place, size in enumerate(sizes)]
    plan = shard_plan(entries, limit)
    assert [entry for shard in plan.shards for entry in shard.entries] == entries
    for shard in plan.shards:
        assert shard.bytes <= limit or len([entry for entry in shard.entries if entry[2] != (0,)]) == 1
    for one, following in zip(plan.shards, plan.shards[1:], strict=False):
        assert one.bytes + stored_bytes(*following.entries[0][1:]) > limit


def test_transformers_loads_what_the_plan_says(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).to(dtype=__import__("torch").float32)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    plan = shard_plan([(name, "float32", values.shape) for name, values in state.items()], 1000)
    assert len(plan.shards) > 2 and plan.index_file is not None
    for shard in plan.shards:
        content = {name: (dtype, shape, state[name].data) for name, dtype, shape in shard.entries}
        write_safetensors(tmp_path / shard.file, content)
    (tmp_path / plan.index_file).write_text(json.dumps(plan.index()))
    config.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype="float32")
    for name, tensor in loaded.state_dict().items():
        assert (tensor.numpy() == state[name]).all(), name


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5_000_000_000),
        ("5 gb", 5_000_000_000),
        ("500MB", 500_000_000),
        ("1.5MB", 1_500_000),
        ("0.1KB", 100),
        ("2GiB", 2 * 2**30),
        ("1TiB", 2**40),
        ("1TB", 10**12),
        ("4KiB", 4096),
        ("12", 12),
        ("12B", 12),
        ("1.29B", 1),
        (" 7MiB ", 7 * 2**20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GB",
        "0",
        "0.1B",
        "-5GB",
        "5 G B",
        "5GBit",
        "5XB",
        "1e9",
        "nan",
        "5,0GB",
        "٥GB",
        "9" * 5000,
        "1..5GB",
    ],
)
def test_what_is_no_size_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.exit_code == 2 and "5GB" in str(caught.value)
