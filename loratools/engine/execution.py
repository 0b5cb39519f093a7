"""`Execution`: on how much of the machine a verb runs, as its caller asked for it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from loratools.engine.device import AUTO, Asked
from loratools.engine.engine import Engine
from loratools.engine.local import LocalEngine
from loratools.engine.progress import Progress
from loratools.errors import UsageError

__all__ = ["Execution"]


@dataclass(frozen=True)
class Execution:
    """What decides where jobs run, and never what they write.

    `workers`: jobs side by side; None for one a processor.
    `device`: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`: where a verb's jobs compute that can use a device.
    (A kind of device is part of what makes bytes the same again; its number is not.)
    `max_memory`: bytes that the process may hold; None for what the machine has.
    `cluster`: a Dask scheduler that runs them, by its address or file; None for this process.
    """

    workers: int | None = None
    device: str = AUTO
    max_memory: int | None = None
    cluster: str | os.PathLike[str] | None = None

    def engine(self, progress: Progress | None) -> Engine:
        """The engine that runs a verb's jobs, watched by `progress`.

        Raises:
            UsageError: options that do not go together, or that name what cannot be.
            LoratoolsError: there is no such cluster, or no such device.
        """
        asked = Asked.parse(self.device)
        if self.cluster is not None:
            from loratools.engine.cluster import ClusterEngine

            if self.max_memory is not None:
                raise UsageError(
                    "--max-memory is about this process, and --cluster has others do the work",
                    hint="start the cluster's workers with --memory-limit",
                )
            return ClusterEngine(os.fspath(self.cluster), self.workers, progress, device=asked)
        asked.devices()
        return LocalEngine(self.workers, progress, device=asked)
