"""The options of `analyze` as types, checked once, before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["AnalyzeOptions", "Directions", "SpectrumExtent"]


class Directions(str, Enum):
    """Whose singular directions stand for an adapter."""

    FACTOR = "factor"
    """Those of lora_A and of lora_B, each by itself, as the paper takes them (§7.2)."""
    PRODUCT = "product"
    """Those of B A, which do not depend on how a trainer split the product."""


class SpectrumExtent(str, Enum):
    """How many singular values of a delta are computed."""

    LEADING = "leading"
    FULL = "full"


@dataclass(frozen=True)
class AnalyzeOptions:
    """What `analyze` was asked for, beside its references; no ranks: each mode's own default."""

    ranks: tuple[int, ...] | None = None
    directions: Directions = Directions.FACTOR
    spectrum: SpectrumExtent = SpectrumExtent.LEADING
    amplification: bool = True
    seed: int = 0
