"""Which tensor goes into which file: a plan of shards, their names, and the index that lists them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loratools.checkpoints.parts import Entry, SafetensorsLayout, stored_bytes
from loratools.errors import UsageError

INDEX_SUFFIX = ".safetensors.index.json"

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """One weight file of an output: its name and its tensors, in the order in which they were given."""

    file: str
    entries: tuple[Entry, ...]

    def layout(self, metadata: Mapping[str, str] | None = None) -> SafetensorsLayout:
        return SafetensorsLayout.of(self.entries, metadata)

    @property
    def bytes(self) -> int:
        """Bytes of the tensors, without the header."""
        return sum(stored_bytes(dtype, shape) for _, dtype, shape in self.entries)


@dataclass(frozen=True)
class ShardPlan:
    """The weight files of an output. `index_file` is the name of their index: None for a single file."""

    shards: tuple[Shard, ...]
    index_file: str | None

    def index(self) -> dict[str, Any]:
        """The index as transformers and diffusers read it: tensor -> file, and the tensors' total bytes."""
        files = {name: shard.file for shard in self.shards for name, _, _ in shard.entries}
        total = sum(shard.bytes for shard in self.shards)
        return {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}


def shard_plan(entries: Iterable[Entry], max_bytes: int | None, *, stem: str = "model") -> ShardPlan:
    """Fills shards with tensors in the order given, each up to `max_bytes` of tensors.

    A tensor that is larger than that gets a shard of its own; None puts all into one file, which is called
    `model.safetensors` and has no index. Shards are called `model-00001-of-00002.safetensors`.
    """
    groups: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        size = stored_bytes(entry[1], entry[2])
        if max_bytes is not None and groups[-1] and filled + size > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += size
    if len(groups) == 1:
        return ShardPlan((Shard(f"{stem}.safetensors", tuple(groups[0])),), None)
    shards = (
        Shard(f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, start=1)
    )
    return ShardPlan(tuple(shards), stem + INDEX_SUFFIX)


def parse_size(text: str) -> int:
    """`5GB` -> 5,000,000,000 bytes; KB to TB are powers of 1000, KiB to TiB of 1024, no unit is bytes.

    Raises:
        UsageError: not a size, or less than a byte.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise UsageError(f"{text!r} is no size", hint="write it like 5GB, 500MB or 2GiB")
    whole, _, fraction = match[1].partition(".")
    size: int = int(whole + fraction) * unit // 10 ** len(fraction)
    if size < 1:
        raise UsageError(f"{text!r} is less than a byte", hint="write it like 5GB, 500MB or 2GiB")
    return size
