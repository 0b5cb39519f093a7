"""The options of `resize` as types, checked once, before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass

from loratools.checkpoints.sizes import parse_size
from loratools.errors import UsageError

__all__ = ["ResizeOptions"]


@dataclass(frozen=True)
class ResizeOptions:
    """How much to keep: one of the three is set.

    `rank`: of every module, at most. `energy`: the share of each update's squared norm. `budget`: bytes of
    the whole output.
    """

    rank: int | None = None
    energy: float | None = None
    budget: int | None = None

    @classmethod
    def of(cls, *, rank: int | None, energy: float | None, budget: str | int | None) -> ResizeOptions:
        """The options that the words mean.

        Raises:
            UsageError: none or several say how much, or a number is out of range.
        """
        if sum(value is not None for value in (rank, energy, budget)) != 1:
            raise UsageError(
                "exactly one of --rank, --energy and --budget says how much to keep",
                hint="such as --rank 8, --energy 0.9 or --budget 20MB",
            )
        if rank is not None and rank < 1:
            raise UsageError(f"--rank is at least 1, not {rank}")
        if energy is not None and not 0.0 < energy <= 1.0:
            raise UsageError(f"--energy is a share above 0 and at most 1, not {energy}")
        return cls(rank, energy, None if budget is None else parse_size(str(budget)))

    @property
    def amount(self) -> str:
        """In words."""
        if self.energy is not None:
            return f"the least rank that keeps {self.energy:g} of the energy"
        return f"at most rank {self.rank}" if self.budget is None else f"{self.budget:,} bytes in all"

    def plain(self) -> dict[str, int | float | None]:
        """The options that change the result, for the provenance."""
        return {"rank": self.rank, "energy": self.energy, "budget": self.budget}
