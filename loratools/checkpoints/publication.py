"""`Publication`: the only place that makes an output visible, whole or not at all.

Everything is written into a partial folder beside the target, flushed to the disk, and given its name in one
rename; what a run needs for itself, its journal and parts still to be packed, lies beside it there. An output
that is replaced changes places with the new one in one step where the system can, and in two, the old copy
under a recoverable name in between, where it cannot.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from loratools.checkpoints import files, system
from loratools.checkpoints.disk import FULL, disk_error, disk_errors
from loratools.checkpoints.exchange import exchange, rename_to_new
from loratools.checkpoints.files import again
from loratools.checkpoints.fingerprints import RunFingerprint
from loratools.checkpoints.flushing import flush_file, flush_folder
from loratools.checkpoints.liveness import Heart
from loratools.checkpoints.partial import PartialFolder
from loratools.checkpoints.rivals import ATTEMPTS, pause, refusal, rival_of, take_over
from loratools.checkpoints.target import WEIGHT_SUFFIXES, check_target, real_target
from loratools.checkpoints.trees import remove, walk
from loratools.errors import LoratoolsError, advise

__all__ = ["Publication", "check_target"]

_LAST = ("config.json", "adapter_config.json", "loratools.json")
"""Flushed after the weights, with the indexes: whoever finds them finds what they speak of."""


RESUME = "what was done is kept: the same command with --resume goes on from there"
"""What a run that fails with `resume` says."""


class Publication:
    """A partial folder beside the target, made whole by `publish()` and removed by anything else.

    Used as a context manager; `folder` exists inside of the `with`, and `parts` beside it, which is not
    published. With `one_file`, exactly one file is written into the folder, and that file becomes the target.
    Missing parents of the target are created, and removed again if nothing is published.

    Args:
        target: the folder, or with `one_file` the file, that is to appear.
        force: whether an output that exists may be replaced.
        inputs: files and folders that are read: the target is none of them, nor inside or above one.
        suffixes: those of the files that `force` may replace.
        fingerprint: all that the result depends on; a run that has one may be resumed.
        resume: take over what a dead run with the same fingerprint left, and leave what is done for the next
            one where this run fails or is interrupted. `resumed` then says whether there was such a run.

    Raises:
        LoratoolsError: the target is refused (see `check_target`; nothing has been created then), or the disk
            refused something: one line that names the file as it would have been called.
    """

    def __init__(
        self,
        target: Path,
        *,
        force: bool,
        inputs: Sequence[Path],
        one_file: bool = False,
        suffixes: frozenset[str] = WEIGHT_SUFFIXES,
        fingerprint: RunFingerprint | None = None,
        resume: bool = False,
    ) -> None:
        check_target(target, force=force, inputs=inputs, suffixes=suffixes)
        self.target = target
        self.published = False
        with disk_errors(target, "look at the output"):
            self._final = real_target(target)
            self._inputs = tuple(files.real(path) for path in inputs)
        self._force = force
        self._one_file = one_file
        self._suffixes = suffixes
        self._created: list[Path] = []
        self._ours: list[int] | None = None
        self._fingerprint = fingerprint
        self._resume = resume and fingerprint is not None
        self.resumed = False
        self._use(PartialFolder.fresh(self._final))

    def __enter__(self) -> Publication:
        try:
            with disk_errors(self.target, "create the output"):
                self._create_parents()
                self._claim()
                self._heart.start()
                self._begin()
        except BaseException:
            self._heart.stop()
            if not (self._resume and self._keep()):
                self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heart.stop()
        if self.published or self._may_stand():
            return  # done, or else: beside the new output lies the old one, which could not be put back
        told: BaseException | None = self._in_the_user_s_words(error)
        if self._resume and error is not None and self._keep():
            told = advise(told or error, RESUME)
        else:
            self._discard()
        if told is not None and told is not error:
            raise told from error

    def publish(self) -> tuple[str, ...]:
        """Flushes everything to the disk and makes it visible under the target's name.

        If anything fails before the end, the target is as it was. Returns warnings: where the copy that was
        replaced could not be removed.
        """
        with disk_errors(self.target, "publish the output"):
            files.require_own_path(self.folder)
            source = self._source()
            self._ours = files.identity(source)
            self._flush()
            self._note_what_is_named()
            check_target(self._final, force=self._force, inputs=self._inputs, suffixes=self._suffixes)
            try:
                self._name(source)
                for folder in (self._final.parent, *(made.parent for made in self._created)):
                    flush_folder(folder)
            except BaseException as error:
                self._take_back(source)
                self._say_what_is_left(source, error)
                raise
        self.published = True
        return self._remove_old(source)

    def _use(self, partial: PartialFolder) -> None:
        self._partial = partial
        self._old = partial.old
        self._heart = Heart(partial.liveness)
        self.folder = partial.output
        self.parts = partial.parts
        self.journal = partial.journal

    def _create_parents(self) -> None:
        missing = [parent for parent in self._final.parents if not files.exists(parent)]
        for parent in reversed(missing):
            with contextlib.suppress(FileExistsError):
                again(system.calls.mkdir, parent)
                self._created.append(parent)

    def _claim(self) -> None:
        """Makes the partial folder, unless another run is writing this output (see `rivals`)."""
        rival = None
        for _ in range(ATTEMPTS):
            self._use(PartialFolder.fresh(self._final))
            try:
                again(system.calls.mkdir, self._partial.path)
            except FileExistsError:
                continue
            files.require_own_path(self._partial.path)  # a race for a folder above it is lost before any file
            self._partial.liveness.begin()
            rival = rival_of(self._partial, self._final)
            if rival is None:
                return
            self._partial.remove()
            if rival.journal.header() is not None:
                break
            pause()
        assert rival is not None
        raise refusal(rival, self.target)

    def _begin(self) -> None:
        """The journal and the folder of the output: those of a dead run, or new ones."""
        if self._resume and self._fingerprint is not None:
            self.resumed = take_over(self._partial, self._final, self._fingerprint)
        if not self.resumed:
            asked = {} if self._fingerprint is None else self._fingerprint.to_json()
            self.journal.begin({"target": self._final.name, **asked})
        files.make_folder(self.folder)

    def _keep(self) -> bool:
        """Leaves the partial folder to the next run, if there is anything to resume in it."""
        try:
            if not self.journal.has_jobs():
                return False
            self._partial.liveness.end()
        except (OSError, LoratoolsError):
            return False
        return True

    def _source(self) -> Path:
        """What is to be given the target's name: the folder, or the one file in it."""
        if not self._one_file:
            return self.folder
        written = files.listing(self.folder)
        if len(written) != 1 or not files.is_file(written[0]):
            raise ValueError(f"an output of one file cannot be made of {len(written)} entries")
        return written[0]

    def _flush(self) -> None:
        """Weights first, indexes and configs last, then the folders from the innermost out."""
        for path in _in_order_of_flushing(self.folder):
            with disk_errors(self._as_published(path), "flush to the disk"):
                (flush_folder if files.is_folder(path) else flush_file)(path)

    def _note_what_is_named(self) -> None:
        """Which folder is the new output and which the old one, for whoever finds both after a power cut."""
        self.journal.note("naming", new=self._ours, old=files.identity(self._final))
        flush_file(self.journal.path)
        flush_folder(self._partial.path)

    def _name(self, source: Path) -> None:
        if not self._force or not files.has_name(self._final):
            rename_to_new(source, self._final)
        elif not exchange(source, self._final):
            again(system.calls.rename, self._final, self._old)
            rename_to_new(source, self._final)

    def _take_back(self, source: Path) -> None:
        """Gives the names back, by what the disk shows: an interruption may come between any two steps."""
        with contextlib.suppress(OSError):
            if self._stands():
                if not files.has_name(source):
                    again(system.calls.rename, self._final, source)
                else:
                    exchange(source, self._final)
            if files.has_name(self._old) and not files.has_name(self._final):
                again(system.calls.rename, self._old, self._final)

    def _say_what_is_left(self, source: Path, error: BaseException) -> None:
        """Where the output that was there before is to be found, if its name could not be given back."""
        old, there = self._old, False
        with contextlib.suppress(OSError):
            old = source if self._stands() and files.has_name(source) else old
            there = files.has_name(old)
            if there:
                self.journal.note("kept")
        if there and isinstance(error, OSError):
            raise LoratoolsError(
                f"cannot publish the output: {error.strerror}; what was there before could not be put back",
                file=old,
                hint=f"it is whole: rename it to {self._final.name} yourself",
            ) from error

    def _stands(self) -> bool:
        """Whether the target's name stands for what this publication wrote."""
        return self._ours is not None and files.identity(self._final) == self._ours

    def _may_stand(self) -> bool:
        """The same; where the disk does not tell, nothing may be removed."""
        try:
            return self._stands()
        except OSError:
            return True

    def _remove_old(self, source: Path) -> tuple[str, ...]:
        """Removes what was replaced, and then what proves whose it was. The new output stands: no error and
        no interruption undoes that."""
        with contextlib.suppress(BaseException):
            if files.has_name(source):
                again(system.calls.rename, source, self._old)
            remove(self._old)
            if _gone(self._old):
                self._partial.remove()
        left = [self._old, self._partial.path]
        with contextlib.suppress(BaseException):
            left = [path for path in left if not _gone(path)]
        told = ", ".join(map(str, left))
        return (f"what the output replaced could not be removed: {told}",) if left else ()

    def _discard(self) -> None:
        self._partial.remove()
        for parent in reversed(self._created):
            with contextlib.suppress(OSError):
                again(system.calls.rmdir, parent)

    def _in_the_user_s_words(self, error: BaseException | None) -> LoratoolsError | None:
        """An error of the disk, or one that names a file of the partial folder, under its final name."""
        if isinstance(error, LoratoolsError):
            if error.file is None or not self._is_within(Path(error.file)):
                return None
            return LoratoolsError(
                error.message,
                file=self._as_published(Path(error.file)),
                tensor=error.tensor,
                hint=error.hint,
                exit_code=error.exit_code,
            )
        if isinstance(error, OSError):
            named = None if error.filename is None else Path(os.fsdecode(error.filename))
            if named is not None and self._is_within(named):
                return disk_error(error, self._as_published(named))
            if named is None and error.errno in FULL:
                return disk_error(error, self.target)
        return None

    def _as_published(self, path: Path) -> Path:
        """The name that a path of the partial folder will have, or would have had."""
        if self._one_file or self.folder not in path.parents:
            return self.target
        return self.target / path.relative_to(self.folder)

    def _is_within(self, path: Path) -> bool:
        return self._partial.path in (path, *path.parents)


def _in_order_of_flushing(folder: Path) -> Iterator[Path]:
    folders: list[Path] = []
    others: list[Path] = []
    for here, _, names in walk(folder):
        folders.insert(0, here)
        others.extend(here / name for name in names)
    regular = sorted(path for path in others if not files.is_link(path))
    yield from sorted(regular, key=lambda path: path.name in _LAST or path.name.endswith(".index.json"))
    yield from folders


def _gone(path: Path) -> bool:
    """Whether nothing has that name: known only from the answer that says so, not from an error."""
    try:
        again(system.calls.lstat, path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
