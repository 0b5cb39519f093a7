"""Which modules share the input embedding's weight, against the models themselves."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.pairs import tiny
from loratools.adapters.tasks import saved_by_task, task_type
from loratools.adapters.tying import declared_tied, embedding_copies, input_embedding, output_head

TIED: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "gpt2": {},
    "bert-mlm": {},
    "t5": {},
    "whisper": {},
    "bert": {},
    "bert-cls": {},
    "llama-cls": {},
}


@pytest.mark.parametrize("kind", TIED)
def test_embedding_head_and_copies_are_those_of_the_model(kind: str) -> None:
    model = tiny(kind, **TIED[kind])
    names = {module: name for name, module in model.named_modules()}
    embeddings = [name for name, module in model.named_modules() if type(module).__name__ == "Embedding"]
    weight = model.get_input_embeddings().weight
    shared = {name for name, module in model.named_modules() if getattr(module, "weight", None) is weight}
    found = input_embedding(embeddings)
    assert found == names[model.get_input_embeddings()]
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    head = output_head(config)
    copies = embedding_copies(found, set(names.values()))
    assert {found, *copies, *([head] if head else [])} == shared


def test_what_the_config_declares() -> None:
    assert declared_tied({"tie_word_embeddings": False}) is False
    assert declared_tied({"text_config": {"tie_word_embeddings": True}}) is True
    assert declared_tied({}) is None


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("LlamaForCausalLM", "CAUSAL_LM"),
        ("GPT2LMHeadModel", "CAUSAL_LM"),
        ("T5ForConditionalGeneration", "SEQ_2_SEQ_LM"),
        ("WhisperForConditionalGeneration", None),
        ("LlavaForConditionalGeneration", None),
        ("BertForSequenceClassification", "SEQ_CLS"),
        ("BertForTokenClassification", "TOKEN_CLS"),
        ("BertForQuestionAnswering", "QUESTION_ANS"),
        ("BertModel", None),
    ],
)
def test_tasks_by_architecture(architecture: str, task: str | None) -> None:
    assert task_type({"architectures": [architecture]}) == task


def test_no_architecture_is_no_task() -> None:
    assert task_type({}) is None


def test_peft_s_own_heads_are_matched_by_their_ends() -> None:
    known = ["distilbert", "pre_classifier", "classifier", "classifier.dense"]
    assert saved_by_task("SEQ_CLS", known) == ("classifier", "pre_classifier")
    assert saved_by_task("CAUSAL_LM", known) == saved_by_task(None, known) == ()
