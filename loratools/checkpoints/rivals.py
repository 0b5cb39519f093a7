"""Two runs on one target: the second is told so. And what a dead run left, the next may take over.

Nothing is locked, since locks fail on NFS and Lustre: each run makes a folder with a name of its own and a
record of its process in it, and looks at the others only then. Of two that begin at the same moment at least
one sees the other; one that only began, as its missing journal shows, is given a moment to look, too.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loratools.checkpoints import files, system
from loratools.checkpoints.files import again
from loratools.checkpoints.fingerprints import RunFingerprint
from loratools.checkpoints.partial import PartialFolder, partial_folders
from loratools.errors import LoratoolsError

__all__ = ["ATTEMPTS", "pause", "refusal", "rival_of", "take_over"]

ATTEMPTS = 30
"""How often a run looks whether another one, that only began, goes on."""

_PAUSE_SECONDS = 0.1


def rival_of(own: PartialFolder, target: Path) -> PartialFolder | None:
    """Another run on the same target that is alive. Raises OSError where the disk does not tell."""
    now = own.liveness.changed() or time.time()
    others = (other for other in partial_folders(target) if other.path != own.path)
    return next((other for other in others if other.liveness.alive(now)), None)


def refusal(rival: PartialFolder, target: Path) -> LoratoolsError:
    """What the second run is told."""
    process = rival.liveness.process()
    return LoratoolsError(
        f"another run is writing this output{'' if process is None else f' ({process})'}",
        file=target,
        hint="wait for it, or choose another output",
    )


def pause() -> None:
    """A moment of random length, so that two who begin together do not go on in step."""
    time.sleep(random.uniform(0.2, 1.0) * _PAUSE_SECONDS)


def take_over(own: PartialFolder, target: Path, fingerprint: RunFingerprint) -> bool:
    """Moves what the newest dead run of this fingerprint left into this run's folder; whether there is one.

    Raises:
        LoratoolsError: dead runs left something, but were asked for something else, or an input changed; or
            what they left is not to be trusted.
        OSError: the disk refused.
    """
    found = [(folder, header) for folder in partial_folders(target) if (header := _work_in(own, folder))]
    found.sort(key=lambda one: one[0].liveness.changed() or 0.0, reverse=True)
    if not found:
        return False
    reasons = [(folder, fingerprint.differs(header)) for folder, header in found]
    chosen = next((folder for folder, reason in reasons if reason is None), None)
    if chosen is None:
        folder, reason = reasons[0]
        raise LoratoolsError(
            f"the interrupted run cannot be resumed: {reason}",
            file=folder.path,
            hint="run without --resume to start afresh; loratools clean removes what it left",
        )
    chosen.refuse_strangers()
    for one, other in (
        (chosen.journal.path, own.journal.path),
        (chosen.output, own.output),
        (chosen.parts, own.parts),
    ):
        with contextlib.suppress(FileNotFoundError):
            again(system.calls.rename, one, other)
    chosen.remove()
    if not files.has_name(own.journal.path):  # it was cleaned away meanwhile
        return False
    own.journal.go_on()
    return True


def _work_in(own: PartialFolder, folder: PartialFolder) -> Mapping[str, Any] | None:
    """The first line of a journal that has finished jobs of a verb that resumes."""
    if folder.path == own.path or not folder.journal.has_jobs():
        return None
    header = folder.journal.header()
    if header is None or header.get("command") is None or folder.replaced is not None:
        return None
    return header
