"""Binding: which update goes where, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.bound_weights import bound_weights
from fixtures.lora_files import write_adapter
from fixtures.pairs import write_checkpoint
from loratools.adapters.bind import bind
from loratools.adapters.binding import Adapter, Binding
from loratools.adapters.peft import read_adapter
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError, UsageError

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "tie_word_embeddings": False,
    "vocab_size": 10,
}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 10}
Q, Q_NAME = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj.weight"

Shapes = Mapping[str, tuple[int, ...]]


def tensors(shapes: Shapes, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def base(folder: Path, shapes: Shapes, config: Mapping[str, Any] = LLAMA) -> Checkpoint:
    return open_checkpoint(write_checkpoint(folder / "base", tensors(shapes), config))


def adapter(folder: Path, shapes: Shapes, *, name: str = "adapter", seed: int = 1, **config: Any) -> Adapter:
    more = tensors(shapes, seed)
    return read_adapter(open_checkpoint(write_adapter(folder / name, {}, more=more, **{"r": 2, **config})))


def pair(module: str, out: int, into: int, rank: int = 2) -> dict[str, tuple[int, ...]]:
    return {f"{module}.lora_A.weight": (rank, into), f"{module}.lora_B.weight": (out, rank)}


def kinds(binding: Binding) -> dict[str, list[str]]:
    return {name: [update.kind for update in one.updates] for name, one in binding.tensors.items()}


@pytest.mark.parametrize(
    ("config", "shape", "flag", "transposed"),
    [
        (LLAMA, (6, 4), False, False),
        (LLAMA, (6, 4), True, False),
        (GPT2, (4, 6), False, True),
        (GPT2, (4, 6), True, True),
    ],
    ids=["linear", "linear with a wrong flag", "conv1d with a wrong flag", "conv1d"],
)
def test_orientation_is_told_by_shape(
    config: dict[str, Any], shape: tuple[int, int], flag: bool, transposed: bool, tmp_path: Path
) -> None:
    name = "transformer.h.0.attn.c_attn" if config is GPT2 else Q
    opened = base(tmp_path, {f"{name}.weight": shape}, config)
    binding = bind([(adapter(tmp_path, pair(name, 6, 4), fan_in_fan_out=flag), 1.0)], opened)
    (update,) = binding.tensors[f"{name}.weight"].updates
    assert update.transposed is transposed
    said = " ".join(binding.decisions)
    assert ("stored (in, out)" in said) is transposed
    assert ("fan_in_fan_out: false" in said) is (transposed and not flag)


@pytest.mark.parametrize(("config", "transposed"), [(GPT2, True), (LLAMA, False)], ids=["gpt2", "llama"])
def test_orientation_of_a_square_is_told_by_the_architecture(
    config: dict[str, Any], transposed: bool, tmp_path: Path
) -> None:
    name = "transformer.h.0.attn.c_proj" if config is GPT2 else Q
    opened = base(tmp_path, {f"{name}.weight": (6, 6)}, config)
    binding = bind([(adapter(tmp_path, pair(name, 6, 6), fan_in_fan_out=not transposed), 1.0)], opened)
    assert binding.tensors[f"{name}.weight"].updates[0].transposed is transposed


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    opened = base(tmp_path, {Q_NAME: (6, 5)})
    with pytest.raises(
        LoratoolsError, match=r"\(6, 2\) and \(2, 4\) make an update of \(6, 4\).* of \(6, 5\)"
    ):
        bind([(adapter(tmp_path, pair(Q, 6, 4)), 1.0)], opened)


def test_unmatched_keys_are_an_error_unless_allowed(tmp_path: Path) -> None:
    opened = base(tmp_path, {Q_NAME: (6, 4)})
    other = adapter(tmp_path, pair(Q, 6, 4) | pair("model.layers.7.mlp.up_proj", 6, 4))
    with pytest.raises(LoratoolsError, match=r"2 adapter keys find no tensor.*layers\.7.*--allow-unmatched"):
        bind([(other, 1.0)], opened)
    binding = bind([(other, 1.0)], opened, allow_unmatched=True)
    assert kinds(binding) == {Q_NAME: ["lora"]}
    assert {name for name, _ in binding.unmatched} == {"adapter"}
    assert all("layers.7" in key for _, key in binding.unmatched) and len(binding.unmatched) == 2


def test_nothing_matched_is_an_error_even_if_allowed(tmp_path: Path) -> None:
    opened = base(tmp_path, {"model.norm.weight": (4,)})
    with pytest.raises(LoratoolsError, match="not the base that the adapter was trained on"):
        bind([(adapter(tmp_path, pair(Q, 6, 4)), 1.0)], opened, allow_unmatched=True)


def test_multihead_attention_is_refused_by_name(tmp_path: Path) -> None:
    opened = base(tmp_path, {"encoder.attn.in_proj_weight": (12, 4), "encoder.attn.in_proj_bias": (12,)}, {})
    with pytest.raises(
        LoratoolsError, match=r"encoder\.attn is a MultiheadAttention, which cannot be merged yet"
    ):
        bind([(adapter(tmp_path, pair("encoder.attn", 12, 4)), 1.0)], opened)


def test_lora_bias_without_a_bias_is_refused(tmp_path: Path) -> None:
    opened = base(tmp_path, {Q_NAME: (6, 4)})
    shapes = pair(Q, 6, 4) | {f"{Q}.lora_B.bias": (6,)}
    with pytest.raises(LoratoolsError, match="has no bias in the base, so that the adapter's lora_bias"):
        bind([(adapter(tmp_path, shapes, lora_bias=True), 1.0)], opened)


def test_integers_are_not_changed(tmp_path: Path) -> None:
    weights = {Q_NAME: torch.ones(6, 4, dtype=torch.int8)}
    opened = open_checkpoint(write_checkpoint(tmp_path / "base", weights, LLAMA))
    with pytest.raises(LoratoolsError, match="a tensor of int8 cannot be changed"):
        bind([(adapter(tmp_path, pair(Q, 6, 4)), 1.0)], opened)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(weight: float, tmp_path: Path) -> None:
    opened = base(tmp_path, {Q_NAME: (6, 4)})
    with pytest.raises(UsageError, match="not finite"):
        bind([(adapter(tmp_path, pair(Q, 6, 4)), weight)], opened)


def test_no_adapter_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapter"):
        bind([], base(tmp_path, {Q_NAME: (6, 4)}))


NORM = {"model.norm.weight": (4,)}
ROWS = {"model.embed_tokens.token_adapter.trainable_tokens_delta": (2, 4)}
DORA = pair(Q, 6, 4) | {f"{Q}.lora_magnitude_vector": (6,)}
EMBEDDING = {"model.embed_tokens.lora_embedding_A": (2, 10), "model.embed_tokens.lora_embedding_B": (4, 2)}
BASE = {Q_NAME: (6, 4), "model.norm.weight": (4,), "model.embed_tokens.weight": (10, 4)}


@pytest.mark.parametrize(
    ("shapes", "config", "words"),
    [
        (NORM, {"modules_to_save": ["norm"]}, "holds this tensor in full"),
        (ROWS, {"trainable_token_indices": [0, 1]}, "holds these token rows in full"),
        (DORA, {"use_dora": True}, "cannot be given to DoRA"),
    ],
    ids=["saved module", "rows", "dora"],
)
def test_only_what_is_added_takes_a_weight(
    shapes: Shapes, config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    opened = base(tmp_path, BASE)
    with pytest.raises(LoratoolsError, match=rf"a weight of 0\.5 cannot be given to .*{words}|{words}"):
        bind([(adapter(tmp_path, shapes, **config), 0.5)], opened)
    assert bind([(adapter(tmp_path, shapes, **config), 1.0)], opened).tensors


def test_two_adapters_that_replace_one_tensor_are_refused(tmp_path: Path) -> None:
    opened = base(tmp_path, BASE)
    held = [
        adapter(tmp_path, NORM, name=name, seed=n, modules_to_save=["norm"]) for n, name in enumerate("ab")
    ]
    with pytest.raises(LoratoolsError, match=r"two adapters replace model\.norm\.weight"):
        bind([(one, 1.0) for one in held], opened)


def test_an_adapter_may_add_to_what_another_replaced_but_not_undo_it(tmp_path: Path) -> None:
    opened = base(tmp_path, BASE)
    whole = {"model.embed_tokens.weight": (10, 4)}
    replacing = adapter(tmp_path, whole, name="replacing", modules_to_save=["embed_tokens"])
    adding = adapter(tmp_path, EMBEDDING, name="adding")
    binding = bind([(replacing, 1.0), (adding, 0.5)], opened)
    assert kinds(binding) == {"model.embed_tokens.weight": ["replace", "lora"]}
    with pytest.raises(LoratoolsError, match=r"an adapter before it changes.*name the adapter that replaces"):
        bind([(adding, 0.5), (replacing, 1.0)], opened)
    rows = adapter(tmp_path, ROWS, name="rows", trainable_token_indices=[0, 1])
    with pytest.raises(LoratoolsError, match="which an adapter before it changes"):
        bind([(adding, 1.0), (rows, 1.0)], opened)
    assert kinds(bind([(rows, 1.0), (adding, 1.0)], opened)) == {
        "model.embed_tokens.weight": ["rows", "lora"]
    }


def test_two_adapters_of_one_name_and_the_same_keys(tmp_path: Path) -> None:
    """Each update keeps its own weight, though nothing but the folder tells the two apart."""
    opened = base(tmp_path, {Q_NAME: (6, 4)})
    one = adapter(tmp_path / "1", pair(Q, 6, 4), seed=1)
    two = adapter(tmp_path / "2", pair(Q, 6, 4), seed=2)
    binding = bind([(one, 0.5), (two, 2.0), (one, -0.5)], opened)
    assert [update.scaling for update in binding.tensors[Q_NAME].updates] == [1.0, 4.0, -1.0]
    alone = bind([(two, 2.0)], opened)
    torch.testing.assert_close(bound_weights(opened, binding)[Q_NAME], bound_weights(opened, alone)[Q_NAME])


def test_the_bases_own_embedding_is_idle(tmp_path: Path) -> None:
    """PEFT saves it beside the factors of one that it targets: nothing is replaced, a weight may be given."""
    opened = base(tmp_path, BASE)
    own = tensors(BASE)["model.embed_tokens.weight"]
    more = tensors(EMBEDDING) | {"model.embed_tokens.base_layer.weight": own}
    same = read_adapter(open_checkpoint(write_adapter(tmp_path / "same", {}, more=more, r=2)))
    binding = bind([(same, 0.5)], opened)
    assert kinds(binding) == {"model.embed_tokens.weight": ["lora"]}
    assert binding.idle == {
        ("same", "base_model.model.model.embed_tokens.base_layer.weight"): "holds the base's own values"
    }
    more["model.embed_tokens.base_layer.weight"] = own + 1
    other = read_adapter(open_checkpoint(write_adapter(tmp_path / "other", {}, more=more, r=2)))
    assert kinds(bind([(other, 1.0)], opened)) == {"model.embed_tokens.weight": ["replace", "lora"]}


def test_only_embeddings_and_heads_may_change_their_rows(tmp_path: Path) -> None:
    opened = base(tmp_path, BASE)
    binding = bind([(adapter(tmp_path, {"model.embed_tokens.weight": (13, 4)}), 1.0)], opened)
    assert binding.tensors["model.embed_tokens.weight"].updates[0].shape((10, 4)) == (13, 4)
    with pytest.raises(LoratoolsError, match=r"of \(5,\) cannot replace the base's of \(4,\)"):
        bind([(adapter(tmp_path, {"model.norm.weight": (5,)}, name="norm"), 1.0)], opened)


def test_a_new_tensor_is_only_a_head_that_was_saved_in_full(tmp_path: Path) -> None:
    opened = base(tmp_path, BASE)
    head = {"score.weight": (3, 4)}
    binding = bind([(adapter(tmp_path, head, modules_to_save=["score"]), 1.0)], opened)
    assert binding.tensors["score.weight"].source is None
    for name, shapes, saved in (
        ("unlisted", head, None),
        ("inside", {"model.extra_norm.weight": (4,)}, ["extra_norm"]),
    ):
        with pytest.raises(LoratoolsError, match="find no tensor"):
            bind([(adapter(tmp_path, shapes, name=name, modules_to_save=saved), 1.0)], opened)


def test_one_parameter_twice_in_an_adapter_is_refused(tmp_path: Path) -> None:
    opened = base(tmp_path, BASE)
    twice = adapter(tmp_path, pair(Q, 6, 4) | pair(Q.removeprefix("model."), 6, 4))
    with pytest.raises(LoratoolsError, match="with and without a prefix"):
        bind([(twice, 1.0)], opened)
