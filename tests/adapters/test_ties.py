"""Which tensors are tied, and what the policies make of them; what PEFT does is tested with PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.lora_files import write_adapter
from fixtures.pairs import write_checkpoint
from loratools.adapters.bind import Tied, bind
from loratools.adapters.binding import Binding
from loratools.adapters.names import NameMap
from loratools.adapters.peft import read_adapter
from loratools.adapters.ties import find_ties
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 10}
TIED = LLAMA | {"tie_word_embeddings": True}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WORDS = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
FACTORS = {
    "model.embed_tokens.lora_embedding_A": torch.ones(2, 10),
    "model.embed_tokens.lora_embedding_B": torch.ones(4, 2),
}


def checkpoint(folder: Path, config: Mapping[str, Any], *names: str) -> Checkpoint:
    return open_checkpoint(write_checkpoint(folder, {name: WORDS.clone() for name in names}, config))


def ties(opened: Checkpoint) -> list[tuple[str, ...]]:
    return [tie.members for tie in find_ties(opened, NameMap.of(opened))]


def bound(
    opened: Checkpoint, folder: Path, more: Mapping[str, torch.Tensor], tied: Tied, **config: Any
) -> Binding:
    adapter = read_adapter(open_checkpoint(write_adapter(folder, {}, more=more, r=2, **config)))
    return bind([(adapter, 1.0)], opened, tied=tied)


PAIR = ("embed_tokens.weight", "lm_head.weight")
BERT = {"model_type": "bert", "vocab_size": 10, "tie_word_embeddings": True}
BERT_WORDS = "embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("config", "names", "expected"),
    [
        (TIED, (EMBEDDING,), [PAIR]),
        (TIED, (EMBEDDING, HEAD), [PAIR]),
        (LLAMA, (EMBEDDING,), [PAIR]),
        (LLAMA, (EMBEDDING, HEAD), []),
        (LLAMA | {"tie_word_embeddings": False}, (EMBEDDING,), []),
        (TIED | {"architectures": ["LlamaModel"]}, (EMBEDDING,), []),
        (TIED | {"architectures": ["LlamaForSequenceClassification"]}, (EMBEDDING,), []),
        (
            {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 10},
            ("wte.weight",),
            [("wte.weight", "lm_head.weight")],
        ),
        (
            BERT | {"architectures": ["BertForMaskedLM"]},
            (f"bert.{BERT_WORDS}", "cls.predictions.bias"),
            [
                (BERT_WORDS, "cls.predictions.decoder.weight"),
                ("cls.predictions.bias", "cls.predictions.decoder.bias"),
            ],
        ),
        (BERT | {"architectures": ["BertModel"]}, (BERT_WORDS,), []),
    ],
    ids=[
        "head absent",
        "both there",
        "nothing said, head absent",
        "nothing said, both there",
        "untied",
        "no head",
        "another head",
        "gpt2 by default",
        "bert with its bias",
        "bert without a head",
    ],
)
def test_ties_are_found(
    config: dict[str, Any], names: tuple[str, ...], expected: list[tuple[str, ...]], tmp_path: Path
) -> None:
    assert ties(checkpoint(tmp_path, config, *names)) == expected


def test_only_one_side_is_changed_where_the_config_unties(tmp_path: Path) -> None:
    opened = checkpoint(tmp_path / "base", LLAMA | {"tie_word_embeddings": False}, EMBEDDING, HEAD)
    binding = bound(opened, tmp_path / "adapter", FACTORS, Tied.REFUSE)
    assert list(binding.tensors) == [EMBEDDING] and binding.tie_word_embeddings is None


@pytest.mark.parametrize(
    "stored", [(EMBEDDING,), (HEAD,), (EMBEDDING, HEAD)], ids=["embedding", "head", "both"]
)
def test_factors_of_one_side(stored: tuple[str, ...], tmp_path: Path) -> None:
    """Whichever names are on disk: written apart, each is there with its own updates; tied, those alone."""
    opened = checkpoint(tmp_path / "base", TIED, *stored)
    apart = bound(opened, tmp_path / "adapter", FACTORS, Tied.AUTO)
    assert apart.tie_word_embeddings is False
    written = {name: one.updates for name, one in apart.tensors.items()}
    embedding = "embed_tokens.weight" if stored == (HEAD,) else EMBEDDING
    assert len(written[embedding]) == 1
    assert written.get(HEAD, ()) == ()
    assert set(opened) | set(written) == {embedding, HEAD}
    assert all(one.source is not None and one.source.name in stored for one in apart.tensors.values())

    together = bound(opened, tmp_path / "adapter", FACTORS, Tied.TIE)
    assert together.tie_word_embeddings is None
    assert {name: len(one.updates) for name, one in together.tensors.items()} == dict.fromkeys(stored, 1)


def test_refuse(tmp_path: Path) -> None:
    opened = checkpoint(tmp_path / "base", TIED, EMBEDDING)
    with pytest.raises(LoratoolsError, match=r"changes what is tied in the base.*--tied auto, tie or untie"):
        bound(opened, tmp_path / "adapter", FACTORS, Tied.REFUSE)


def test_what_the_config_ties_but_differs_is_not_tied(tmp_path: Path) -> None:
    """As transformers has it, which compares the two."""
    weights = {EMBEDDING: WORDS.clone(), HEAD: WORDS + 1}
    opened = open_checkpoint(write_checkpoint(tmp_path / "base", weights, TIED))
    binding = bound(opened, tmp_path / "adapter", FACTORS, Tied.AUTO)
    assert list(binding.tensors) == [EMBEDDING]
    assert binding.tie_word_embeddings is None
    assert binding.warnings == (
        "embed_tokens.weight and lm_head.weight are tied by the config but differ: taken as untied",
    )


def test_factors_that_should_be_one_but_differ_are_written_apart(tmp_path: Path) -> None:
    opened = checkpoint(tmp_path / "base", TIED, EMBEDDING)
    more = FACTORS | {
        "lm_head.lora_A.weight": torch.ones(2, 4),
        "lm_head.lora_B.weight": 2 * torch.ones(10, 2),
    }
    binding = bound(opened, tmp_path / "adapter", more, Tied.AUTO, ensure_weight_tying=True)
    assert binding.tie_word_embeddings is False
    assert [len(binding.tensors[name].updates) for name in (EMBEDDING, HEAD)] == [1, 1]


def test_one_key_of_an_adapter_that_keeps_ties_means_both(tmp_path: Path) -> None:
    """PEFT cannot load it; what is meant is plain."""
    opened = checkpoint(tmp_path / "base", TIED, EMBEDDING)
    config = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    binding = bound(opened, tmp_path / "adapter", {EMBEDDING: WORDS + 1}, Tied.AUTO, **config)
    assert list(binding.tensors) == [EMBEDDING] and binding.tie_word_embeddings is None
    assert binding.decisions == ("embed_tokens.weight and lm_head.weight are tied and stay so",)


def test_shared_embedding_of_encoder_and_decoder_is_not_written_apart(tmp_path: Path) -> None:
    config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 10}
    names = ("shared.weight", "encoder.block.0.w.weight", "decoder.block.0.w.weight")
    opened = checkpoint(tmp_path / "base", config | {"tie_word_embeddings": True}, *names)
    assert len(ties(opened)[0]) == 4
    factors = {key.replace("model.embed_tokens", "shared"): value for key, value in FACTORS.items()}
    with pytest.raises(
        LoratoolsError, match="are one tensor, and written apart the model would compute otherwise"
    ):
        bound(opened, tmp_path / "adapter", factors, Tied.AUTO)
    binding = bound(opened, tmp_path / "adapter", factors, Tied.TIE)
    assert list(binding.tensors) == ["shared.weight"]
