"""`Publication`: the only place that makes an output visible, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType


class Publication:
    """A partial folder beside the target, made whole by `publish()` and removed by anything else."""

    def __init__(self, target: Path, *, force: bool, inputs: Sequence[Path], one_file: bool = False) -> None:
        self.target = target
        self.folder = target

    def publish(self) -> None: ...

    def __enter__(self) -> Publication:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
