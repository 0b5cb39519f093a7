"""The job of what is no pair of factors: it goes along as it is, once all that hold it agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loratools.adapters.values import same_values
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError
from loratools.operations.arithmetic.stored_factors import (
    Slot,
    Written,
    copy_tensor,
    read_matrix,
    write_matrix,
)
from loratools.operations.rewrite_record import tensor_root

__all__ = ["CarryJob", "SumJob"]


@dataclass(frozen=True)
class CarryJob:
    """Writes the tensor that one adapter holds, or several alike, as it is. `holders`: place and tensor."""

    holders: tuple[tuple[int, TensorSpec], ...]
    slot: Slot

    @property
    def name(self) -> str:
        return self.slot.key

    @property
    def bytes(self) -> int:
        return sum(spec.bytes for _, spec in self.holders)

    def run(self, workspace: Path) -> Written:
        """Raises LoratoolsError: the holders differ, or one cannot be read."""
        (place, first), *others = self.holders
        for other, spec in others:
            if not same_values(first, spec):
                raise LoratoolsError(
                    f"adapters {place + 1} and {other + 1} hold it in full with different values, "
                    "which cannot be added up",
                    file=spec.file,
                    tensor=spec.name,
                    hint="combine adapters that save the same, or leave it out of one of them",
                )
        root = copy_tensor(workspace, self.slot, first)
        rest = {(other, spec.name): tensor_root(spec) for other, spec in others}
        return Written({(place, first.name): root, **rest}, {self.slot.key: root})


@dataclass(frozen=True)
class SumJob:
    """Writes sum c_i b_i of tensors of one shape, such as the biases beside B; zeros where there are none.

    `parts`: the place of the adapter, the tensor, and c.
    """

    parts: tuple[tuple[int, TensorSpec, float], ...]
    slot: Slot

    @property
    def name(self) -> str:
        return self.slot.key

    @property
    def bytes(self) -> int:
        return sum(spec.bytes for _, spec, _ in self.parts)

    def run(self, workspace: Path) -> Written:
        """Raises LoratoolsError: values cannot be read, are not finite, or do not fit into the dtype."""
        import numpy as np

        total = np.zeros((self.slot.shape[0], 1))
        read = {}
        for place, spec, factor in self.parts:
            values, _, read[place, spec.name] = read_matrix(spec)
            total += factor * values
        _, root = write_matrix(workspace, self.slot, total)
        return Written(read, {self.slot.key: root})
