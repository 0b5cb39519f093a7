"""In which precision a merge computes, and how its results are rounded, once, into the dtype that is written.

Stored values are numpy arrays; those of bfloat16, which numpy does not have, are their bits in uint16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from loratools.checkpoints.spec import RawTensor
from loratools.errors import LoratoolsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Stored: TypeAlias = NDArray[Any]
    Wide: TypeAlias = NDArray[np.floating[Any]]
else:
    Stored = Wide = Any

_LARGEST = {
    "float64": 1.7976931348623157e308,
    "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38,
    "float16": 65504.0,
}
_UNITS = {
    "float64": (2.0**-1022, 2.0**-52),
    "float32": (2.0**-126, 2.0**-23),
    "bfloat16": (2.0**-126, 2.0**-7),
    "float16": (2.0**-14, 2.0**-10),
}
"""The least normal number of each dtype, and the unit in the last place of 1."""


def arithmetic_dtype(*dtypes: str) -> str:
    """`float32` where all dtypes have 16 bits, else `float64`: the sum has more digits than it is rounded to.

    So a merge that is written in float32 is computed in float64, also where the base is in bfloat16.
    """
    return "float32" if all(dtype in ("bfloat16", "float16") for dtype in dtypes) else "float64"


def stored(raw: RawTensor) -> Stored:
    """The values of a block of rows as they are stored, without a copy; a scalar is one row."""
    return raw.numpy().reshape(raw.count, *raw.spec.shape[1:])


def widened(values: Stored, dtype: str, arithmetic: str) -> Wide:
    """Stored values of `dtype` as a new array of the arithmetic's dtype."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one, and that is all
        if dtype == "bfloat16":
            from loratools.linalg.rounding import bfloat16_to_float32

            return bfloat16_to_float32(values).astype(arithmetic, copy=False)
        return values.astype(arithmetic)


def rounded(wide: Wide, dtype: str) -> Stored:
    """`wide` (float32 or float64) in `dtype`, rounded once to nearest even; too large becomes infinite."""
    import numpy as np

    from loratools.linalg import rounding

    conversion = (str(wide.dtype), dtype)
    if conversion == ("float32", "bfloat16"):
        return rounding.float32_to_bfloat16(wide.astype(np.float32, copy=False))
    if conversion == ("float64", "bfloat16"):
        return rounding.float64_to_bfloat16(wide.astype(np.float64, copy=False))
    if conversion == ("float64", "float16"):
        return rounding.float64_to_float16(wide.astype(np.float64, copy=False))
    with np.errstate(over="ignore"):
        return wide.astype(dtype)


class Rounding:
    """Rounds the blocks of one tensor into its dtype and looks out for values that do not fit into it."""

    def __init__(self, name: str, source_dtype: str, dtype: str) -> None:
        self.name = name
        self.dtype = dtype
        self.overflown = 0
        self.nonfinite = 0
        self._source_dtype = source_dtype
        self._largest = _LARGEST[dtype]

    def round(self, wide: Wide, original: Stored) -> Stored:
        """`wide` in the output's dtype, rounded once to nearest even.

        Elements that are not finite are counted: as `nonfinite` where `original`, the same rows of the input
        as stored, was not finite either, else (and in rows beyond those of `original`) as `overflown`.
        """
        import numpy as np

        result = rounded(wide, self.dtype)
        with np.errstate(invalid="ignore"):
            fits = not wide.size or (-self._largest <= wide.min() and wide.max() <= self._largest)
        if not fits:
            self._count(result, original)
        return result

    def _count(self, result: Stored, original: Stored) -> None:
        import numpy as np

        bad = ~np.isfinite(widened(result, self.dtype, "float64"))
        before = ~np.isfinite(widened(original, self._source_dtype, "float64"))
        inherited = int(np.count_nonzero(bad[: len(original)] & before))
        self.nonfinite += inherited
        self.overflown += int(np.count_nonzero(bad)) - inherited

    def refuse_overflow(self) -> None:
        """Raises LoratoolsError if finite values did not fit into the dtype."""
        if self.overflown:
            raise LoratoolsError(
                f"{self.overflown} values do not fit into {self.dtype}",
                tensor=self.name,
                hint="write a wider dtype with --dtype bfloat16 or float32"
                if self.dtype == "float16"
                else "are the adapter's alpha and weight those it was trained with?",
            )


def differing(one: Stored, other: Stored) -> int:
    """How many elements of two stored arrays of one floating dtype differ in their bits."""
    import numpy as np

    integers = f"uint{8 * one.dtype.itemsize}"
    return int(np.count_nonzero(one.view(integers) != other.view(integers)))


def largest_gap(values: Stored, dtype: str) -> Wide:
    """Distance of each number to the farther of its neighbours in `dtype`: the unit in the last place.

    In float32, of which it is an exact number, or float64 for float64; infinite for what is not finite.
    """
    return _unit(_magnitudes(values, dtype), dtype)


def least_gap(values: Stored, dtype: str) -> Wide:
    """Distance of each number to the nearer of its neighbours: half of the largest at powers of two."""
    import numpy as np

    bits = _magnitudes(values, dtype)
    np.maximum(bits, 1, out=bits)
    bits -= 1  # a power of two goes into the binade below, and nothing else does
    return _unit(bits, dtype)


def _magnitudes(values: Stored, dtype: str) -> Stored:
    """The bits of the absolute values, in float32 or float64, as unsigned integers."""
    import numpy as np

    wide = widened(values, dtype, "float64" if dtype == "float64" else "float32")
    np.abs(wide, out=wide)
    return wide.view(f"uint{8 * wide.dtype.itemsize}")


def _unit(bits: Stored, dtype: str) -> Wide:
    """The unit in the last place of `dtype`, from the exponents of such magnitudes, which are overwritten."""
    import numpy as np

    holder = np.dtype(f"float{8 * bits.dtype.itemsize}").type
    bits &= holder("inf").view(bits.dtype)
    least_normal, epsilon = _UNITS[dtype]
    unit: Wide = bits.view(holder)
    np.maximum(unit, holder(least_normal), out=unit)
    unit *= epsilon
    return unit
