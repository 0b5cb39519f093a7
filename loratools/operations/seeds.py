"""Seeds of modules: the same whatever runs beside them, and in whichever order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from loratools.linalg.stochastic import Draws

__all__ = ["draws_of", "module_seed"]


def module_seed(seed: int, name: str) -> int:
    """A module's own, from the run's seed and the module's name."""
    digest = blake3(f"{seed}\0{name}".encode()).digest(length=7)
    return int.from_bytes(digest, "little")


def draws_of(seed: int, name: str) -> Draws:
    """The draws that round the tensor of this name, whatever file or block its elements are in."""
    from loratools.linalg.stochastic import Draws

    digest = blake3(f"rounding\0{seed}\0{name}".encode()).digest(length=16)
    return Draws(int.from_bytes(digest, "little"))
