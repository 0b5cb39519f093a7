"""From a transformers config.json to an `Architecture`, without weights and without transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loratools.errors import LoratoolsError
from loratools.reports.costs.architecture import Architecture
from loratools.reports.costs.families.llama import Traits, like_llama
from loratools.reports.costs.families.register import FAMILIES, Family
from loratools.reports.costs.fields import Fields

__all__ = ["architecture_of"]

_STANDARD = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
"""What a decoder built like Llama cannot do without."""

_UNUSUAL = (
    "expert",
    "lora_rank",
    "conv",
    "ssm",
    "mamba",
    "state_size",
    "linear_attention",
    "rwkv",
    "codebook",
)
"""Parts of a field's name that tell of parameters beyond attention and feed-forward."""


def architecture_of(
    config: Mapping[str, Any], *, name: str, source: str, file: str | os.PathLike[str] | None = None
) -> Architecture:
    """The model that a config describes.

    A model_type that is not known is counted like Llama where the standard fields are there and nothing tells
    of more, with a note that says so; a config of several models is counted by its language model alone.

    Args:
        config: the JSON object.
        name, source: what to call the model, and where its numbers come from.
        file: where it was read, for errors.

    Raises:
        LoratoolsError: the config is not a model's, lacks a field, or is of a kind that is not known here.
    """
    nested = config.get("text_config")
    kind = config.get("model_type")
    if not (isinstance(kind, str) and kind in FAMILIES) and isinstance(nested, Mapping):
        alone = {**nested, "text_config": None}
        made = architecture_of(alone, name=name, source=source, file=file)
        note = f"{kind}: only its language model ({made.model_type}) is counted"
        return replace(made, notes=(*made.notes, note))
    if not isinstance(kind, str):
        raise LoratoolsError(
            "the config has no model_type", file=file, hint="give a config.json as transformers writes it"
        )
    fields = Fields(config, file)
    family, notes = _family(kind, fields)
    shape = family.build(fields)
    if shape.layers < 1 or shape.hidden < 1:
        what = "no layers" if shape.layers < 1 else f"layers of hidden size {shape.hidden}"
        raise LoratoolsError(f"the config describes {what}", file=file)
    return Architecture(
        name=name,
        source=source,
        model_type=kind,
        layers=shape.layers,
        hidden=shape.hidden,
        parts=tuple(shape.inventory.parts),
        heads=shape.heads,
        key_value_heads=shape.key_value_heads,
        key_value_width=shape.key_value_width,
        feed_forward=shape.feed_forward,
        vocabulary=shape.vocabulary,
        positions=shape.positions,
        experts=shape.experts,
        prefixed_layers=shape.prefixed_layers,
        tied=shape.tied,
        norm_biases=shape.norm_biases,
        dtype=_dtype(fields),
        counted=family.counted,
        notes=(*shape.notes, *notes),
    )


def _family(kind: str, fields: Fields) -> tuple[Family, tuple[str, ...]]:
    """How the model_type is counted, and what to know of that."""
    family = FAMILIES.get(kind)
    if family is None:
        return _like_llama(kind, fields)
    for field, value in (family.only or {}).items():
        if fields.config.get(field, value) != value:
            raise LoratoolsError(
                f"a {kind} with {field} {fields.config[field]!r} cannot be counted from its config yet",
                file=fields.file,
                hint="give a checkpoint: its headers are counted exactly",
            )
    return family, ()


def _like_llama(kind: str, fields: Fields) -> tuple[Family, tuple[str, ...]]:
    """The guess for a model_type that is not known, where its fields allow one."""
    hint = "give a checkpoint: its headers are counted exactly"
    missing = [name for name in _STANDARD if fields.config.get(name) is None]
    if missing:
        raise LoratoolsError(
            f"the model_type {kind!r} is not known, and the config has no {', '.join(missing)}",
            file=fields.file,
            hint=hint,
        )
    odd = sorted(
        name for name, value in fields.config.items() if value and any(word in name for word in _UNUSUAL)
    )
    if odd:
        raise LoratoolsError(
            f"the model_type {kind!r} is not known, and its config tells of more than attention and "
            f"feed-forward ({', '.join(odd[:3])})",
            file=fields.file,
            hint=hint,
        )
    guess = f"the model_type {kind!r} is not known: counted as if it were built like Llama"
    return Family(like_llama(Traits("")), f"a guess for {kind}"), (guess,)


_DTYPES = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}


def _dtype(fields: Fields) -> str | None:
    return _DTYPES.get(fields.text("dtype") or fields.text("torch_dtype"))
