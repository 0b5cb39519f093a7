"""`clean`: what killed runs left beside their targets goes; what lives, is not ours, or is precious stays."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from loratools import __version__
from loratools.checkpoints import files, system
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import again
from loratools.checkpoints.partial import PartialFolder, leftover
from loratools.checkpoints.trees import remove, remove_whole, walk
from loratools.errors import LoratoolsError
from loratools.reports.report import Leftover, Report

__all__ = ["clean"]

_NOT_OURS = "nothing in it proves that loratools wrote it"


def clean(folder: str | os.PathLike[str], *, dry_run: bool = False) -> Report:
    """Removes what interrupted runs left below a folder: partial outputs, and copies that were replaced.

    Never removed: what a run that is still at work writes; what has the name of a leftover, but holds no
    journal of loratools; and an output that was moved aside and is the only copy, since the one that was to
    replace it is not there. Each is reported, with the reason.

    Args:
        folder: where to look, and in all folders below it. Links are not followed.
        dry_run: remove nothing, and say what would be.

    Returns:
        A report whose `details["leftovers"]` has a row for each: path, bytes, action (`removed`, `left`, or
        `removable` in a dry run), reason; and `details["freed_bytes"]`.

    Raises:
        LoratoolsError: there is no such folder, or it cannot be read.
    """
    started = time.perf_counter()
    root = Path(folder)
    with disk_errors(root, "open"):
        if not files.is_folder(root):
            raise LoratoolsError(
                "no such folder", file=root, hint="name the folder that outputs were written to"
            )
        found = list(_leftovers(root))
        now = _now(root) if found and not dry_run else time.time()
    rows = [_cleaned(path, now, dry_run=dry_run) for path in found]
    return Report(
        command="clean",
        version=__version__,
        output=None,
        coverage=None,
        warnings=tuple(f"{row.path}: {row.reason}" for row in rows if row.precious),
        seconds=time.perf_counter() - started,
        peak_bytes=None,
        details={
            "leftovers": tuple(rows),
            "freed_bytes": sum(row.bytes for row in rows if row.action == "removed"),
        },
        dry_run=dry_run,
    )


def _leftovers(root: Path) -> Iterator[Path]:
    """What has a leftover's name: copies that were moved aside first, since the partial folder beside one
    proves whose it is."""
    for here, folders, names in walk(root):
        named = [name for name in (*folders, *names) if leftover(Path(name))]
        folders[:] = [name for name in folders if name not in named]
        yield from (here / name for name in sorted(named, key=_is_partial))


def _is_partial(name: str) -> bool:
    return ".partial-" in name


def _now(root: Path) -> float:
    """The present time by the clock of the file system: that of a file that is touched for it."""
    probe = root / f".loratools-clock-{os.urandom(4).hex()}"
    try:
        files.write_bytes(probe, b"")
        return again(system.calls.stat, probe).st_mtime
    except OSError:  # a folder that is read-only: nothing can be removed from it either
        return time.time()
    finally:
        remove(probe)


def _cleaned(path: Path, now: float, *, dry_run: bool) -> Leftover:
    """What becomes of one leftover, and why."""
    try:
        size = _size(path)
        reason, precious = _reason_to_stay(path, now)
        if reason is not None:
            return Leftover(path, size, "left", reason, precious)
        if dry_run:
            return Leftover(path, size, "removable", "the run that wrote it is dead")
        _remove(path)
    except OSError as error:
        return Leftover(path, 0, "left", f"cannot be removed: {error.strerror}")
    return Leftover(path, size, "removed", "the run that wrote it is dead")


def _size(path: Path) -> int:
    status = again(system.calls.lstat, path)
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size
    return sum(
        again(system.calls.lstat, here / name).st_size for here, _, names in walk(path) for name in names
    )


def _reason_to_stay(path: Path, now: float) -> tuple[str | None, bool]:
    """Why a leftover must not be removed, and whether it is somebody's only copy; None where it may be."""
    name = leftover(path)
    assert name is not None
    partial = PartialFolder(path.with_name(f"{name['stem']}.partial-{name['run']}"))
    if files.is_link(partial.path) or not files.is_folder(partial.path) or not partial.ours:
        return _NOT_OURS, False
    if partial.liveness.alive(now):
        return f"a run is writing it ({partial.liveness.process() or 'on another machine'})", False
    target = partial.target
    if name["what"] == "old":
        return _only_copy(path, target) if target is None or not files.has_name(target) else (None, False)
    if files.has_name(partial.old):
        return f"it proves whose {partial.old.name} is, which stays", False
    if (held := partial.replaced) is not None and not partial.is_published:
        return _only_copy(held, target)
    return None, False


def _only_copy(held: Path, target: Path | None) -> tuple[str, bool]:
    if target is None:
        return "it is an output, and which one is not known", True
    back = f"mv {quote(str(held))} {quote(str(target))}"
    return f"it may be the only copy of {target.name}; to put it back: {back}", True


def _remove(path: Path) -> None:
    """Under a name of its own first, so that no run can take over what is being removed.

    Raises:
        OSError: something of it stays.
    """
    name = leftover(path)
    assert name is not None
    if name["what"] == "old":
        remove_whole(path)
        return
    taken = PartialFolder(path.with_name(f"{name['stem']}.partial-{os.urandom(4).hex()}"))
    again(system.calls.rename, path, taken.path)
    taken.remove_whole()
