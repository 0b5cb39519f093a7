"""What `analyze` was given, told from headers: which question the references ask, and about what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.reference import SAMPLE, open_checkpoint, split_weight
from loratools.errors import UsageError

__all__ = ["AnalyzeInputs", "Mode", "open_references"]


class Mode(str, Enum):
    """What is asked, by what was named."""

    SIMILARITY = "similarity"
    """Two or more adapters: which directions they share."""
    SPECTRA = "spectra"
    """One adapter: its singular values."""
    ADAPTERS = "adapters"
    """A base and adapters: what these amplify in it."""
    PAIR = "pair"
    """A base and its fine-tune, perhaps with adapters: the change, and how much of it each adapter holds."""


@dataclass(frozen=True)
class AnalyzeInputs:
    """What was named, opened: base and fine-tune in this order, adapters in theirs.

    `ranks` are those asked for; None where there are none, or where they chose among the sample's adapters.
    """

    mode: Mode
    checkpoints: tuple[Checkpoint, ...]
    adapters: tuple[Checkpoint, ...]
    ranks: tuple[int, ...] | None


_SAMPLE_RANKS = (4, 8)
"""Of the sample's adapters, if nothing is named at all."""

_MODES: dict[tuple[int, int], Mode] = {
    (0, 1): Mode.SPECTRA,
    (0, 2): Mode.SIMILARITY,
    (1, 1): Mode.ADAPTERS,
    (1, 2): Mode.ADAPTERS,
    (2, 0): Mode.PAIR,
    (2, 1): Mode.PAIR,
    (2, 2): Mode.PAIR,
}
"""By the number of checkpoints and of adapters, two standing for more."""


def open_references(
    references: Sequence[str | os.PathLike[str]], ranks: tuple[int, ...] | None
) -> AnalyzeInputs:
    """Opens every reference and tells which question they ask.

    Without references, the ranks choose among the sample's adapters.

    Raises:
        UsageError: they ask none, one carries a weight, one of several adapters is named twice, or the sample
            has no adapter of a rank.
        LoratoolsError: one cannot be opened.
    """
    if not references:
        chosen = _sample_adapters(ranks or _SAMPLE_RANKS)
        return AnalyzeInputs(_MODES[0, min(len(chosen), 2)], (), chosen, None)
    opened = [_open(os.fspath(reference)) for reference in references]
    checkpoints = tuple(one for one in opened if one.kind is Kind.CHECKPOINT)
    adapters = tuple(one for one in opened if one.kind is Kind.ADAPTER)
    if len(checkpoints) > 2:
        raise UsageError(
            f"{len(checkpoints)} checkpoints were given",
            hint="name a base, its fine-tune, or both, and adapters after them",
        )
    mode = _MODES.get((len(checkpoints), min(len(adapters), 2)))
    if mode is None:
        raise UsageError(
            "one checkpoint alone has nothing to be compared with",
            file=checkpoints[0].reference,
            hint="name its fine-tune, or an adapter, after it",
        )
    _refuse_twice(mode, adapters)
    return AnalyzeInputs(mode, checkpoints, adapters, ranks)


def _open(written: str) -> Checkpoint:
    reference, weight = split_weight(written)
    if weight is not None:
        raise UsageError(
            "analyze takes no weights", file=written, hint=f"name {reference} alone: it is analysed as it is"
        )
    return open_checkpoint(reference)


def _refuse_twice(mode: Mode, adapters: Sequence[Checkpoint]) -> None:
    """Rows tell adapters apart by their references; one adapter beside itself is the one harmless case."""
    names = [one.reference for one in adapters]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None and not (mode is Mode.SIMILARITY and len(names) == 2):
        raise UsageError("the adapter is named twice", file=twice, hint="name each adapter once")


def _sample_adapters(ranks: Sequence[int]) -> tuple[Checkpoint, ...]:
    """The sample's adapters of these ranks; a rank named again is the next one of that rank.

    Raises:
        UsageError: it has none, or no more, of a rank.
    """
    from loratools import sample

    held: dict[int, list[Checkpoint]] = {}
    for name in sample.adapters():
        opened = open_checkpoint(SAMPLE + name)
        held.setdefault(opened.config["r"], []).append(opened)
    chosen = []
    left = {rank: list(adapters) for rank, adapters in held.items()}
    for rank in ranks:
        if not left.get(rank):
            raise UsageError(
                f"the sample has no adapter of rank {rank}"
                if rank not in held
                else f"the sample has only {len(held[rank])} of rank {rank}",
                hint="it has those of rank " + ", ".join(_named_ranks(held)),
            )
        chosen.append(left[rank].pop(0))
    return tuple(chosen)


def _named_ranks(held: dict[int, list[Checkpoint]]) -> list[str]:
    return [
        str(rank) if len(held[rank]) == 1 else f"{rank} ({len(held[rank])} seeds)" for rank in sorted(held)
    ]
