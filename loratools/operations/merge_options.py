"""The options of `merge` as types: words become what they mean at the operation's door, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from loratools.adapters.bind import Tied
from loratools.checkpoints.sizes import parse_size
from loratools.errors import UsageError
from loratools.operations.choices import choice


class OutputDtype(str, Enum):
    """The dtype of what is written: that of each base tensor, or one for all that is floating."""

    KEEP = "keep"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class RoundingMode(str, Enum):
    """Which of the two numbers of the output's dtype beside a sum is written: the nearest, or either by
    chance, so that the mean is the sum."""

    NEAREST = "nearest"
    STOCHASTIC = "stochastic"


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
        try:
            return cls(parse_size(text))
        except UsageError as error:
            raise UsageError(f"{text!r} is no shard size", hint="say keep, or a size such as 5GB") from error


@dataclass(frozen=True)
class MergeOptions:
    """What `merge` was asked for, beside its references."""

    dtype: OutputDtype
    shard_size: ShardSize
    tied: Tied
    allow_unmatched: bool
    allow_other_base: bool
    force: bool
    undo: bool = False
    rounding: RoundingMode = RoundingMode.NEAREST
    seed: int = 0

    @property
    def drawing_seed(self) -> int | None:
        """The seed of rounding by chance; None where it is to nearest."""
        return self.seed if self.rounding is RoundingMode.STOCHASTIC else None

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
        undo: bool = False,
        rounding: str = "nearest",
        seed: int = 0,
    ) -> MergeOptions:
        """The options that the words name. Raises UsageError where a word is unknown or the seed negative."""
        if seed < 0:
            raise UsageError(f"a seed of {seed} is negative", hint="use 0 or more")
        return cls(
            dtype=choice(OutputDtype, dtype, "dtype"),
            shard_size=ShardSize.parse(shard_size),
            tied=choice(Tied, tied, "tied"),
            allow_unmatched=allow_unmatched,
            allow_other_base=allow_other_base,
            force=force,
            undo=undo,
            rounding=choice(RoundingMode, rounding, "rounding"),
            seed=seed,
        )
