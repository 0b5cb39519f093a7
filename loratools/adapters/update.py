"""`Update`: what an adapter does to one tensor, block by block of its rows.

Every kind of layer and every format comes down to these kinds; the kinds themselves stand in files of their
own beside this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from loratools.checkpoints.spec import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Block = TypeVar("Block", "NDArray[np.floating[Any]]", "torch.Tensor")
"""Rows of a tensor: numpy's, so that a merge need not import torch (2 s), or torch's, for other devices."""

ReadRows = Callable[[int, int], Block]
"""`read(first, count)`: rows of a tensor, in the arithmetic's dtype, as a new block."""


class Update(Protocol):
    """What an adapter does to one tensor.

    `kind` is `lora`, `dora`, `replace`, `rows` or `bias`; `sources` are the adapter's keys that it uses up.
    Arithmetic is in the dtype of the block it is given: float32 for bfloat16 and float16 tensors, float64 for
    float32 and float64 ones. Values are read and converted to it once, when they are first needed, and kept
    until it is released; an update is picklable and then forgets them.
    """

    @property
    def kind(self) -> str: ...

    @property
    def sources(self) -> tuple[str, ...]: ...

    @property
    def rank(self) -> int | None: ...

    @property
    def scaling(self) -> float | None:
        """The factor of what is added, the user's weight included."""
        ...

    @property
    def parameters(self) -> int: ...

    @property
    def subtractable(self) -> bool:
        """Whether `apply` only adds what does not depend on the block, so that it can be taken off again."""
        ...

    def weighted(self, weight: float) -> Update:
        """The update times the weight that a user gave to its adapter.

        Raises LoratoolsError where the kind allows no weight but 1.
        """
        ...

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the tensor afterwards, given that before; a replacement may change it.

        Raises LoratoolsError where the update does not fit the tensor.
        """
        ...

    def prepare(self, read: ReadRows[Block], spec: TensorSpec) -> None:
        """A first pass over the tensor, where the kind needs one (DoRA's norms over the other axis).

        `read` gives the rows with `foundation` of the earlier updates applied.
        """
        ...

    def apply(self, block: Block, first: int) -> Block:
        """Rows `first:first + len(block)` of the tensor after the update, given those before it.

        The block may be changed in place and handed back. A `replace` update looks at its length only, so
        that rows which the tensor does not have yet can be given as anything. Blocks have
        `rows_of_block(spec)` rows, fixed by shape, so that results do not depend on the machine.
        """
        ...

    def norm(self) -> float | None:
        """Frobenius norm of what is added, in float64, where that does not depend on the tensor."""
        ...

    def memory(self, spec: TensorSpec) -> int:
        """Bytes that it holds while it is applied."""
        ...

    def release(self) -> None:
        """Lets go of the values that were read; they are read again where they are needed again."""
        ...


def foundation(earlier: tuple[Update, ...]) -> tuple[Update, ...]:
    """Of the updates that come before one, those that belong to the weight its adapter was trained on.

    A saved embedding is what its adapter's factors were trained on; what another adapter added is not (PEFT
    0.21 takes DoRA's norms from the weight without it, in forward and in merge).
    """
    return tuple(update for update in earlier if update.kind in ("replace", "rows"))


BLOCK_BYTES = 2 * 2**20
"""Bytes of float32 in a block of rows: large enough for products, small enough for the cache (measured)."""


def rows_of_block(spec: TensorSpec) -> int:
    """Rows of the blocks in which a tensor is streamed; fixed by its shape alone."""
    columns = max(1, spec.elements // max(1, spec.rows))
    return max(1, min(spec.rows, BLOCK_BYTES // (4 * columns)))
