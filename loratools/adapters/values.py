"""`Values`: a tensor of an adapter, read when it is first needed, checked, and kept until it is released."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any

from loratools.adapters.update import Block
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import ITEM_BYTES, RawTensor, TensorSpec
from loratools.errors import LoratoolsError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class Values:
    """An adapter's tensor by its spec: nothing is read until values are asked for, and then only once,
    unless they are released in between.

    Safe to share between threads. A pickled one carries its spec and reads again. Two are equal where their
    specs are; `same_values` compares what is in them.
    """

    __slots__ = ("_array", "_converted", "_lock", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self._lock = Lock()
        self._array: NDArray[np.floating] | None = None
        self._converted: dict[Any, Any] | None = None  # by numpy's dtype, or torch's with the device

    @property
    def key(self) -> str:
        return self.spec.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    def array(self) -> NDArray[np.floating]:
        """All values: float64 where they are stored so, else float32, which holds narrower dtypes exactly.

        Raises:
            LoratoolsError: the file cannot be read, or values are not finite.
        """
        with self._lock:
            if self._array is None:
                self._array = self._read(0, self.spec.rows)
            return self._array

    def tensor(self, dtype: torch.dtype, device: torch.device | None = None) -> torch.Tensor:
        """All values as a tensor of `dtype` on a device (the CPU), once for each; not to be changed.

        Raises as `array` does.
        """
        import torch

        values = self.array()
        device = device or torch.device("cpu")
        # Converted here and moved last: the move alone waits until it is done, whatever the stream.
        found: torch.Tensor = self._once(
            (dtype, device), lambda: torch.from_numpy(values).to(dtype).to(device)
        )
        return found

    def like(self, block: Block) -> Block:
        """All values in the block's library and dtype, on its device, converted once; not to be changed."""
        import numpy as np

        if not isinstance(block, np.ndarray):
            return self.tensor(block.dtype, block.device)
        values = self.array()
        found: NDArray[Any] = self._once(block.dtype, lambda: values.astype(block.dtype, copy=False))
        return found

    def _once(self, dtype: Any, convert: Callable[[], Any]) -> Any:
        with self._lock:
            if self._converted is None:
                self._converted = {}
            if dtype not in self._converted:
                self._converted[dtype] = convert()
            return self._converted[dtype]

    def rows_like(self, block: Block, first: int) -> Block:
        """Rows `first:first + len(block)` in the block's library and dtype, read anew and not kept: for
        tensors that are as large as the base's."""
        import numpy as np

        rows = self._read(first, len(block))
        if isinstance(block, np.ndarray):
            return rows.astype(block.dtype, copy=False)
        import torch

        return torch.from_numpy(rows).to(block)

    def release(self) -> None:
        """Lets go of what was read: who asks for values later reads them again."""
        with self._lock:
            self._array = self._converted = None

    def memory(self, spec: TensorSpec) -> int:
        """Bytes held once it is used in the arithmetic for a tensor like `spec`."""
        item = 8 if spec.dtype in ("float32", "float64") else 4
        own = 8 if self.spec.dtype == "float64" else 4
        return self.spec.elements * (own + (item if item != own else 0))

    def _read(self, first: int, count: int) -> NDArray[np.floating]:
        with TensorReader(self.spec) as reader:
            raw = reader.read(first, count)
        return finite_values(raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Values) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    def __repr__(self) -> str:
        return f"Values({self.spec.name!r}, {self.spec.dtype}, {self.spec.shape})"

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["spec"])  # type: ignore[misc]


def finite_values(raw: RawTensor) -> NDArray[np.floating]:
    """What was read, as an array of its own: float64 where it is stored so, else float32.

    Raises:
        LoratoolsError: values are not finite.
    """
    import numpy as np

    values = raw.numpy().copy() if raw.spec.dtype == "float64" else raw.float32()
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):  # one pass: a sum is finite only where all its terms are
            return values
    wrong = values.size - int(np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise LoratoolsError(
            f"{wrong} of {values.size} values are NaN or infinite",
            file=raw.spec.file,
            tensor=raw.spec.name,
            hint="the adapter is broken: take an earlier checkpoint of its training",
        )
    return values


def finite_float64(raw: RawTensor) -> NDArray[np.float64]:
    """What was read, in float64 and in an array of its own.

    Raises:
        LoratoolsError: values are not finite.
    """
    import numpy as np

    narrow = raw.float32() if raw.spec.dtype == "bfloat16" else raw.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        values = narrow.astype(np.float64)
        if not np.isfinite(values.sum()):  # as in `finite_values`, which tells what is wrong
            finite_values(raw)
    return values


def same_values(first: TensorSpec, second: TensorSpec) -> bool:
    """Whether two stored tensors have one shape and hold the same values; read block by block.

    Of one dtype they must agree bit by bit, of two floating ones number by number.

    Raises:
        LoratoolsError: a file cannot be read.
    """
    if first.shape != second.shape or not {first.dtype, second.dtype} <= ITEM_BYTES.keys():
        return False
    same = _same_bits if first.dtype == second.dtype else _same_numbers
    step = max(1, _COMPARED_BYTES // max(1, first.row_bytes))
    with TensorReader(first) as one, TensorReader(second) as other:
        for row in range(0, first.rows, step):
            count = min(step, first.rows - row)
            if not same(one.read(row, count), other.read(row, count)):
                return False
    return True


def _same_bits(one: RawTensor, other: RawTensor) -> bool:
    return one.buffer == other.buffer


def _same_numbers(one: RawTensor, other: RawTensor) -> bool:
    import numpy as np

    wide = [raw.numpy() if raw.spec.dtype == "float64" else raw.float32() for raw in (one, other)]
    return one.spec.floating and other.spec.floating and np.array_equal(wide[0], wide[1])


_COMPARED_BYTES = 8 * 2**20
