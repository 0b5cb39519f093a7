"""The model card: front matter that the hub accepts, and code that loads the adapter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import huggingface_hub

from loratools.adapters.card import Card, write_card

CARD = Card(
    base_name="org/base",
    task="CAUSAL_LM",
    architecture="LlamaForCausalLM",
    vocabulary=None,
    facts=[("rank", "16")],
    notes=["a note"],
)


def test_the_hub_reads_the_front_matter(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    data = huggingface_hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.library_name) == ("org/base", "peft")
    assert data.tags == ["base_model:adapter:org/base", "lora", "loratools"]


def test_a_name_that_is_no_hub_id_is_not_claimed_to_be_one(tmp_path: Path) -> None:
    write_card(tmp_path, dataclasses.replace(CARD, base_name="my folder"))
    data = huggingface_hub.ModelCard.load(tmp_path / "README.md").data
    assert data.base_model is None
    assert data.tags == ["lora", "loratools"]


def test_the_body_says_how_to_load_it() -> None:
    text = CARD.text()
    assert "model = AutoModelForCausalLM.from_pretrained('org/base')" in text
    assert "| rank | 16 |" in text
    assert "- a note" in text
    assert "resize_token_embeddings" not in text


def test_new_tokens_come_before_the_adapter() -> None:
    lines = dataclasses.replace(CARD, vocabulary=70).text().splitlines()
    resize = next(index for index, line in enumerate(lines) if "resize_token_embeddings(70)" in line)
    assert "PeftModel.from_pretrained" in lines[resize + 1]


def test_a_task_without_an_auto_class_names_the_model_s_own() -> None:
    assert (
        "BertModel.from_pretrained" in dataclasses.replace(CARD, task=None, architecture="BertModel").text()
    )
