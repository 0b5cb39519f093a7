"""Which modules share the input embedding's weight in memory: a checkpoint on disk may hold any of them once.

Files tell only half of it (a tied head is usually not written), so the other half is told by the config and
by the class that `architectures` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from loratools.adapters.layers import config_values

__all__ = ["declared_tied", "embedding_copies", "input_embedding", "output_head"]

_INPUT_EMBEDDINGS = (
    "shared",
    "embed_tokens",
    "wte",
    "word_embeddings",
    "embed_in",
    "tok_embeddings",
    "tokens_embed",
    "embeddings",
    "embedding",
)
"""Names of the module that holds one row a token, the likelier first."""

_HEADS: tuple[tuple[re.Pattern[str], str | None], ...] = tuple(
    (re.compile(pattern), head)
    for pattern, head in (
        (r"(?<!Distil)(?<!Mo)Bert(ForMaskedLM|LMHeadModel|ForPreTraining)$", "cls.predictions.decoder"),
        (
            r"^(Deberta\w*|BigBird|LayoutLM)(ForMaskedLM|ForCausalLM|ForPreTraining)$",
            "cls.predictions.decoder",
        ),
        (r"^(Roberta|XLMRoberta\w*|Camembert|Longformer|Data2VecText|MPNet|Esm)For", "lm_head.decoder"),
        (r"^DistilBertForMaskedLM$", "vocab_projector"),
        (r"^(ConvBert|Electra)ForMaskedLM$", "generator_lm_head"),
        (r"^Albert(ForMaskedLM|ForPreTraining)$", "predictions.decoder"),
        (r"^ModernBertForMaskedLM$", "decoder"),
        (r"^WhisperFor", "proj_out"),
        (r"(ForCausalLM|LMHeadModel|ForConditionalGeneration|ForImageTextToText)$", "lm_head"),
    )
)
_MASKED_HEADS = re.compile(r"(ForMaskedLM|ForCausalLM|LMHeadModel|ForPreTraining)$")


def input_embedding(modules: Iterable[str]) -> str | None:
    """The module that holds one row a token, among a model's embeddings; None if none is known."""
    by_name = {name.rpartition(".")[2]: name for name in sorted(modules, reverse=True)}
    return next((by_name[name] for name in _INPUT_EMBEDDINGS if name in by_name), None)


def output_head(config: Mapping[str, Any]) -> str | None:
    """The module that gives one value a token, by the name of the class; None where it has none."""
    names = [str(name) for names in config_values(config, "architectures") for name in names]
    for pattern, head in _HEADS:
        if names and pattern.search(names[0]):
            only_language_models = head == "lm_head.decoder" and not _MASKED_HEADS.search(names[0])
            return None if only_language_models else head
    return None


def declared_tied(config: Mapping[str, Any]) -> bool | None:
    """What the config says on embedding and head; None where it says nothing (each class has its default)."""
    value = config.get("tie_word_embeddings")
    if value is None:
        value = next(config_values(config, "tie_word_embeddings"), None)
    return None if value is None else bool(value)


def embedding_copies(embedding: str, modules: Iterable[str]) -> tuple[str, ...]:
    """The embeddings of encoder and decoder that share the weight of `shared` in T5, BART and their kin.

    Args:
        embedding: the input embedding's module.
        modules: names of the model's modules, by which it is told whether there is an encoder and a decoder.
    """
    before, _, name = embedding.rpartition(".")
    if name != "shared":
        return ()
    prefix = f"{before}." if before else ""
    known = set(modules)
    sides = [f"{prefix}{side}" for side in ("decoder", "encoder")]
    return tuple(f"{side}.embed_tokens" for side in sides if any(m.startswith(f"{side}.") for m in known))
