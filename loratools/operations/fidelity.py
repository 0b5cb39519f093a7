"""What a merge says where rounding swallows most of what its adapters add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from loratools.operations.merge_options import RoundingMode
from loratools.operations.rewrite_layout import Outgoing
from loratools.operations.streaming import TensorFigures

__all__ = ["SWALLOWED", "fidelity_warnings"]

SWALLOWED = 0.5
"""Rounding error, relative to the update, from which on most of the update is said to be swallowed."""


def fidelity_warnings(
    tensors: Sequence[Outgoing], figures: Mapping[str, TensorFigures], rounding: RoundingMode
) -> Iterator[str]:
    """A line where rounding to nearest takes more than half of an update's norm.

    Rounding at random is not warned of: it errs more in each element, and that is what was asked for.
    """
    if rounding is not RoundingMode.NEAREST:
        return
    updated = [(figures[tensor.name].rounding_error, tensor) for tensor in tensors if tensor.updates]
    swallowed = [(error, tensor) for error, tensor in updated if error is not None and error > SWALLOWED]
    if not swallowed:
        return
    error, worst = max(swallowed, key=lambda found: found[0])
    where = f"{len(swallowed)} of {len(updated)} tensors"
    wider = "" if worst.dtype in ("float32", "float64") else ", --dtype float32 keeps it all"
    yield (
        f"rounding to {worst.dtype} swallows most of the update in {where}, up to {100 * error:.3g} % of its "
        f"norm in {worst.name}: --rounding stochastic keeps it on average{wider}"
    )
