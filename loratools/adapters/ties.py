"""Finds the tied tensors of a checkpoint: a tied head is mostly not written, so names tell only half."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from loratools.adapters.layers import Layer, LayerGuess, Layers
from loratools.adapters.names import NameMap
from loratools.adapters.tied import Tie
from loratools.adapters.tying import declared_tied, embedding_copies, input_embedding, output_head
from loratools.checkpoints.checkpoint import Checkpoint


def find_ties(
    checkpoint: Checkpoint, names: NameMap, touched: Iterable[str] = (), *, layers: Layers | None = None
) -> tuple[Tie, ...]:
    """The tied tensors of a checkpoint, told from its config, its architecture and which names it lacks.

    Where embedding and head both stand on disk the config decides, or what its silence means for the model
    type; where one does, the other is tied to it, if the architecture has a head at all: there is nothing
    else that it could be. `touched` are core names that adapters know, for an embedding which is not on disk;
    `layers` are the checkpoint's, if they were looked at before.
    """
    config = checkpoint.config
    declared = declared_tied(config)
    if declared is False:
        return ()
    layers = layers or Layers(config)
    found = {names.core(name): layers.of(names.memory(name), spec) for name, spec in checkpoint.items()}
    on_disk = [_module(name) for name in _weights(found, Layer.EMBEDDING)]
    embedding = input_embedding(on_disk) or input_embedding(_module(name) for name in touched)
    if embedding is None:
        return ()
    head = _head(checkpoint, names, f"{embedding}.weight", _weights(found, Layer.HEAD), declared)
    copies = embedding_copies(embedding, {_module(name) for name in found})
    groups = [[embedding, *copies, *([head] if head else [])]]
    members = [[f"{module}.weight" for module in group] for group in groups if len(group) > 1]
    if head is not None and head.endswith(".decoder"):
        members.append([f"{head.removesuffix('.decoder')}.bias", f"{head}.bias"])
    return tuple(tie for group in members if (tie := _tie(checkpoint, names, group)) is not None)


def _head(
    checkpoint: Checkpoint, names: NameMap, embedding: str, heads: list[str], declared: bool | None
) -> str | None:
    """The module that is tied to the embedding, by core name."""
    disk = names.disk(embedding)
    shape = checkpoint[disk].shape if disk is not None else None
    alike = [name for name in heads if shape is None or checkpoint[names.disk(name) or ""].shape == shape]
    if len(alike) != 1:
        absent = output_head(checkpoint.config)
        return absent if absent is not None and names.disk(f"{absent}.weight") is None else None
    by_default = str(checkpoint.config.get("model_type")) not in _UNTIED_BY_DEFAULT
    tied = disk is None or (by_default if declared is None else declared)
    return _module(alike[0]) if tied else None


def _tie(checkpoint: Checkpoint, names: NameMap, members: Sequence[str]) -> Tie | None:
    stored = {name: checkpoint[disk] for name in members if (disk := names.disk(name)) is not None}
    return Tie(tuple(members), stored) if stored else None


def _weights(layers: Mapping[str, LayerGuess], layer: Layer) -> list[str]:
    return [name for name, guess in layers.items() if guess.layer is layer and name.endswith(".weight")]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


_UNTIED_BY_DEFAULT = frozenset(
    [
        *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi", "phi3", "glm"),
        *("gptj", "gpt_neox", "granite", "olmo", "olmo2", "stablelm", "deepseek_v2", "deepseek_v3", "glm4"),
        *("codegen", "mamba2", "nemotron", "reformer", "rembert", "rwkv", "persimmon", "helium", "gpt_oss"),
    ]
)
"""Model types whose config, where it says nothing, means untied (transformers 5.24)."""
