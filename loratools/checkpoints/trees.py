"""Whole folders over the seam: walked without following links, and removed as far as that goes."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from loratools.checkpoints import system
from loratools.checkpoints.files import again, close_handle, has_name, listing, status


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder from `folder` down, with the names of its folders and of all else, sorted.

    Folders taken out of the first list are not entered. A link to a folder stands among the folders, as it
    does in `os.walk`, and is not followed.

    Raises:
        OSError: a folder cannot be listed; what lies in it is not left out in silence.
    """
    ahead = [folder]
    while ahead:  # no recursion: a tree may be deeper than that goes
        here = ahead.pop()
        folders: list[str] = []
        others: list[str] = []
        for path in listing(here):
            found = status(path)
            (folders if found is not None and stat.S_ISDIR(found.st_mode) else others).append(path.name)
        yield here, folders, others
        for name in reversed(folders):
            below = status(here / name, follow=False)
            if below is not None and stat.S_ISDIR(below.st_mode):
                ahead.append(here / name)


def remove(path: Path) -> None:
    """Removes a file or a tree as far as it can, without following links: what cannot be removed stays."""
    _Removal().of(path)


def remove_whole(path: Path) -> None:
    """The same, and raises the first OSError if something stays."""
    removal = _Removal()
    removal.of(path)
    if removal.failures and has_name(path):
        raise removal.failures[0]


class _Removal:
    """What could not be removed is noted, and the rest goes."""

    def __init__(self) -> None:
        self.failures: list[OSError] = []

    def of(self, path: Path) -> None:
        with self._noting():
            if not stat.S_ISDIR(again(system.calls.lstat, path).st_mode):
                again(system.calls.unlink, path)
                return
            if system.CAN_STAY_WITHIN:
                self._empty(path, None)
            else:
                for below in listing(path):
                    self.of(below)
            again(system.calls.rmdir, path)

    def _empty(self, folder: Path | str, within: int | None) -> None:
        """Empties a folder through its handle, so that no link put in its place meanwhile leads elsewhere."""
        flags = os.O_RDONLY | system.FOLDER | system.NO_LINK
        handle = again(system.calls.open, folder, flags, within=within)
        try:
            for name in again(system.calls.list, handle):
                with self._noting():
                    if not stat.S_ISDIR(again(system.calls.lstat, name, within=handle).st_mode):
                        again(system.calls.unlink, name, within=handle)
                        continue
                    self._empty(name, handle)
                    again(system.calls.rmdir, name, within=handle)
        finally:
            with contextlib.suppress(OSError):
                close_handle(handle)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failures.append(error)
