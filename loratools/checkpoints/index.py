"""Shard indexes: `*.index.json`, held against what the shards really contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loratools.checkpoints.claims import MAX_BYTES, check_name, inside
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import exists
from loratools.checkpoints.jsonfile import INDEX_BYTES, read_json
from loratools.checkpoints.spec import TensorSpec
from loratools.checkpoints.weightfile import Weights, open_weights
from loratools.errors import LoratoolsError

_ODD_CHARACTERS = frozenset("/\\:\0")
_LONGEST_NAME = 255
"""Characters of a file's name: no file system takes more."""


@dataclass(frozen=True)
class Index:
    """What an index promises: each tensor's shard, by file name, and perhaps the bytes of all tensors."""

    path: Path
    weight_map: Mapping[str, str]
    total_size: float | None


def read_index(path: Path) -> Index:
    """Parses an index; each shard must be named by a plain file name.

    Raises:
        LoratoolsError: no valid JSON, a key twice, no weight map, or a shard name that leaves the folder.
    """
    content = read_json(path, INDEX_BYTES)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LoratoolsError("the index has no weight_map", file=path)
    for name, shard in weight_map.items():
        check_name(name, path)
        named = isinstance(shard, str) and shard.isprintable() and len(shard) <= _LONGEST_NAME
        if not named or shard in ("", ".", ".."):
            raise LoratoolsError(f"{shard!r} names no shard", file=path, tensor=name)
        if _ODD_CHARACTERS & set(shard):
            raise LoratoolsError(f"the shard name {shard!r} leaves the folder", file=path, tensor=name)
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, (int, float)):  # an integer of any length is one to JSON, but no float
        total = float(max(-MAX_BYTES, min(total, MAX_BYTES)))
    return Index(path, weight_map, total if isinstance(total, float) else None)


def open_shards(path: Path) -> Weights:
    """Opens every shard that the index at `path` names, and holds the index against their headers.

    Raises:
        LoratoolsError: a shard is missing, broken, or linked from outside of the folder; a tensor stands in
            two shards, in none, in another one than the index says, or is not in the index.
    """
    index = read_index(path)
    shards = [_open_shard(index, name) for name in sorted(set(index.weight_map.values()))]
    tensors: dict[str, TensorSpec] = {}
    places: dict[str, str] = {}
    for shard in shards:
        file = shard.files[0].name
        for name in shard.tensors:
            if name in places:
                raise LoratoolsError(
                    f"a tensor in two shards, {places[name]} and {file}", file=path, tensor=name
                )
            places[name] = file
        tensors.update(shard.tensors)
    _check_promises(index, places)
    if len({shard.container for shard in shards}) > 1:
        raise LoratoolsError("some shards are safetensors and some are torch files", file=path)
    return Weights(
        shards[0].container,
        tensors,
        tuple(file for shard in shards for file in shard.files),
        shards[0].metadata,
        (*(warning for shard in shards for warning in shard.warnings), *_index_warnings(index, tensors)),
        tuple(mark for shard in shards for mark in shard.marks),
    )


def _open_shard(index: Index, name: str) -> Weights:
    shard = inside(index.path.parent / name, index.path.parent)
    with disk_errors(shard, "open"):
        missing = not exists(shard)
    if missing:
        raise LoratoolsError(
            f"the shard {name} is missing", file=index.path, hint="copy or download it again"
        )
    return open_weights(shard)


def _check_promises(index: Index, places: Mapping[str, str]) -> None:
    """Holds what the index says against the shards, by file name, in which tensors are."""
    for name, shard in index.weight_map.items():
        if name not in places:
            raise LoratoolsError(
                f"the index places a tensor in {shard}, but no shard has it", file=index.path, tensor=name
            )
        if places[name] != shard:
            raise LoratoolsError(
                f"the index places a tensor in {shard}, but it is in {places[name]}",
                file=index.path,
                tensor=name,
            )
    for name in sorted(places.keys() - index.weight_map.keys()):
        raise LoratoolsError(
            f"{places[name]} has a tensor that the index does not know",
            file=index.path,
            tensor=name,
        )


def _index_warnings(index: Index, tensors: Mapping[str, TensorSpec]) -> list[str]:
    total = sum(spec.bytes for spec in tensors.values())
    if index.total_size is None or index.total_size == total:
        return []
    return [f"{index.path.name}: total_size says {index.total_size:,.0f} bytes, the tensors have {total:,}"]
