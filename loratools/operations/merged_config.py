"""The config of a merged checkpoint: it follows the tensors (vocabulary, dtype, tied or not, a new head)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loratools.adapters.binding import Binding
from loratools.adapters.layers import Layer, layer_of
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError
from loratools.operations.merge_inputs import WeightedAdapter
from loratools.operations.merge_options import OutputDtype
from loratools.operations.rewrite_layout import Outgoing

_HEAD_CLASSES = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}
"""What transformers calls the classes that have the heads of PEFT's task types."""

_BASE_CLASSES = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining", "Model")
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "decoder")


@dataclass(frozen=True)
class MergedConfig:
    """The config that is to be written, what was changed in it, in words, and whether anything was."""

    content: dict[str, Any]
    changes: tuple[str, ...]


def merged_config(
    checkpoint: Checkpoint,
    tensors: Iterable[Outgoing],
    *,
    dtype: OutputDtype,
    binding: Binding,
    adapters: Iterable[WeightedAdapter],
) -> MergedConfig:
    """The base's config with what the output's tensors say in its place.

    Args:
        checkpoint: the base; without a config there is nothing to follow.
        tensors: all tensors of the output.
        dtype: the dtype of all floating tensors, or KEEP.
        binding: says what the tie of embedding and head has to become.
        adapters: say what task a new head is for.

    Raises:
        LoratoolsError: tensors that share the vocabulary's axis end with different lengths.
    """
    if not checkpoint.config:
        return MergedConfig({}, ())
    held = list(tensors)
    content: dict[str, Any] = copy.deepcopy(dict(checkpoint.config))
    changes: list[str] = []
    _follow_vocabulary(content, held, checkpoint, changes)
    _follow_dtype(content, dtype, changes)
    _follow_tie(content, binding.tie_word_embeddings, changes)
    _follow_head(content, held, [one.adapter.task for one in adapters], changes)
    return MergedConfig(content, tuple(changes))


def _follow_vocabulary(
    content: dict[str, Any], tensors: list[Outgoing], checkpoint: Checkpoint, changes: list[str]
) -> None:
    """`vocab_size` where embeddings and heads of that many rows have another number of them now."""
    for owner in _levels(content):
        before = owner.get("vocab_size")
        if not isinstance(before, int) or isinstance(before, bool):
            continue
        lengths = {
            tensor.name: tensor.shape[0]
            for tensor in tensors
            if _has_a_row_a_token(_before(tensor, checkpoint), before, checkpoint)
        }
        others = sorted(name for name, rows in lengths.items() if rows != before)
        if not others:
            continue
        rows = lengths[others[0]]
        for name, its_rows in sorted(lengths.items()):
            if its_rows != rows:
                raise LoratoolsError(
                    f"it would have {its_rows} rows, and {others[0]} {rows}: a vocabulary has one size",
                    tensor=name,
                    hint="the adapter must hold both, or the pair must be tied",
                )
        owner["vocab_size"] = rows
        changes.append(f"vocab_size {before} -> {rows}")


def _before(tensor: Outgoing, checkpoint: Checkpoint) -> TensorSpec | None:
    """The tensor in the base, by its name, else what it starts from."""
    return checkpoint.tensors.get(tensor.name) or tensor.source


def _has_a_row_a_token(spec: TensorSpec | None, vocabulary: int, checkpoint: Checkpoint) -> bool:
    if spec is None or len(spec.shape) != 2 or spec.shape[0] != vocabulary:
        return False
    return layer_of(spec.name, spec, checkpoint.config).layer in (Layer.EMBEDDING, Layer.HEAD)


def _follow_dtype(content: dict[str, Any], dtype: OutputDtype, changes: list[str]) -> None:
    if dtype is OutputDtype.KEEP:
        return
    for place, owner in enumerate(_all_levels(content)):
        keys = [key for key in ("dtype", "torch_dtype") if key in owner]
        if not keys and place == 0:
            keys = ["torch_dtype"]
        for key in keys:
            if owner.get(key) != dtype.value:
                owner[key] = dtype.value
                changes.append(f"{key} -> {dtype.value}")


def _follow_tie(content: dict[str, Any], tied: bool | None, changes: list[str]) -> None:
    if tied is None:
        return
    owners = [owner for owner in _levels(content) if "tie_word_embeddings" in owner] or [content]
    for owner in owners:
        if owner.get("tie_word_embeddings") != tied:
            owner["tie_word_embeddings"] = tied
            changes.append(f"tie_word_embeddings -> {str(tied).lower()}")


def _follow_head(
    content: dict[str, Any], tensors: list[Outgoing], task_types: Iterable[str | None], changes: list[str]
) -> None:
    """The class and the number of labels, where an adapter brought the head of another task."""
    suffix = next((_HEAD_CLASSES[task] for task in task_types if task in _HEAD_CLASSES), None)
    heads = [tensor for tensor in tensors if tensor.source is None and len(tensor.shape) == 2]
    classes = content.get("architectures")
    if suffix is None or not heads or not isinstance(classes, list) or len(classes) != 1:
        return
    name = str(classes[0])
    for ending in _BASE_CLASSES:
        if name.endswith(ending):
            content["architectures"] = [name.removesuffix(ending) + suffix]
            changes.append(f"architectures -> {content['architectures'][0]}")
            labels = heads[-1].shape[0]
            if not isinstance(content.get("id2label"), Mapping) or len(content["id2label"]) != labels:
                content["id2label"] = {str(n): f"LABEL_{n}" for n in range(labels)}
                content["label2id"] = {f"LABEL_{n}": n for n in range(labels)}
                changes.append(f"labels -> {labels}")
            return


def _levels(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The config and its text model's own, where it is one of several models in one."""
    inner = [content[key] for key in _TEXT_CONFIGS if isinstance(content.get(key), dict)]
    return [content, *inner]


def _all_levels(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The config and every model's config in it."""
    inner = [
        value for key, value in sorted(content.items()) if key.endswith("_config") and isinstance(value, dict)
    ]
    return [content, *inner]
