"""`Coverage`: the fate of every tensor of every input, so that nothing is ever skipped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from operator import attrgetter


class Action(str, Enum):
    """What happened, or will happen, to a tensor."""

    FACTORED = "factored"
    SAVED = "saved"
    MERGED = "merged"
    APPLIED = "applied"
    REPLACED = "replaced"
    ADDED = "added"
    COPIED = "copied"
    COMPARED = "compared"
    """Looked at beside its counterpart, by `analyze`, and no more."""
    CHECKED = "checked"
    """Read, by `verify`, and no more."""
    UNCHANGED = "unchanged"
    DROPPED = "dropped"
    REFUSED = "refused"
    PENDING = "pending"
    """In a plan only: the data must be read to tell."""


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """One tensor of one input (`base`, `tuned`, `adapter`, ...): what was done with it, and why."""

    input: str
    tensor: str
    action: Action
    reason: str
    bytes: int


@dataclass(frozen=True)
class Coverage:
    """Rows in the order (input, tensor); each tensor of each input stands there exactly once."""

    rows: tuple[CoverageRow, ...]

    @classmethod
    def of(cls, rows: Iterable[CoverageRow]) -> Coverage:
        """Sorts the rows. Raises ValueError (a bug, not a user's error) where a tensor stands there twice."""
        ordered = tuple(sorted(rows, key=attrgetter("input", "tensor")))
        for one, next_one in pairwise(ordered):
            if one.tensor == next_one.tensor and one.input == next_one.input:
                raise ValueError(f"{one.input} tensor {one.tensor} is covered twice")
        return cls(ordered)

    def __iter__(self) -> Iterator[CoverageRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def counts(self) -> dict[Action, int]:
        """How many tensors met each fate, in the order of `Action`."""
        present = Counter(row.action for row in self.rows)
        return {action: present[action] for action in Action if action in present}
