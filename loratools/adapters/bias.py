"""`Bias`: b + s·b_B, the bias that `lora_bias` trains beside lora_B."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loratools.adapters.update import Block, ReadRows
from loratools.adapters.values import Values
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError


@dataclass(frozen=True)
class Bias:
    """Adds `scaling · value` to a bias; value is (out,), scaling that of the module's factors."""

    value: Values
    scaling: float

    kind = "bias"
    subtractable = True
    rank = None

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.value.key,)

    @property
    def parameters(self) -> int:
        return self.value.spec.elements

    def weighted(self, weight: float) -> Bias:
        return replace(self, scaling=self.scaling * weight)

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """`before`. Raises LoratoolsError where the value has another shape."""
        if self.value.shape != before:
            raise LoratoolsError(
                f"a bias of {self.value.shape} does not fit the base's of {before}",
                file=self.value.spec.file,
                tensor=self.value.key,
                hint="is this the base that the adapter was trained on?",
            )
        return before

    def prepare(self, read: ReadRows[Block], spec: TensorSpec) -> None:
        """Nothing: a block needs no other."""

    def apply(self, block: Block, first: int) -> Block:
        block += self.value.like(block)[first : first + len(block)] * self.scaling
        return block

    def norm(self) -> float:
        import numpy as np

        return abs(self.scaling) * float(np.linalg.norm(self.value.array().astype(np.float64)))

    def memory(self, spec: TensorSpec) -> int:
        return self.value.memory(spec)

    def release(self) -> None:
        self.value.release()
