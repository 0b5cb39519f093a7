"""`Update`: what an adapter does to one tensor, block by block of its rows.

Every kind of layer and every format comes down to these kinds; the kinds themselves stand in files of their
own beside this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from loratools.checkpoints.spec import TensorSpec

if TYPE_CHECKING:
    import torch

ReadRows = Callable[[int, int], "torch.Tensor"]
"""`read(first, count)`: rows of the tensor that the update is applied to, in the arithmetic's dtype; what
`prepare` is given, with the updates that come earlier already applied."""


class Update(Protocol):
    """What an adapter does to one tensor.

    `kind` is `lora`, `dora`, `replace`, `rows` or `bias`; `sources` are the adapter's keys that it uses up.
    Arithmetic is in the dtype of the block it is given: float32 for bfloat16 and float16 tensors, float64 for
    float32 and float64 ones. Factors are converted to it once.
    """

    @property
    def kind(self) -> str: ...

    @property
    def sources(self) -> tuple[str, ...]: ...

    @property
    def rank(self) -> int | None: ...

    @property
    def scaling(self) -> float | None: ...

    @property
    def parameters(self) -> int: ...

    @property
    def subtractable(self) -> bool:
        """Whether `apply` only adds what does not depend on the block, so that it can be taken off again."""
        ...

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the tensor afterwards, given that before; a replacement may change it.

        Raises LoratoolsError where the update does not fit the tensor.
        """
        ...

    def prepare(self, read: ReadRows, spec: TensorSpec) -> None:
        """A first pass over the tensor, where the kind needs one (DoRA's norms over the other axis)."""
        ...

    def apply(self, block: torch.Tensor, first: int) -> torch.Tensor:
        """Rows `first:first + len(block)` of the tensor after the update, given those before it.

        Blocks have `rows_of_block(spec)` rows, fixed by shape, so that results do not depend on the machine.
        """
        ...

    def added(self, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """What `apply` adds to those rows, where the update is subtractable."""
        ...

    def norm(self) -> float | None:
        """Frobenius norm of what is added, in float64, where that does not depend on the tensor."""
        ...

    def memory(self, spec: TensorSpec) -> int:
        """Bytes that it holds while it is applied."""
        ...


BLOCK_BYTES = 2 * 2**20
"""Bytes of float32 in a block of rows: large enough for the products, small enough for the cache (measured)."""


def rows_of_block(spec: TensorSpec) -> int:
    """Rows of the blocks in which a tensor is streamed; fixed by its shape alone."""
    columns = max(1, spec.elements // max(1, spec.rows))
    return max(1, min(spec.rows, BLOCK_BYTES // (4 * columns)))
