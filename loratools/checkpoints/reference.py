"""References: what a user names on the command line, and how it becomes an open checkpoint or adapter."""

from __future__ import annotations

from loratools.checkpoints.checkpoint import Checkpoint


def open_checkpoint(reference: str) -> Checkpoint:
    """Opens a path or hub id from its headers (see CLI.md, "References")."""
    raise LookupError(reference)


def split_weight(reference: str) -> tuple[str, float | None]:
    """`adapter=0.8` -> (`adapter`, 0.8); a string that exists as a path has no weight."""
    raise LookupError(reference)
