"""What a rewritten checkpoint weighs beside its weights, told from headers: texts and an undo record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.operations.rewrite_layout import Shard, index_of

__all__ = ["json_text", "most_in_provenance", "most_in_texts", "undo_bytes"]

_ROOT_LINE = 82
"""Bytes of a line that holds a hash, without the name: indent, quotes, 64 digits."""

_ROW = 460
"""At most those of a changed tensor's row, without the names."""

_FRAME = 4096
"""At most those of all else in a provenance: options, a few words on each input."""

_KEPT_SHARE = 0.012
"""Of the weights that a merge changes, what rounding to 16 bits loses of them (measured, rank 16)."""


def json_text(content: Mapping[str, object]) -> str:
    """An index or a config as it is written."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def most_in_texts(
    inputs: Sequence[Checkpoint],
    shards: Sequence[Shard],
    config: Mapping[str, object] | None,
    files: Iterable[str],
) -> int:
    """Bytes of the index and the config, which are exact, and of the provenance at most."""
    index = index_of(shards)
    exact = sum(len(json_text(one).encode()) for one in (index and index[1], config) if one is not None)
    return exact + most_in_provenance(inputs, shards, files)


def most_in_provenance(inputs: Sequence[Checkpoint], shards: Sequence[Shard], files: Iterable[str]) -> int:
    """At most what `loratools.json` takes: only the digits of figures are not known beforehand."""
    read = (name for one in inputs for name in one)
    written = (tensor.name for shard in shards for tensor in shard.tensors)
    covered = (*files, *(shard.file for shard in shards))
    lines = sum(_ROOT_LINE + _length(name) for names in (read, written, covered) for name in names)
    changed = (tensor for shard in shards for tensor in shard.tensors if tensor.touched)
    rows = sum(_ROW + 2 * _length(tensor.name) for tensor in changed)
    return _FRAME + len(inputs) * 300 + lines + rows


def undo_bytes(adapters: Sequence[Checkpoint], shards: Sequence[Shard]) -> int:
    """About what an undo record takes: the adapters' factors, and what rounding loses of each weight."""
    changed = sum(tensor.bytes for shard in shards for tensor in shard.tensors if tensor.updates)
    return sum(one.bytes for one in adapters) + round(_KEPT_SHARE * changed)


def _length(name: str) -> int:
    """Bytes of a name as JSON has it, where everything beyond ASCII is escaped."""
    return len(name) if name.isascii() else 6 * len(name)
