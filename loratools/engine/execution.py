"""`Execution`: on how much of the machine a verb runs, as its caller asked for it."""

from __future__ import annotations

from dataclasses import dataclass

from loratools.engine.engine import Engine
from loratools.engine.local import LocalEngine
from loratools.engine.progress import Progress

__all__ = ["Execution"]


@dataclass(frozen=True)
class Execution:
    """What decides where jobs run, and never what they write.

    `workers`: jobs side by side; None for one a processor. `max_memory`: bytes that the process may hold;
    None for what the machine has.
    """

    workers: int | None = None
    max_memory: int | None = None

    def engine(self, progress: Progress | None) -> Engine:
        """The engine that runs a verb's jobs, watched by `progress`."""
        return LocalEngine(self.workers, progress)
