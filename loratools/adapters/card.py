"""The model card of an adapter: front matter that the hub reads, what the adapter is, and how to load it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loratools.checkpoints.files import write_text

__all__ = ["FILE", "Card", "write_card"]

FILE = "README.md"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}


EXTRACTED = (
    "Extracted by `loratools extract` from the difference between a full fine-tune and its base:",
    "each changed weight matrix as two factors, by a truncated SVD whose error was measured.",
    "`loratools.json` holds each module's rank, residual and bytes, and the hashes of both inputs.",
)


@dataclass(frozen=True)
class Card:
    """What the card tells. `vocabulary`: rows that the base must be resized to before the adapter loads."""

    base_name: str
    task: str | None
    architecture: str | None
    vocabulary: int | None
    facts: Sequence[tuple[str, str]]
    """Rows of the table: what, and how much."""
    notes: Sequence[str]
    how: Sequence[str] = EXTRACTED
    """Lines that tell how the adapter came to be."""

    def text(self) -> str:
        return "\n".join([*self._front_matter(), "", *self._body()]) + "\n"

    def _front_matter(self) -> list[str]:
        """`base_model` and its tag stand there only where the name is one that the hub can have."""
        known = _HUB_ID.fullmatch(self.base_name) is not None
        lines = ["---"]
        lines += [f"base_model: {self.base_name}"] if known else []
        lines += ["library_name: peft", "tags:"]
        lines += [f"- base_model:adapter:{self.base_name}"] if known else []
        return [*lines, "- lora", "- loratools", "---"]

    def _body(self) -> list[str]:
        table = ["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in self.facts)]
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return [
            f"# LoRA adapter of {_inline(self.base_name)}",
            "",
            *self.how,
            "",
            *table,
            *notes,
            "",
            "## How to load it",
            "",
            "```python",
            *self._code(),
            "```",
        ]

    def _code(self) -> list[str]:
        loader = _CLASSES.get(self.task or "") or self.architecture or "AutoModel"
        lines = [
            "from peft import PeftModel",
            f"from transformers import {loader}",
            "",
            f"model = {loader}.from_pretrained({self.base_name!r})",
        ]
        if self.vocabulary is not None:
            lines.append(f"model.resize_token_embeddings({self.vocabulary})  # the adapter has more tokens")
        return [*lines, 'model = PeftModel.from_pretrained(model, "this folder")']


def write_card(folder: Path, card: Card) -> None:
    write_text(folder / FILE, card.text())


def _inline(text: str) -> str:
    return f"`{text}`"
