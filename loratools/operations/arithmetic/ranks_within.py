"""The ranks of modules that keep the most for a number of bytes, all files of the output counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loratools.checkpoints.parts import stored_bytes
from loratools.errors import LoratoolsError
from loratools.linalg.budget import Curve, spend
from loratools.operations.arithmetic.factored import FactorPair

__all__ = ["ranks_within"]

_ROUNDS = 16
"""Halvings of what is not known beforehand of the bytes for factors: how the ranks make the texts longer."""

_HASH_LINE = 4 + 2 + 2 + 66 + 2
_HEADER_ENTRY = len('"":{"dtype":"F32","shape":[1,1],"data_offsets":[0,0]},')


def ranks_within(
    budget: int,
    pairs: Mapping[str, FactorPair],
    energies: Mapping[str, tuple[float, ...]],
    most_bytes: Callable[[Mapping[str, int]], int],
) -> dict[str, int]:
    """Ranks with which the output takes at most `budget` bytes.

    Args:
        budget: bytes.
        pairs: by module.
        energies: the squared singular values of each update, descending.
        most_bytes: what the output of given ranks takes at most.

    Raises:
        LoratoolsError: the budget holds no factors.
    """
    full = {name: pair.rank for name, pair in pairs.items()}
    whole = most_bytes(full)
    if whole <= budget:
        return full
    curves = [_curve(pair, energies[name]) for name, pair in pairs.items()]
    factors = sum(curve.bytes(pair.rank) for curve, pair in zip(curves, pairs.values(), strict=True))
    texts = sum(map(_patterns, pairs))
    least, most = budget - whole + factors - texts, budget - whole + factors + texts
    best = _smallest(pairs, energies)
    for _ in range(_ROUNDS):
        room = (least + most) // 2
        tried = _spent(curves, pairs, room)
        if tried is None or tried == best:
            least = room
        elif most_bytes(tried) <= budget:
            least, best = room, tried
        else:
            most = room
    if (takes := most_bytes(best)) > budget:
        raise LoratoolsError(
            f"a budget of {budget:,} bytes holds no factors: the smallest output takes {takes:,}",
            hint="give more bytes, all files of the output counted",
        )
    return best


def _curve(pair: FactorPair, energies: tuple[float, ...]) -> Curve:
    """A rank's price: its numbers; that of having factors at all: what names them in the files."""
    one = pair.shapes(1)
    step = stored_bytes(pair.A.dtype, one[0]) + stored_bytes(pair.B.dtype, one[1])
    fixed = sum(2 * len(key) + _HASH_LINE + _HEADER_ENTRY for key in pair.written_keys())
    return Curve(energies, step, fixed, least=1 if pair.bias is not None else 0)


def _patterns(module: str) -> int:
    """Bytes of config.json that a module takes where its rank is not that of most."""
    return 3 * (len(module) + 20)


def _spent(curves: list[Curve], pairs: Mapping[str, FactorPair], room: int) -> dict[str, int] | None:
    """The ranks for so many bytes of factors; None where there would be no factors at all."""
    spending = spend(curves, room)
    if spending is None or not any(spending.ranks):
        return None
    return dict(zip(pairs, spending.ranks, strict=True))


def _smallest(pairs: Mapping[str, FactorPair], energies: Mapping[str, tuple[float, ...]]) -> dict[str, int]:
    """The ranks of the smallest output: one direction in one module, and where a bias must have one."""
    least = {name: 1 if pair.bias is not None else 0 for name, pair in pairs.items()}
    telling = [name for name in pairs if energies[name]] or list(pairs)
    return least | {min(telling, key=lambda name: pairs[name].bytes // pairs[name].rank): 1}
