"""`Execution`: on how much of the machine a verb runs, as its caller asked for it."""

from __future__ import annotations

from dataclasses import dataclass

from loratools.engine.device import AUTO, Asked
from loratools.engine.engine import Engine
from loratools.engine.local import LocalEngine
from loratools.engine.progress import Progress

__all__ = ["Execution"]


@dataclass(frozen=True)
class Execution:
    """What decides where jobs run, and never what they write.

    `workers`: jobs side by side; None for one a processor.
    `device`: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`: where a verb's jobs compute that can use a device.
    (A kind of device is part of what makes bytes the same again; its number is not.)
    `max_memory`: bytes that the process may hold; None for what the machine has.
    """

    workers: int | None = None
    device: str = AUTO
    max_memory: int | None = None

    def engine(self, progress: Progress | None) -> Engine:
        """The engine that runs a verb's jobs, watched by `progress`.

        Raises:
            LoratoolsError: a device was named that is not there.
        """
        asked = Asked.parse(self.device)
        asked.devices()
        return LocalEngine(self.workers, progress, device=asked)
