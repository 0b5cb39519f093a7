"""What a worker's thread keeps from one job to the next: memory that its jobs use one after another."""

from __future__ import annotations

import threading

__all__ = ["let_go", "of_thread"]

of_thread = threading.local()
"""Its attributes are this thread's own, and end with it."""


def let_go() -> None:
    """Frees what this thread keeps: where memory is short, the next large job may be another worker's."""
    of_thread.__dict__.clear()
