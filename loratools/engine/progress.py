"""What an engine tells whoever watches: how many bytes and jobs are done."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A watcher of a run; the CLI draws one on a terminal, a library caller may pass its own."""

    def start(self, what: str, jobs: int, bytes: int) -> None:
        """A phase begins: `jobs` pieces of work that read `bytes` bytes."""
        ...

    def advance(self, job: str, bytes: int) -> None:
        """`job` is done. Called from the thread that consumes results."""
        ...

    def finish(self) -> None:
        """The phase has ended, well or not."""
        ...


class Silent:
    """A watcher that says nothing: the default of a library call."""

    def start(self, what: str, jobs: int, bytes: int) -> None: ...

    def advance(self, job: str, bytes: int) -> None: ...

    def finish(self) -> None: ...
