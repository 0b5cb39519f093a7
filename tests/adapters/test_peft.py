"""Reading an adapter folder: keys to updates, and every way in which a file can be wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.lora_files import write_adapter
from fixtures.pairs import write_checkpoint
from loratools.adapters.bias import Bias
from loratools.adapters.binding import Adapter
from loratools.adapters.dora import Dora
from loratools.adapters.lowrank import LowRank
from loratools.adapters.peft import read_adapter
from loratools.adapters.peft_keys import Part, parse_key
from loratools.adapters.replace import Replace, Rows
from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError

Q = "model.layers.0.self_attn.q_proj"
PAIR = {f"{Q}.lora_A.weight": torch.ones(4, 6), f"{Q}.lora_B.weight": torch.ones(8, 4)}


def read(folder: Path, more: Mapping[str, torch.Tensor] = PAIR, **config: Any) -> Adapter:
    return read_adapter(open_checkpoint(write_adapter(folder, {}, more=more, **{"r": 4, **config})))


@pytest.mark.parametrize(
    ("key", "module", "part", "leaf"),
    [
        ("a.q_proj.lora_A.weight", "a.q_proj", Part.A, "weight"),
        ("a.q_proj.lora_A.default.weight", "a.q_proj", Part.A, "weight"),
        ("q.lora_A.lora_A.weight", "q", Part.A, "weight"),
        ("a.q_proj.lora_B.my-adapter.bias", "a.q_proj", Part.B_BIAS, "weight"),
        ("wte.lora_embedding_A", "wte", Part.EMBEDDING_A, "weight"),
        ("wte.lora_embedding_B.default", "wte", Part.EMBEDDING_B, "weight"),
        ("q.lora_magnitude_vector", "q", Part.MAGNITUDE, "weight"),
        ("q.lora_magnitude_vector.default.weight", "q", Part.MAGNITUDE, "weight"),
        ("wte.token_adapter.trainable_tokens_delta", "wte", Part.TOKENS, "weight"),
        ("wte.token_adapter.base_layer.weight", "wte", Part.BASE, "weight"),
        ("q.base_layer.bias", "q", Part.BASE, "bias"),
        ("cls.modules_to_save.default.dense.weight", "cls", Part.SAVED, "dense.weight"),
        ("score.original_module.weight", "score", Part.ORIGINAL, "weight"),
        ("model.norm.weight", "model.norm", Part.PARAMETER, "weight"),
        ("h.0.attn.masked_bias", "h.0.attn", Part.PARAMETER, "masked_bias"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "base_model.model."], ids=["bare", "prefixed"])
def test_keys(key: str, module: str, part: Part, leaf: str, prefix: str) -> None:
    parsed = parse_key(prefix + key)
    assert (parsed.name, parsed.module, parsed.part, parsed.leaf) == (prefix + key, module, part, leaf)


@pytest.mark.parametrize(
    "key",
    [
        "attn.base_layer.out_proj.lora_A.weight",
        "experts.base_layer.lora_B.weight",
        "q.lora_diag",
        "q.lora_router.weight",
        "q.hada_w1_a",
        "q.lokr_w1",
        "lora_unet_down_blocks_0.lora_down.weight",
        "prompt_embeddings",
    ],
)
def test_foreign_keys_are_refused_by_name(key: str) -> None:
    with pytest.raises(LoratoolsError, match="belongs to no kind of LoRA layer") as error:
        parse_key(f"base_model.model.{key}")
    assert key in str(error.value)


def test_a_pair_becomes_one_update(tmp_path: Path) -> None:
    adapter = read(tmp_path, base="org/base", lora_alpha=6, task_type="CAUSAL_LM", fan_in_fan_out=True)
    (update,) = adapter.updates[f"{Q}.weight"]
    assert isinstance(update, LowRank)
    assert (update.rank, update.scaling, update.parameters, update.transposed) == (4, 1.5, 56, None)
    assert update.sources == tuple(f"base_model.model.{key}" for key in PAIR)
    assert adapter.sources.keys() == {f"base_model.model.{key}" for key in PAIR}
    assert (adapter.name, adapter.rank, adapter.alpha, adapter.base_name) == (tmp_path.name, 4, 6, "org/base")
    assert (adapter.task, adapter.transposed_flag, adapter.warnings) == ("CAUSAL_LM", True, ())


def test_every_part_becomes_its_update(tmp_path: Path) -> None:
    adapter = read(
        tmp_path,
        {
            **PAIR,
            f"{Q}.lora_B.bias": torch.ones(8),
            f"{Q}.lora_magnitude_vector": torch.ones(8),
            f"{Q}.base_layer.bias": torch.ones(8),
            "model.embed_tokens.lora_embedding_A": torch.ones(4, 10),
            "model.embed_tokens.lora_embedding_B": torch.ones(6, 4),
            "model.embed_tokens.lora_magnitude_vector": torch.ones(6),
            "model.embed_tokens.base_layer.weight": torch.ones(10, 6),
            "lm_head.token_adapter.trainable_tokens_delta": torch.ones(2, 6),
            "model.norm.weight": torch.ones(6),
            "score.modules_to_save.default.weight": torch.ones(3, 6),
            "score.original_module.weight": torch.ones(3, 6),
            "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
        },
        use_dora=True,
        lora_bias=True,
        modules_to_save=["norm", "score"],
        trainable_token_indices={"lm_head": [3, 1]},
    )
    kinds = {name: [type(update) for update in held] for name, held in adapter.updates.items()}
    assert kinds == {
        f"{Q}.weight": [Dora],
        f"{Q}.bias": [Replace, Bias],
        "model.embed_tokens.weight": [Replace, Dora],
        "lm_head.weight": [Rows],
        "model.norm.weight": [Replace],
        "score.weight": [Replace],
    }
    shared = {name: held[0].shared for name, held in adapter.updates.items() if isinstance(held[0], Replace)}
    assert shared == {
        f"{Q}.bias": True,
        "model.embed_tokens.weight": True,
        "model.norm.weight": False,
        "score.weight": False,
    }
    assert adapter.updates["lm_head.weight"][0].indices == (3, 1)
    assert adapter.new_modules == ("model.norm", "score")
    assert {key.removeprefix("base_model.model."): why for key, why in adapter.ignored.items()} == {
        "score.original_module.weight": "the base's own copy beside a saved module",
        "h.0.attn.bias": "a causal mask, which the model makes itself",
    }


@pytest.mark.parametrize("missing", ["lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"])
def test_half_pairs_are_refused(missing: str, tmp_path: Path) -> None:
    tensors = {
        **PAIR,
        "wte.lora_embedding_A": torch.ones(4, 10),
        "wte.lora_embedding_B": torch.ones(6, 4),
    }
    left = {key: value for key, value in tensors.items() if f".{missing}" not in key}
    with pytest.raises(LoratoolsError, match=f"has no {missing}"):
        read(tmp_path, left)


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        ({f"{Q}.lora_A.weight": torch.ones(3, 6)}, {}, "have different ranks"),
        (
            {f"{Q}.lora_A.weight": torch.ones(2, 6), f"{Q}.lora_B.weight": torch.ones(8, 2)},
            {},
            "the factors have rank 2 where the config says 4",
        ),
        ({}, {"rank_pattern": {"q_proj": 8}}, "the factors have rank 4 where the config says 8"),
        (
            {f"{Q}.lora_A.weight": torch.ones(4, 6, 3, 3), f"{Q}.lora_B.weight": torch.ones(8, 4, 1, 1)},
            {},
            "belong to a convolution",
        ),
        ({f"{Q}.lora_magnitude_vector": torch.ones(8)}, {}, "use_dora: false"),
        ({}, {"use_dora": True}, "has no lora_magnitude_vector"),
        (
            {f"{Q}.lora_magnitude_vector": torch.ones(1, 8, 1, 1)},
            {"use_dora": True},
            "belong to a convolution",
        ),
        ({"k_proj.lora_magnitude_vector": torch.ones(8)}, {}, "k_proj has no lora_A"),
        ({"k_proj.lora_B.bias": torch.ones(8)}, {}, "k_proj has no lora_A"),
        ({f"{Q}.lora_embedding_A": torch.ones(4, 6)}, {}, "has no lora_embedding_B"),
        (
            {f"{Q}.lora_embedding_A": torch.ones(4, 6), f"{Q}.lora_embedding_B": torch.ones(8, 4)},
            {},
            "of a linear layer and of an embedding",
        ),
        ({"wte.token_adapter.trainable_tokens_delta": torch.ones(2, 6)}, {}, "names no rows for wte"),
        (
            {"wte.token_adapter.trainable_tokens_delta": torch.ones(2, 6)},
            {"trainable_token_indices": [1, 2, 3]},
            "do not belong to 3 trainable_token_indices",
        ),
        ({f"{Q}.lora_A.default.weight": torch.ones(4, 6)}, {}, "are the same"),
        ({"model.norm.weight": torch.ones(6, dtype=torch.int32)}, {}, "of int32 cannot be applied"),
        ({}, {"modules_to_save": ["score"]}, "saves score in full, but the file has nothing of it"),
        ({}, {"peft_type": "LOKR"}, "LoKr cannot be merged"),
    ],
)
def test_what_is_wrong_is_named(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(LoratoolsError, match=words):
        read(tmp_path, PAIR | tensors, **config)


def test_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(LoratoolsError, match="holds no weights"):
        read(tmp_path, {"h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool)})


def test_values_that_are_not_finite_are_counted_when_they_are_read(tmp_path: Path) -> None:
    broken = dict(PAIR)
    broken[f"{Q}.lora_B.weight"] = torch.full((8, 4), float("nan"))
    broken[f"{Q}.lora_B.weight"][0] = float("inf")
    broken[f"{Q}.lora_B.weight"][1] = 1.0
    adapter = read(tmp_path, broken)
    (update,) = adapter.updates[f"{Q}.weight"]
    with pytest.raises(LoratoolsError, match=r"28 of 32 values are NaN or infinite .*lora_B\.weight"):
        update.norm()


def test_bias_of_a_targeted_module_is_taken_and_said(tmp_path: Path) -> None:
    """PEFT drops it in silence; whoever wrote it meant it."""
    adapter = read(tmp_path, PAIR | {f"{Q}.bias": torch.ones(8)})
    assert isinstance(adapter.updates[f"{Q}.bias"][0], Replace)
    assert adapter.warnings == (
        f"base_model.model.{Q}.bias replaces the base's, though PEFT itself does not load it",
    )


def test_structure_is_read_and_bound_without_torch(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", {}, more=PAIR, r=4)
    write_checkpoint(tmp_path / "base", {f"{Q}.weight": torch.ones(8, 6)}, {"model_type": "llama"})
    code = (
        "import sys\n"
        "from loratools.adapters.bind import bind\n"
        "from loratools.adapters.peft import read_adapter\n"
        "from loratools.checkpoints.reference import open_checkpoint\n"
        f"adapter = read_adapter(open_checkpoint({str(tmp_path / 'adapter')!r}))\n"
        f"assert bind([(adapter, 1.0)], open_checkpoint({str(tmp_path / 'base')!r})).tensors\n"
        "assert 'torch' not in sys.modules and 'peft' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
