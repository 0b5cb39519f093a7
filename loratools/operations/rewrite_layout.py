"""Where every tensor of a rewritten checkpoint goes: which shard, under which name, at which offset."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from loratools.adapters.update import Update
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.parts import SafetensorsLayout, stored_bytes
from loratools.checkpoints.provenance import HEADER_KEY
from loratools.checkpoints.spec import TensorSpec

_NUMBERED = re.compile(r"(?P<stem>.+)-\d{5,}-of-\d{5,}\.safetensors")
_TORCH = re.compile(r"pytorch_model(?P<number>-\d+-of-\d+)?\.bin")


@dataclass(frozen=True)
class Outgoing:
    """A tensor of the output. `source` is the input's tensor that it starts from: of another name where a
    tied tensor is written apart, None where it is new."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: TensorSpec | None
    updates: tuple[Update, ...] = ()

    @property
    def bytes(self) -> int:
        return stored_bytes(self.dtype, self.shape)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def touched(self) -> bool:
        """Whether more than a copy of the source's bytes is to be made."""
        return bool(self.updates) or self.source is None or self.source.dtype != self.dtype


@dataclass(frozen=True)
class Shard:
    """A weight file of the output: its name, its tensors, and its layout."""

    file: str
    tensors: tuple[Outgoing, ...]
    layout: SafetensorsLayout

    def place(self, tensor: Outgoing) -> TensorSpec:
        """Where the tensor is written; the file is relative to the output's folder."""
        return self._specs[tensor.name]

    @cached_property
    def _specs(self) -> dict[str, TensorSpec]:
        path, places = Path(self.file), self.layout.places
        return {
            tensor.name: TensorSpec(
                tensor.name,
                tensor.dtype,
                tensor.shape,
                places[tensor.name].bytes,
                path,
                places[tensor.name].offset,
            )
            for tensor in self.tensors
        }


def shards_as_they_are(checkpoint: Checkpoint, tensors: Sequence[Outgoing]) -> dict[str, list[Outgoing]]:
    """Tensors by file name, as the checkpoint has them; torch files under the names that safetensors have.

    What the checkpoint does not have goes into the file of the tensor that it starts from, or into the last.
    """
    names = {file: shard_name(checkpoint, file) for file in checkpoint.shards}
    last = checkpoint.shards[-1]
    shards: dict[str, list[Outgoing]] = {names[file]: [] for file in checkpoint.shards}
    for tensor in tensors:
        own = checkpoint.tensors.get(tensor.name) or tensor.source
        shards[names[own.file if own is not None else last]].append(tensor)
    return {file: held for file, held in shards.items() if held}


def shard_name(checkpoint: Checkpoint, file: Path) -> str:
    """What a weight file of the checkpoint is called in an output of safetensors."""
    if not checkpoint.is_folder:
        return "model.safetensors"
    torch_name = _TORCH.fullmatch(file.name)
    if torch_name:
        return f"model{torch_name['number'] or ''}.safetensors"
    return file.with_suffix(".safetensors").name


def shards_by_size(
    checkpoint: Checkpoint, tensors: Sequence[Outgoing], limit: int
) -> dict[str, list[Outgoing]]:
    """Tensors by file name, in the order in which the checkpoint stores them, at most `limit` bytes a file.

    A tensor that is larger has a file of its own.
    """
    held: list[list[Outgoing]] = []
    room = 0
    for tensor in _in_stored_order(checkpoint, tensors):
        if not held or tensor.bytes > room:
            held.append([])
            room = limit
        held[-1].append(tensor)
        room -= tensor.bytes
    stem = _stem(shard_name(checkpoint, checkpoint.shards[0]))
    if len(held) == 1:
        return {f"{stem}.safetensors": held[0]}
    return {f"{stem}-{n:05d}-of-{len(held):05d}.safetensors": shard for n, shard in enumerate(held, 1)}


def laid_out(shards: Mapping[str, Sequence[Outgoing]], metadata: Mapping[str, str]) -> tuple[Shard, ...]:
    """The shards with their layouts; `metadata` goes into each header.

    Raises:
        LoratoolsError: a tensor has a dtype that safetensors has no word for.
    """
    return tuple(
        Shard(
            file,
            tuple(tensors),
            SafetensorsLayout.of(((tensor.name, tensor.dtype, tensor.shape) for tensor in tensors), metadata),
        )
        for file, tensors in shards.items()
    )


def header_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What the input's headers say, to be said again: all but the provenance, which is the input's own."""
    return {key: value for key, value in checkpoint.metadata.items() if key != HEADER_KEY}


def index_of(shards: Sequence[Shard]) -> tuple[str, dict[str, object]] | None:
    """(name, content) of the index; None where one file under a plain name needs none."""
    if len(shards) == 1 and not _NUMBERED.fullmatch(shards[0].file):
        return None
    weight_map = {tensor.name: shard.file for shard in shards for tensor in shard.tensors}
    total = sum(tensor.bytes for shard in shards for tensor in shard.tensors)
    content: dict[str, object] = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return f"{_stem(shards[0].file)}.safetensors.index.json", content


def readable(spec: TensorSpec) -> TensorSpec:
    """The spec as one that can be copied: a dtype that nothing here computes with becomes so many bytes."""
    from loratools.checkpoints.spec import ITEM_BYTES

    return spec if spec.dtype in ITEM_BYTES else replace(spec, dtype="uint8", shape=(spec.bytes,))


def _in_stored_order(checkpoint: Checkpoint, tensors: Iterable[Outgoing]) -> list[Outgoing]:
    order = {file: place for place, file in enumerate(checkpoint.shards)}

    def key(tensor: Outgoing) -> tuple[int, int, str]:
        own = checkpoint.tensors.get(tensor.name) or tensor.source
        return (len(order), 0, tensor.name) if own is None else (order[own.file], own.offset, tensor.name)

    return sorted(tensors, key=key)


def _stem(file: str) -> str:
    match = _NUMBERED.fullmatch(file)
    return match["stem"] if match else file.removesuffix(".safetensors")
