"""Which matrices LoRA adapts: those that a pattern finds, whole or as the slices of a fused one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loratools.errors import UsageError
from loratools.patterns import Pattern, patterns_of_option
from loratools.reports.costs.architecture import Architecture, Parts
from loratools.reports.words import family

__all__ = ["Adapted", "Targets", "choose"]

MOST_MODULES = 1_000_000
"""Names that patterns are searched for in: the largest mixtures of experts have some 50,000."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """`count` matrices of (out, in) that get a pair of factors each, and the family that their names are."""

    name: str
    out: int
    into: int
    count: int


@dataclass(frozen=True)
class Targets:
    """The matrices to adapt, `choice` telling who chose them."""

    matrices: tuple[Adapted, ...]
    choice: str

    @property
    def count(self) -> int:
        return sum(one.count for one in self.matrices)

    @property
    def names(self) -> list[str]:
        """Their names inside a block, each once: `self_attn.q_proj`, `attn.c_attn.q`."""
        return list(dict.fromkeys(_short(one.name) for one in self.matrices))

    def parameters(self, rank: int) -> int:
        """Of LoRA at this rank: A is (r, in) and B (out, r) for each matrix (Hu et al. 2021, §4.1)."""
        return sum(one.count * rank * (one.out + one.into) for one in self.matrices)

    @property
    def largest_rank(self) -> int:
        """The rank above which no factorization of any of them is smaller than the matrix's own."""
        return max(min(one.out, one.into) for one in self.matrices)


def choose(
    architecture: Architecture, patterns: Sequence[str], *, given: bool, option: str = "--targets"
) -> Targets:
    """The matrices that the patterns find, searched for in module names; all linear layers without any.

    A pattern that finds a slice of a fused matrix (`c_attn.q`), but not the matrix, adapts that slice alone,
    as loralib's MergedLinear does.

    Args:
        patterns: regular expressions.
        given: whether the user asked for them; else they are the preset's, those of the paper.

    Raises:
        UsageError: a pattern is none, or finds no linear layer; the model has none at all.
    """
    if not architecture.matrices:
        raise UsageError("the model has no linear layers in blocks", file=architecture.name)
    if not patterns:
        found = [_adapted(part) for part in architecture.matrices]
        return Targets(_summed(found), "all linear layers of the blocks")
    compiled = patterns_of_option(patterns, option)
    count = sum(part.count for part in architecture.matrices)
    if count > MOST_MODULES:
        raise UsageError(
            f"{count:,} linear layers, more than the {MOST_MODULES:,} that patterns are searched for in",
            file=architecture.name,
        )
    for pattern in compiled:
        if not any(_found(part, [pattern]) for part in architecture.matrices):
            raise UsageError(
                f"{option} {pattern.pattern!r} finds no linear layer",
                file=architecture.name,
                hint=f"there are {', '.join(_available(architecture))}",
            )
    found = [one for part in architecture.matrices for one in _found(part, compiled)]
    return Targets(_summed(found), f"by {option}" if given else "as in the paper")


def _found(part: Parts, patterns: Iterable[Pattern]) -> list[Adapted]:
    """The matrix, in those layers where a pattern finds it, or the slices that one finds."""
    patterns = list(patterns)
    whole = sum(any(pattern.search(name) for pattern in patterns) for name in part.modules())
    if whole:
        return [_adapted(part, whole)]
    found = []
    for slice_name, rows in part.slices:
        count = sum(
            any(pattern.search(f"{name}.{slice_name}") for pattern in patterns) for name in part.modules()
        )
        if count:
            found.append(Adapted(f"{family(part.module)}.{slice_name}", rows, part.shape[1], count))
    return found


def _adapted(part: Parts, count: int | None = None) -> Adapted:
    return Adapted(family(part.module), part.shape[0], part.shape[1], part.count if count is None else count)


def _summed(found: Iterable[Adapted]) -> tuple[Adapted, ...]:
    """Those of one name and shape together, in the order in which they come."""
    counts: dict[tuple[str, int, int], int] = {}
    for one in found:
        key = (one.name, one.out, one.into)
        counts[key] = counts.get(key, 0) + one.count
    return tuple(Adapted(*key, count) for key, count in counts.items())


def _available(architecture: Architecture) -> list[str]:
    return list(dict.fromkeys(_short(family(part.module)) for part in architecture.matrices))


def _short(name: str) -> str:
    """What stands after the layer's number: `self_attn.q_proj`."""
    return name.partition("*.")[2] or name
