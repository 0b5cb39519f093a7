"""In which precision a merge computes, and how its results are rounded, once, into the dtype that is written.

Stored values are numpy arrays; those of bfloat16, which numpy does not have, are their bits in uint16.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from loratools.checkpoints.spec import ITEM_BYTES, RawTensor
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


class _Layout(NamedTuple):
    """Where the parts of a stored number are: masks of the exponent and of all but the sign; and the bits of
    the least normal number, and the unit in the last place of 1."""

    exponent: int
    magnitude: int
    least_normal: int
    epsilon: float

    @classmethod
    def of(cls, exponent_bits: int, fraction_bits: int) -> _Layout:
        return cls(
            exponent=((1 << exponent_bits) - 1) << fraction_bits,
            magnitude=(1 << (exponent_bits + fraction_bits)) - 1,
            least_normal=1 << fraction_bits,
            epsilon=2.0**-fraction_bits,
        )


_LAYOUT = {
    "float64": _Layout.of(11, 52),
    "float32": _Layout.of(8, 23),
    "bfloat16": _Layout.of(8, 7),
    "float16": _Layout.of(5, 10),
}


def arithmetic_dtype(*dtypes: str) -> str:
    """`float32` where all dtypes have 16 bits, else `float64`: the sum has more digits than it is rounded to.

    So a merge that is written in float32 is computed in float64, also where the base is in bfloat16.
    """
    return "float32" if all(dtype in ("bfloat16", "float16") for dtype in dtypes) else "float64"


def stored(raw: RawTensor) -> Stored:
    """The values of a block of rows as they are stored, without a copy; a scalar is one row."""
    return raw.numpy().reshape(raw.count, *raw.spec.shape[1:])


def stored_dtype(dtype: str) -> str:
    """What numpy calls the values of a dtype as they are stored."""
    return "uint16" if dtype == "bfloat16" else dtype


def widened(values: Stored, dtype: str, arithmetic: str, out: Wide | None = None) -> Wide:
    """Stored values of `dtype` as a new array of the arithmetic's dtype, or in `out`, which is one."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one, and that is all
        if dtype != "bfloat16":
            if out is None:
                return values.astype(arithmetic)
            out[...] = values
            return out
        from loratools.linalg.rounding import bfloat16_to_float32, widen_bfloat16

        if out is None or arithmetic != "float32":
            wide = bfloat16_to_float32(values)
            if out is None:
                return wide.astype(arithmetic, copy=False)
            out[...] = wide
        else:
            widen_bfloat16(values, out)
        return out


def rounded(wide: Wide, dtype: str, draws: Stored | None = None) -> Stored:
    """`wide` (float32 or float64) in `dtype`, rounded once; too large becomes infinite.

    To nearest even, or where `draws` are given, one for each element, to either neighbour by chance.
    """
    import numpy as np

    from loratools.linalg import rounding

    if draws is not None and str(wide.dtype) != dtype:
        from loratools.linalg.stochastic import stochastic

        return stochastic(wide, draws, dtype)
    conversion = (str(wide.dtype), dtype)
    if conversion == ("float32", "bfloat16"):
        return rounding.float32_to_bfloat16(wide.astype(np.float32, copy=False))
    if conversion == ("float64", "bfloat16"):
        return rounding.float64_to_bfloat16(wide.astype(np.float64, copy=False))
    if conversion == ("float64", "float16"):
        return rounding.float64_to_float16(wide.astype(np.float64, copy=False))
    with np.errstate(over="ignore"):
        return wide.astype(dtype)


def round_into(wide: Wide, dtype: str, draws: Stored | None, *, result: Stored, back: Wide) -> None:
    """`rounded` into `result`, and what stands there in the wide arithmetic into `back`.

    Where `wide` holds a NaN, `result` may hold anything in its place; `back - wide` is NaN there in any case,
    and where a finite number did not fit it is infinite.
    """
    conversion = (str(wide.dtype), dtype)
    if draws is None and conversion == ("float32", "bfloat16"):
        from loratools.linalg.rounding import nearest_bfloat16

        nearest_bfloat16(wide, result, back)
        return
    result[...] = rounded(wide, dtype, draws)
    widened(result, dtype, conversion[0], out=back)


class Rounding:
    """Rounds the blocks of one tensor into its dtype and looks out for values that do not fit into it."""

    def __init__(self, name: str, source_dtype: str, dtype: str) -> None:
        self.name = name
        self.dtype = dtype
        self.overflown = 0
        self.nonfinite = 0
        self._source_dtype = source_dtype
        self._limit = _LARGEST[dtype]

    def round(self, wide: Wide, original: Stored, draws: Stored | None = None) -> Stored:
        """`wide` in the output's dtype, rounded once: to nearest even, or by chance where `draws` are given.

        Elements that are not finite are counted: as `nonfinite` where `original`, the same rows of the input
        as stored, was not finite either, else (and in rows beyond those of `original`) as `overflown`.
        """

        result = rounded(wide, self.dtype, draws)
        if not largest(wide) <= self._limit:
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


def largest(wide: Wide) -> float:
    """The largest magnitude; NaN if there is one."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return float(np.maximum(-wide.min(), wide.max())) if wide.size else 0.0


def largest_stored(values: Stored, dtype: str) -> tuple[float, float]:
    """(a, b) so that what was rounded to these finite numbers, to either neighbour, reached at least a and at
    most b: the neighbours of the largest magnitude."""
    bits = _integers(values)
    most = int(bits.view(f"int{8 * bits.dtype.itemsize}").max(initial=0))
    least = int(bits.max(initial=0))  # as integers without a sign, negative numbers are the largest
    if least > _magnitude(values):
        most = max(most, least & _magnitude(values))
    return _neighbours(most, dtype)


@functools.cache
def _neighbours(magnitude: int, dtype: str) -> tuple[float, float]:
    """Of the positive number with these bits."""
    import numpy as np

    ends = np.array([max(magnitude - 1, 0), magnitude + 1]).astype(f"uint{8 * ITEM_BYTES[dtype]}")
    low, high = widened(ends if dtype == "bfloat16" else ends.view(dtype), dtype, "float64")
    return float(low), float(high)


def differing(one: Stored, other: Stored) -> int:
    """How many elements of two stored arrays of one floating dtype differ in their bits."""
    import numpy as np

    integers = f"uint{8 * one.dtype.itemsize}"
    return int(np.count_nonzero(one.view(integers) != other.view(integers)))


def largest_gap(values: Stored, dtype: str) -> Wide:
    """Distance of each number to the farther of its neighbours in `dtype`: the unit in the last place.

    In float32, of which it is an exact number, or float64 for float64; infinite for what is not finite.
    """
    return _unit(_integers(values), dtype)


def least_gap(values: Stored, dtype: str) -> Wide:
    """Distance of each number to the nearer of its neighbours: half of the largest at powers of two."""
    import numpy as np

    bits = _integers(values) & _LAYOUT[dtype].magnitude
    np.maximum(bits, 1, out=bits)
    bits -= 1  # a power of two goes into the binade below, and nothing else does
    return _unit(bits, dtype)


def shift_of_middle(y: Stored, dtype: str, draws: Stored) -> Wide:
    """How far the middle of the sums that become y by chance lies from y.

    They reach towards zero by the draw's share of a gap, and away from it by the rest. (Where the gap towards
    zero is the smaller one, they reach less far; of zeros, this says nothing.)
    """
    import numpy as np

    from loratools.linalg.stochastic import DRAWN

    share = draws.astype(arithmetic_dtype(dtype))
    share *= -1.0 / DRAWN
    share += 0.5
    with np.errstate(invalid="ignore"):
        share *= largest_gap(y, dtype)
        np.negative(share, where=_is_negative(y), out=share)
    return share


def is_zero(values: Stored) -> Any:
    """Which numbers are zeros, of either sign."""
    return (_integers(values) & _magnitude(values)) == 0


def _is_negative(values: Stored) -> Any:
    return _integers(values) > _magnitude(values)


def _magnitude(values: Stored) -> int:
    """All bits of a stored number but the sign's."""
    return (1 << (8 * values.dtype.itemsize - 1)) - 1


def _integers(values: Stored) -> Stored:
    return values.view(f"uint{8 * values.dtype.itemsize}")


def _unit(bits: Stored, dtype: str) -> Wide:
    """The unit in the last place of numbers with such exponents; in few bytes as long as that goes."""
    import numpy as np

    layout = _LAYOUT[dtype]
    exponents = bits & layout.exponent
    np.maximum(exponents, layout.least_normal, out=exponents)
    powers = exponents if dtype == "bfloat16" else exponents.view(dtype)
    unit = widened(powers, dtype, "float64" if dtype == "float64" else "float32")
    unit *= layout.epsilon
    return unit
