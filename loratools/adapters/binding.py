"""`Binding`: which updates go to which tensor on disk, settled before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loratools.adapters.update import Update
from loratools.checkpoints.spec import TensorSpec


@dataclass(frozen=True)
class Adapter:
    """An adapter as a format's reader understood it, not yet bound to a checkpoint.

    `updates` maps a *parameter's name in memory* (as PEFT and transformers say it, with the parameter:
    `model.layers.0.self_attn.q_proj.weight`) to the updates of it, in order. `sources` are all keys of the
    file; `ignored` those that are known to mean nothing, with the reason. `new_modules` are modules that it
    saved in full, so that the base may lack them (a task's head); `keeps_ties` whether it was trained with
    tied modules tied; `transposed_flag` what its config says of weights stored (in, out), which may be wrong.
    """

    name: str
    rank: int | None
    alpha: float | None
    updates: Mapping[str, tuple[Update, ...]]
    sources: Mapping[str, TensorSpec]
    ignored: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    base_name: str | None = None
    warnings: tuple[str, ...] = ()
    task: str | None = None
    new_modules: tuple[str, ...] = ()
    keeps_ties: bool = False
    transposed_flag: bool | None = None


@dataclass(frozen=True)
class BoundTensor:
    """A tensor that updates go to. `source` is the tensor on disk that it starts from: None where it has none
    yet (an untied head, a new head), or another tensor's spec where a tied one is written apart. `updates`
    are in the order of the adapters given."""

    name: str
    source: TensorSpec | None
    updates: tuple[Update, ...]


@dataclass(frozen=True)
class Binding:
    """Everything that `bind` settled.

    `tensors` are those that change or are added, by name on disk. `unmatched` are the (adapter, key) that
    found no tensor; `idle` those, with the reason, that change nothing: they say what another key of a tied
    pair says, or hold the base's own values.
    `pending`, of a dry run only, are the (adapter, key) of which their values will tell what they do, and
    `pending_tensors` the names on disk of tensors that depend on it, both with the reason.
    `tie_word_embeddings` is what the config's tie has to become (None: leave it). `decisions` is what was
    decided that the user should know, `warnings` what may not be as they think.
    """

    tensors: Mapping[str, BoundTensor]
    unmatched: tuple[tuple[str, str], ...] = ()
    idle: Mapping[tuple[str, str], str] = field(default_factory=dict)
    pending: Mapping[tuple[str, str], str] = field(default_factory=dict)
    pending_tensors: Mapping[str, str] = field(default_factory=dict)
    tie_word_embeddings: bool | None = None
    decisions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
