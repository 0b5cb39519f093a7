"""The options of `merge` as types: words become what they mean at the operation's door, and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from loratools.adapters.bind import Tied
from loratools.errors import UsageError
from loratools.operations.choices import choice


class OutputDtype(str, Enum):
    """The dtype of what is written: that of each base tensor, or one for all that is floating."""

    KEEP = "keep"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


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
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)")


@dataclass(frozen=True)
class ShardSize:
    """The most bytes of tensors in a shard; None keeps the shards as the base has them."""

    bytes: int | None

    @classmethod
    def parse(cls, text: str) -> ShardSize:
        """`keep`, or a size such as `5GB` (SI: 5 * 10^9) or `512MiB`.

        Raises:
            UsageError: the words are no size, or the size is less than a byte.
        """
        if text == "keep":
            return cls(None)
        match = _SIZE.fullmatch(text.strip())
        unit = _UNITS.get(match["unit"].upper()) if match else None
        if match is None or unit is None or float(match["number"]) * unit < 1:
            raise UsageError(f"{text!r} is no shard size", hint="say keep, or a size such as 5GB")
        return cls(int(float(match["number"]) * unit))


@dataclass(frozen=True)
class MergeOptions:
    """What `merge` was asked for, beside its references."""

    dtype: OutputDtype
    shard_size: ShardSize
    tied: Tied
    allow_unmatched: bool
    allow_other_base: bool
    force: bool

    @classmethod
    def parse(
        cls,
        *,
        dtype: str,
        shard_size: str,
        tied: str,
        allow_unmatched: bool,
        allow_other_base: bool,
        force: bool,
    ) -> MergeOptions:
        """The options that the words name. Raises UsageError where a word is unknown."""
        return cls(
            dtype=choice(OutputDtype, dtype, "dtype"),
            shard_size=ShardSize.parse(shard_size),
            tied=choice(Tied, tied, "tied"),
            allow_unmatched=allow_unmatched,
            allow_other_base=allow_other_base,
            force=force,
        )
