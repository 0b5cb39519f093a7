"""The options of `extract` as types, checked once, before anything is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from loratools.errors import UsageError
from loratools.linalg.choices import Fold, SvdMethod
from loratools.operations.choices import choice
from loratools.patterns import Pattern, patterns_of_option

DEFAULT_RANK = 16

FAILURE_PROBABILITY = 1e-6
"""Bound on the chance that any certificate of a run is wrong; its modules share it."""

NOISE_PROBABILITY = 1e-3
"""Chance that rounding alone exceeds the storage noise floor of any module; they share it."""

AUTO = "auto"
"""The word that takes the place of a rank: as many directions as stand above the storage noise."""


class Rest(str, Enum):
    """What becomes of changed tensors that are not factored."""

    SAVE = "save"
    DROP = "drop"
    REFUSE = "refuse"


class Unholdable(str, Enum):
    """What becomes of tensors that no adapter can hold."""

    REFUSE = "refuse"
    DROP = "drop"


class SaveDtype(str, Enum):
    """The dtype of the factors in the file."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class Truncation:
    """How a delta is cut off and stored: what a factoring job must know. One of the first three is set."""

    rank: int | None
    energy: float | None
    above_noise: bool
    """Keep what stands above the noise that rounding puts under the delta."""
    max_rank: int | None
    method: SvdMethod
    tolerance: float
    fold: Fold
    save_dtype: SaveDtype
    seed: int

    @property
    def chooses(self) -> bool:
        """Whether each module gets a rank of its own."""
        return self.rank is None


@dataclass(frozen=True)
class Selection:
    """Which modules are factored: those that a pattern of `targets` finds (all, if there is none) and none of
    `exclude` does. Patterns are searched for in the module's name in memory."""

    targets: tuple[Pattern, ...]
    exclude: tuple[Pattern, ...]

    def named(self, module: str) -> bool:
        """Whether a pattern of `targets` asks for the module by name."""
        return any(pattern.search(module) for pattern in self.targets) and not self.excluded(module)

    def excluded(self, module: str) -> bool:
        return any(pattern.search(module) for pattern in self.exclude)

    def includes(self, module: str) -> bool:
        return self.named(module) if self.targets else not self.excluded(module)


@dataclass(frozen=True)
class ExtractOptions:
    """What `extract` was asked for, beside its references."""

    truncation: Truncation
    selection: Selection
    rest: Rest
    unholdable: Unholdable
    base_name: str | None

    @classmethod
    def of(
        cls,
        *,
        rank: int | str | None,
        energy: float | None,
        max_rank: int | None,
        svd: str,
        tolerance: float,
        fold: str,
        save_dtype: str,
        targets: Sequence[str],
        exclude: Sequence[str],
        rest: str,
        unholdable: str,
        base_name: str | None,
        seed: int,
    ) -> ExtractOptions:
        """The options that the words mean; neither rank nor energy is rank 16, and a rank may be "auto".

        Raises:
            UsageError: a word that is unknown, a number out of range, a pattern that is no regular
                expression, or options that exclude one another.
        """
        fixed, above_noise = _rank(rank)
        _check_amount(fixed, energy, max_rank, above_noise=above_noise)
        if not 0.0 < tolerance < float("inf"):
            raise UsageError(f"--tolerance is a positive number, not {tolerance}")
        if base_name is not None and not base_name.strip():
            raise UsageError("--base-name is empty", hint="leave it out, or name a path or hub id")
        truncation = Truncation(
            rank=DEFAULT_RANK if rank is None and energy is None else fixed,
            energy=energy,
            above_noise=above_noise,
            max_rank=max_rank,
            method=choice(SvdMethod, svd, "--svd"),
            tolerance=tolerance,
            fold=choice(Fold, fold, "--fold"),
            save_dtype=choice(SaveDtype, save_dtype, "--save-dtype"),
            seed=seed,
        )
        return cls(
            truncation=truncation,
            selection=Selection(
                patterns_of_option(targets, "--targets"), patterns_of_option(exclude, "--exclude")
            ),
            rest=choice(Rest, rest, "--rest"),
            unholdable=choice(Unholdable, unholdable, "--unholdable"),
            base_name=base_name,
        )

    def plain(self) -> dict[str, Any]:
        """The options that change the result, for the provenance."""
        cut = self.truncation
        return {
            "rank": AUTO if cut.above_noise else cut.rank,
            "energy": cut.energy,
            "max_rank": cut.max_rank,
            "svd": cut.method.value,
            "tolerance": cut.tolerance,
            "fold": cut.fold.value,
            "save_dtype": cut.save_dtype.value,
            "seed": cut.seed,
            "targets": [pattern.pattern for pattern in self.selection.targets],
            "exclude": [pattern.pattern for pattern in self.selection.exclude],
            "rest": self.rest.value,
            "unholdable": self.unholdable.value,
            "failure_probability": FAILURE_PROBABILITY,
        }


def _rank(rank: int | str | None) -> tuple[int | None, bool]:
    """The fixed rank, if there is one, and whether the noise chooses."""
    if isinstance(rank, str):
        if rank != AUTO:
            raise UsageError(f"--rank is a number or {AUTO}, not {rank!r}")
        return None, True
    return rank, False


def _check_amount(rank: int | None, energy: float | None, max_rank: int | None, *, above_noise: bool) -> None:
    if (rank is not None or above_noise) and energy is not None:
        raise UsageError("--rank and --energy both say how much to keep", hint="give one of them")
    if rank is not None and rank < 1:
        raise UsageError(f"--rank is at least 1, not {rank}")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise UsageError(f"--energy is a share above 0 and at most 1, not {energy}")
    if max_rank is not None and max_rank < 1:
        raise UsageError(f"--max-rank is at least 1, not {max_rank}")
    if max_rank is not None and energy is None and not above_noise:
        raise UsageError(
            "--max-rank limits what --energy or --rank auto chooses",
            hint="give one of these, or --rank alone",
        )
