"""The config of a merged checkpoint follows its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loratools.adapters.binding import Binding
from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.spec import TensorSpec
from loratools.operations.merge_options import OutputDtype
from loratools.operations.merged_config import merged_config
from loratools.operations.rewrite_layout import Outgoing


def spec(name: str, rows: int) -> TensorSpec:
    return TensorSpec(name, "bfloat16", (rows, 8), 16 * rows, Path("model.safetensors"), 0)


BEFORE = {name: spec(name, 100) for name in ("model.embed_tokens.weight", "lm_head.weight")}
SQUARE = spec("model.layers.0.mlp.up_proj.weight", 100)
"""A layer that happens to have as many rows as the vocabulary."""


def follow(
    config: Mapping[str, Any],
    rows: int = 100,
    *,
    dtype: OutputDtype = OutputDtype.KEEP,
    tied: bool | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    held = {**BEFORE, SQUARE.name: SQUARE}
    base = Checkpoint("b", Path("b"), Kind.CHECKPOINT, "safetensors", held, (), config)
    tensors = [
        Outgoing(name, "bfloat16", (rows if name in BEFORE else 100, 8), one) for name, one in held.items()
    ]
    binding = Binding({}, tie_word_embeddings=tied)
    found = merged_config(base, tensors, dtype=dtype, binding=binding, adapters=())
    return found.content, found.changes


def test_nothing_changes_where_nothing_did() -> None:
    config = {"vocab_size": 100, "dtype": "bfloat16", "tie_word_embeddings": True}
    assert follow(config) == (config, ())
    assert follow({}) == ({}, ())


def test_vocabulary() -> None:
    assert follow({"vocab_size": 100, "x": 1}, 103) == (
        {"vocab_size": 103, "x": 1},
        ("vocab_size 100 -> 103",),
    )
    nested = {"text_config": {"vocab_size": 100}, "vision_config": {"vocab_size": 100}}
    assert follow(nested, 90)[0] == {
        "text_config": {"vocab_size": 90},
        "vision_config": {"vocab_size": 100},
    }


def test_dtype_under_the_names_that_are_there() -> None:
    wide = OutputDtype.FLOAT32
    assert follow({"dtype": "bfloat16"}, dtype=wide)[0] == {"dtype": "float32"}
    assert follow({"torch_dtype": "bfloat16"}, dtype=wide)[0] == {"torch_dtype": "float32"}
    assert follow({"x": 1}, dtype=wide)[0] == {"x": 1, "torch_dtype": "float32"}
    nested = {"dtype": "bfloat16", "vision_config": {"dtype": "bfloat16"}, "audio_config": {}}
    assert follow(nested, dtype=wide)[0] == {
        "dtype": "float32",
        "vision_config": {"dtype": "float32"},
        "audio_config": {},
    }
    assert follow({"dtype": "float32"}, dtype=wide) == ({"dtype": "float32"}, ())


def test_tie() -> None:
    assert follow({"tie_word_embeddings": True}, tied=False)[0] == {"tie_word_embeddings": False}
    assert follow({"model_type": "gpt2"}, tied=False)[0] == {
        "model_type": "gpt2",
        "tie_word_embeddings": False,
    }
    nested = {"text_config": {"tie_word_embeddings": True}}
    assert follow(nested, tied=False)[0] == {"text_config": {"tie_word_embeddings": False}}
