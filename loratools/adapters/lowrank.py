"""`LowRank`: W + s·B A, the update that every low-rank format comes down to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loratools.adapters.blocks import add_product
from loratools.adapters.update import Block, ReadRows
from loratools.adapters.values import Values
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError


@dataclass(frozen=True)
class LowRank:
    """Adds `scaling · B A` to a weight stored (out, in), or its transpose to one stored (in, out).

    Args:
        A: (r, in).
        B: (out, r).
        scaling: alpha / r, or alpha / sqrt(r) with rsLoRA, times the user's weight.
        transposed: whether the weight is stored (in, out): GPT-2's Conv1D, and embeddings, whose A is (r, V)
            and B (d, r); None until `bind` has decided.

    Source: Hu et al., "LoRA", section 4.1.
    """

    A: Values
    B: Values
    scaling: float
    transposed: bool | None = None

    kind = "lora"
    subtractable = True

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.A.key, self.B.key)

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def parameters(self) -> int:
        return self.A.spec.elements + self.B.spec.elements

    def oriented(self, transposed: bool) -> LowRank:
        """The update for a weight that is stored (in, out), or is not."""
        return LowRank(self.A, self.B, self.scaling, transposed)

    def weighted(self, weight: float) -> LowRank:
        return self if weight == 1 else replace(self, scaling=self.scaling * weight)

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """`before`, if the product has that shape.

        Raises:
            LoratoolsError: the factors' product has another shape than the weight.
        """
        out, into = self.B.shape[0], self.A.shape[1]
        product = (into, out) if self.transposed else (out, into)
        if before != product:
            raise LoratoolsError(
                f"the factors {self.B.shape} and {self.A.shape} make an update of {product} "
                f"that does not fit the base's weight of {before}",
                file=self.A.spec.file,
                tensor=self.A.key,
                hint="is this the base that the adapter was trained on?",
            )
        return before

    def prepare(self, read: ReadRows[Block], spec: TensorSpec) -> None:
        """Nothing: a block needs no other."""

    def apply(self, block: Block, first: int) -> Block:
        left, right = self._factors(block)
        return add_product(block, left[first : first + len(block)] * self.scaling, right)

    def norm(self) -> float:
        from loratools.linalg.factors import product_norm

        return abs(self.scaling) * product_norm(self.A.array(), self.B.array())

    def memory(self, spec: TensorSpec) -> int:
        return self.A.memory(spec) + self.B.memory(spec)

    def release(self) -> None:
        self.A.release()
        self.B.release()

    def _factors(self, block: Block) -> tuple[Block, Block]:
        """The update as left (rows, r) times right (r, columns) of the weight as it is stored."""
        if self.transposed is None:
            raise ValueError(f"{self.A.key}: the update was not bound to a weight")
        A, B = self.A.like(block), self.B.like(block)
        return (A.T, B.T) if self.transposed else (B, A)
