"""`Dora`: W' = m / ||W + s·B A|| ⊙ (W + s·B A), a low-rank direction with a magnitude of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from loratools.adapters.blocks import Vector, as_column, as_row, square_sums
from loratools.adapters.lowrank import LowRank
from loratools.adapters.update import Block, ReadRows, rows_of_block
from loratools.adapters.values import Values
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError


@dataclass(frozen=True)
class Dora:
    """Gives each output of `W + direction` the norm that the adapter holds for it.

    An output is a row of a weight stored (out, in), a column of one stored (in, out); of an embedding, stored
    (V, d), it is a column too, so that the norm goes over the vocabulary. Norms are summed in float64.

    Args:
        direction: s·B A, as it would be added without DoRA.
        magnitude: (out,), or (d,) for an embedding.
        stacked: whether another adapter changed the tensor before: the norms are still those of the weight
            that this adapter was trained on (as PEFT 0.21 has it), so they need a pass of their own.

    Source: Liu et al., "DoRA" (arXiv 2402.09353), section 4.3; PEFT 0.21.2, `DoraLinearVariant.merge_safe`.
    """

    direction: LowRank
    magnitude: Values
    stacked: bool = False
    _norms: list[Vector] = field(default_factory=list, compare=False, repr=False)

    kind = "dora"
    subtractable = False

    @property
    def sources(self) -> tuple[str, ...]:
        return (*self.direction.sources, self.magnitude.key)

    @property
    def rank(self) -> int:
        return self.direction.rank

    @property
    def scaling(self) -> float:
        return self.direction.scaling

    @property
    def parameters(self) -> int:
        return self.direction.parameters + self.magnitude.spec.elements

    def oriented(self, transposed: bool) -> Dora:
        """The update for a weight that is stored (in, out), or is not."""
        return replace(self, direction=self.direction.oriented(transposed), _norms=[])

    def after_others(self) -> Dora:
        """The update of a tensor that another adapter has changed before."""
        return replace(self, stacked=True, _norms=[])

    def weighted(self, weight: float) -> Dora:
        if weight != 1:
            raise LoratoolsError(
                f"a weight of {weight:g} cannot be given to DoRA: its magnitudes replace the base's",
                file=self.magnitude.spec.file,
                tensor=self.magnitude.key,
                hint="use weight 1",
            )
        return self

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """`before`. Raises LoratoolsError where the direction or the magnitudes do not fit."""
        after = self.direction.shape(before)
        outputs = after[1] if self.direction.transposed else after[0]
        if self.magnitude.shape != (outputs,):
            raise LoratoolsError(
                f"magnitudes of {self.magnitude.shape} do not fit a weight of {before}, which has {outputs}",
                file=self.magnitude.spec.file,
                tensor=self.magnitude.key,
            )
        return after

    def prepare(self, read: ReadRows[Block], spec: TensorSpec) -> None:
        """Sums the norms over the tensor in one pass, where a block alone does not have them."""
        if not (self.direction.transposed or self.stacked):
            return
        import numpy as np

        step = rows_of_block(spec)
        axis = 0 if self.direction.transposed else 1
        squares = [
            square_sums(self.direction.apply(read(first, min(step, spec.rows - first)), first), axis)
            for first in range(0, spec.rows, step)
        ]
        total = np.sum(squares, axis=0) if self.direction.transposed else np.concatenate(squares)
        self._norms[:] = [np.sqrt(total)]

    def apply(self, block: Block, first: int) -> Block:
        return self.scaled(block, first)[0]

    def scaled(self, block: Block, first: int) -> tuple[Block, Vector]:
        """The rows as `apply` gives them, and the factors of their outputs (of all, if these are columns)."""
        import numpy as np

        block = self.direction.apply(block, first)
        if self.direction.transposed:
            factor = self._factor(slice(None), self._prepared())
            block *= as_row(factor, block)
            return block, factor
        rows = slice(first, first + len(block))
        norms = self._prepared()[rows] if self.stacked else np.sqrt(square_sums(block, 1))
        factor = self._factor(rows, norms)
        block *= as_column(factor, block)
        return block, factor

    def norm(self) -> None:
        """None: what is added depends on the tensor."""

    def memory(self, spec: TensorSpec) -> int:
        return self.direction.memory(spec) + self.magnitude.memory(spec) + 16 * self.magnitude.spec.elements

    def release(self) -> None:
        self.direction.release()
        self.magnitude.release()

    def _prepared(self) -> Vector:
        if not self._norms:
            raise ValueError(f"{self.magnitude.key}: the update was not prepared")
        return self._norms[0]

    def _factor(self, outputs: slice, norms: Vector) -> Vector:
        """m / norm of some outputs, in float64."""
        nothing = int((norms == 0).sum())
        if nothing:
            raise LoratoolsError(
                f"W + s·BA is zero in {nothing} outputs, so that DoRA has no direction to scale",
                file=self.magnitude.spec.file,
                tensor=self.magnitude.key,
            )
        factor: Vector = self.magnitude.array()[outputs] / norms
        return factor

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_norms": []}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
