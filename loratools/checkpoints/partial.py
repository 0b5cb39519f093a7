"""Partial folders: what a run has beside its target while it is under way, and after it was killed."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from loratools.checkpoints import files, system
from loratools.checkpoints.files import again
from loratools.checkpoints.journal import Journal
from loratools.checkpoints.liveness import Liveness
from loratools.checkpoints.trees import remove, remove_whole, walk
from loratools.errors import LoratoolsError

__all__ = ["PartialFolder", "leftover", "partial_folders"]

_NAMED = re.compile(r"(?P<stem>.+)\.(?P<what>partial|old)-(?P<run>[0-9a-f]{8})", re.DOTALL)

_ROOM = 255 - len(".partial-") - 8
_MARK = 16
"""Bytes that a name may have on nearly every file system, and hexadecimal digits of a hash."""


@dataclass(frozen=True)
class PartialFolder:
    """`NAME.partial-RUN`: the growing output in a folder of its own, which alone is published, parts of it
    that are still to be packed, and beside them the journal and the record of the process."""

    path: Path

    @classmethod
    def fresh(cls, target: Path) -> PartialFolder:
        """A name that no other run has; a random one, since nothing that is written depends on it."""
        return cls(target.with_name(f"{_stem(target)}.partial-{os.urandom(4).hex()}"))

    @property
    def run(self) -> str:
        return self.path.name[-8:]

    @property
    def old(self) -> Path:
        """Where the output that is replaced stands between two renames."""
        return self.path.with_name(f"{self.path.name.removesuffix(f'.partial-{self.run}')}.old-{self.run}")

    @property
    def output(self) -> Path:
        return self.path / "output"

    @property
    def parts(self) -> Path:
        return self.path / "parts"

    @property
    def journal(self) -> Journal:
        return Journal(self.path / "journal")

    @property
    def liveness(self) -> Liveness:
        return Liveness(self.path / "alive")

    @property
    def ours(self) -> bool:
        """Whether what is in it, not its name, proves that loratools made it."""
        return self.liveness.process() is not None or self.journal.header() is not None

    @property
    def target(self) -> Path | None:
        """What it was to become; None where its journal does not tell."""
        name = (self.journal.header() or {}).get("target")
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            return None
        target = self.path.with_name(name)
        return target if self.path.name == f"{_stem(target)}.partial-{self.run}" else None

    @property
    def replaced(self) -> Path | None:
        """Where in it the output lies that was to be replaced, if the two changed places; None if not."""
        naming = self.journal.events().get("naming")
        if naming is None or naming.get("old") is None:
            return None
        held = [self.output, *(files.listing(self.output) if files.is_folder(self.output) else ())]
        return next((path for path in held if files.identity(path) == naming["old"]), None)

    @property
    def is_published(self) -> bool:
        """Whether its target stands for what it wrote, and is meant to."""
        events, target = self.journal.events(), self.target
        if "naming" not in events or "kept" in events or target is None:
            return False
        return files.identity(target) == events["naming"].get("new")

    def remove(self) -> None:
        """Removes it as far as that goes; what proves whose it is goes last."""
        remove(self.output)
        remove(self.parts)
        remove(self.path)

    def remove_whole(self) -> None:
        """The same. Raises OSError if something stays."""
        remove_whole(self.output)
        remove_whole(self.parts)
        remove_whole(self.path)

    def refuse_strangers(self) -> None:
        """Refuses to write into a folder that holds anything but our own plain files and folders.

        Raises:
            LoratoolsError: a link, a file with another name elsewhere, something of another user.
            OSError: the disk does not tell.
        """
        own = os.geteuid() if hasattr(os, "geteuid") else None
        for here, folders, names in walk(self.path):
            for path in (here, *(here / name for name in (*folders, *names))):
                found = again(system.calls.lstat, path)
                plain = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
                if not plain or (own is not None and found.st_uid != own):
                    raise LoratoolsError(
                        "what an interrupted run left holds something that no run writes",
                        file=path,
                        hint="remove it, or run without --resume",
                    )


def partial_folders(target: Path) -> list[PartialFolder]:
    """Those beside a target that have its name, in the order of their names."""
    found, stem = [], _stem(target)
    for path in files.listing(target.parent):
        name = leftover(path)
        if name is None or (name["what"], name["stem"]) != ("partial", stem):
            continue
        if files.is_folder(path) and not files.is_link(path):
            found.append(PartialFolder(path))
    return found


def leftover(path: Path) -> re.Match[str] | None:
    """The name's parts where it is one that a run gives: `stem`, `what` (partial or old), `run`."""
    return _NAMED.fullmatch(path.name)


def _stem(target: Path) -> str:
    """The target's name, or of one that is too long to be lengthened its start and a hash of it."""
    name = os.fsencode(target.name)
    if len(name) <= _ROOM:
        return target.name
    mark = blake3(name).hexdigest()[:_MARK]
    return f"{os.fsdecode(name[: _ROOM - _MARK - 1])}~{mark}"
