"""What updates need of a block beyond operators that numpy's arrays and torch's tensors share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from loratools.adapters.update import Block

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector: TypeAlias = NDArray[np.floating[Any]]
else:
    Vector = Any


def add_product(block: Block, left: Block, right: Block) -> Block:
    """`block + left @ right`, in place: (rows, columns), (rows, r) and (r, columns) of one dtype."""
    import numpy as np

    if isinstance(block, np.ndarray):
        from loratools.linalg import products

        products.add_product(block, left, right)
    else:
        block += left @ right
    return block


def square_sums(block: Block, axis: int) -> Vector:
    """Sums of squares along an axis, squared and summed in float64."""
    import numpy as np

    if isinstance(block, np.ndarray):
        wide = block.astype(np.float64, copy=False)
        sums: Vector = np.einsum(_SUBSCRIPTS[axis], wide, wide)
        return sums
    wide_tensor = block.double()
    found: Vector = (wide_tensor * wide_tensor).sum(axis).cpu().numpy()
    return found


_SUBSCRIPTS = {0: "ij,ij->j", 1: "ij,ij->i"}


def as_row(values: Vector, block: Block) -> Block:
    """One value for each column, (1, columns), in the block's library and dtype."""
    return _like(values[None, :], block)


def as_column(values: Vector, block: Block) -> Block:
    """One value for each row, (rows, 1), in the block's library and dtype."""
    return _like(values[:, None], block)


def _like(values: Vector, block: Block) -> Block:
    import numpy as np

    if isinstance(block, np.ndarray):
        return values.astype(block.dtype)
    import torch

    return torch.from_numpy(values).to(block)
