"""Seeds of modules: the same whatever runs beside them, and in whichever order."""

from __future__ import annotations

from blake3 import blake3

__all__ = ["module_seed"]


def module_seed(seed: int, name: str) -> int:
    """A module's own, from the run's seed and the module's name."""
    digest = blake3(f"{seed}\0{name}".encode()).digest(length=7)
    return int.from_bytes(digest, "little")
