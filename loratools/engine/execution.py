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

    `workers`: jobs side by side; None for one a processor.
    `cluster`: a Dask scheduler that runs them, by its address or file; None for this process.
    """

    workers: int | None = None
    cluster: str | None = None

    def engine(self, progress: Progress | None) -> Engine:
        """The engine that runs a verb's jobs, watched by `progress`.

        Raises:
            UsageError, LoratoolsError: there is no such cluster.
        """
        if self.cluster is not None:
            from loratools.engine.cluster import ClusterEngine

            return ClusterEngine(self.cluster, self.workers, progress)
        return LocalEngine(self.workers, progress)
