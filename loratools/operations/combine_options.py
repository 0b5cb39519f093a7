"""The options of `combine` as types: the methods, what each is made of, and what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from loratools.errors import UsageError
from loratools.operations.choices import choice

__all__ = ["CombineMethod", "CombineOptions", "Recipe", "Sparsity", "Subject"]


class CombineMethod(str, Enum):
    """How adapters become one, by PEFT's names."""

    CAT = "cat"
    LINEAR = "linear"
    SVD = "svd"
    TIES = "ties"
    TIES_SVD = "ties_svd"
    DARE_LINEAR = "dare_linear"
    DARE_TIES = "dare_ties"
    MAGNITUDE_PRUNE = "magnitude_prune"


class Subject(str, Enum):
    """What a method works on."""

    SUM = "the weighted sum, as a product"
    FACTORS = "A and B, each for itself"
    DENSE = "the updates, as dense matrices"


class Sparsity(str, Enum):
    """What is set to zero before anything is added."""

    NONE = "nothing"
    SMALLEST = "the smallest"
    RANDOM = "at random"


@dataclass(frozen=True)
class Recipe:
    """What a method is made of. `elects`: only entries of the elected sign are averaged."""

    subject: Subject
    sparsity: Sparsity = Sparsity.NONE
    elects: bool = False
    truncates: bool = False
    """Whether a rank is chosen."""


_RECIPES = {
    CombineMethod.CAT: Recipe(Subject.SUM),
    CombineMethod.SVD: Recipe(Subject.SUM, truncates=True),
    CombineMethod.LINEAR: Recipe(Subject.FACTORS),
    CombineMethod.TIES: Recipe(Subject.FACTORS, Sparsity.SMALLEST, elects=True),
    CombineMethod.TIES_SVD: Recipe(Subject.DENSE, Sparsity.SMALLEST, elects=True, truncates=True),
    CombineMethod.DARE_LINEAR: Recipe(Subject.FACTORS, Sparsity.RANDOM),
    CombineMethod.DARE_TIES: Recipe(Subject.FACTORS, Sparsity.RANDOM, elects=True),
    CombineMethod.MAGNITUDE_PRUNE: Recipe(Subject.FACTORS, Sparsity.SMALLEST),
}

_TRUNCATING = " or ".join(method.value for method, recipe in _RECIPES.items() if recipe.truncates)


@dataclass(frozen=True)
class CombineOptions:
    """What `combine` was asked for, beside its references and weights.

    `density` is None for the methods that prune nothing, `rank` for those that choose none, and for the
    others where it is the largest rank of the adapters.
    """

    method: CombineMethod
    density: float | None
    rank: int | None
    majority_sign_method: str
    seed: int

    @property
    def recipe(self) -> Recipe:
        return _RECIPES[self.method]

    @classmethod
    def of(
        cls, *, method: str, density: float | None, rank: int | None, majority_sign_method: str, seed: int
    ) -> CombineOptions:
        """The options that the words mean.

        Raises:
            UsageError: a word that is unknown, a number out of range, an option that the method does not
                take, or one that it needs.
        """
        chosen = choice(CombineMethod, method, "--method")
        signs = choice(_Signs, majority_sign_method, "--majority-sign-method")
        recipe = _RECIPES[chosen]
        if recipe.sparsity is Sparsity.NONE and density is not None:
            raise UsageError(f"--density is not for --method {chosen.value}, which prunes nothing")
        if recipe.sparsity is not Sparsity.NONE and density is None:
            raise UsageError(
                f"--method {chosen.value} needs --density, the share of values to keep",
                hint="such as --density 0.5",
            )
        if density is not None and not 0.0 < density <= 1.0:
            raise UsageError(f"--density is a share above 0 and at most 1, not {density}")
        if rank is not None and not recipe.truncates:
            raise UsageError(
                f"--rank is not for --method {chosen.value}",
                hint=f"choose a rank with --method {_TRUNCATING}",
            )
        if rank is not None and rank < 1:
            raise UsageError(f"--rank is at least 1, not {rank}")
        return cls(chosen, density, rank, signs.value, seed)

    def plain(self) -> dict[str, Any]:
        """The options that change the result, for the provenance."""
        return {
            "method": self.method.value,
            "density": self.density,
            "rank": self.rank,
            "majority_sign_method": self.majority_sign_method if self.recipe.elects else None,
            "seed": self.seed if self.recipe.sparsity is Sparsity.RANDOM else None,
        }


class _Signs(str, Enum):
    """The words of `linalg.task_arithmetic.MajoritySign`, known without numpy."""

    TOTAL = "total"
    FREQUENCY = "frequency"
