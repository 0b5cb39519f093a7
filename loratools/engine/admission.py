"""Which jobs may run side by side: no more than their memory together allows."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["Admission", "ClosedError"]


class ClosedError(Exception):
    """The run ended while a job waited for its turn."""


class Admission:
    """Lets jobs in, first come first served, while the memory of those inside fits into `budget` bytes.

    A job that needs more than all of it comes in alone: whether that may be is for a plan to say. Since
    nobody overtakes, a large job waits no longer than those before it take. None is no limit.
    """

    @classmethod
    def of(cls, memory: Iterable[int], workers: int, budget: int | None) -> Admission:
        """One for jobs of so many bytes each; where all may run as workers come free, nobody has to wait."""
        scarce = budget is not None and sum(heapq.nlargest(workers, memory)) > budget
        return cls(budget if scarce else None)

    @property
    def scarce(self) -> bool:
        """Whether somebody may have to wait."""
        return self.budget is not None

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self._changed = threading.Condition()
        self._inside = 0
        self._held = 0
        self._next = 0
        self._turn = 0
        self._closed = False

    @contextmanager
    def room(self, memory: int) -> Iterator[None]:
        """Waits for room for so many bytes, and holds it as long as the block runs.

        Raises:
            ClosedError: nobody is let in any more.
        """
        self._enter(memory)
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._held -= memory
                self._changed.notify_all()

    def close(self) -> None:
        """Turns away all who wait, and all who come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _enter(self, memory: int) -> None:
        with self._changed:
            turn, self._next = self._next, self._next + 1
            self._changed.wait_for(lambda: self._closed or (turn == self._turn and self._fits(memory)))
            if self._closed:
                raise ClosedError
            self._turn += 1
            self._inside += 1
            self._held += memory
            self._changed.notify_all()  # the one behind may fit as well

    def _fits(self, memory: int) -> bool:
        return self.budget is None or not self._inside or self._held + memory <= self.budget
