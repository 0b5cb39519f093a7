"""Hashes: whether every byte of an output is the one that its provenance says was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.claims import inside
from loratools.checkpoints.files import is_file, is_folder, read_bytes
from loratools.checkpoints.hashing import file_root, root_of
from loratools.checkpoints.provenance import FILE, HEADER_KEY, Provenance, read_provenance
from loratools.checkpoints.safetensors import read_start
from loratools.checkpoints.seal import holds
from loratools.checkpoints.trees import walk
from loratools.errors import LoratoolsError
from loratools.operations.verification.rules import found
from loratools.operations.verification.subjects import Reading, Subject
from loratools.reports.verification import Check

__all__ = ["Written", "written_checks"]


@dataclass(frozen=True)
class Written:
    """A subject's provenance, if it has one that can be read, and what was found of it."""

    provenance: Provenance | None
    checks: tuple[Check, ...]


def written_checks(subject: Subject, reading: Reading) -> Written:
    """Holds tensors, headers, files and the provenance itself against the hashes in it."""
    opened = subject.opened
    if opened is None:
        return Written(None, ())
    try:
        provenance = read_provenance(opened.root)
        hidden = None if provenance is not None else _under_another_key(opened)
    except LoratoolsError as error:
        return Written(None, (found(subject, "provenance", error),))
    if hidden is not None:
        told = f"the header holds a provenance under the key {hidden!r}, not {HEADER_KEY!r}"
        return Written(None, (Check(subject.reference, "provenance", False, told, str(opened.root)),))
    if provenance is None:
        told = "it carries no provenance, so that there are no hashes to hold it against"
        return Written(None, (Check(subject.reference, "hashes", None, told),))
    checks = _Against(subject, opened, provenance, reading)
    return Written(provenance, tuple(checks.all()))


def _under_another_key(opened: Checkpoint) -> str | None:
    """The key of a header's metadata that holds a provenance, though it is not the one that should."""
    if is_folder(opened.root):
        return None
    return next((key for key, text in opened.metadata.items() if '"seal":"' in text), None)


@dataclass(frozen=True)
class _Against:
    """One subject against its provenance."""

    subject: Subject
    opened: Checkpoint
    provenance: Provenance
    reading: Reading

    @property
    def _one_file(self) -> bool:
        """Whether one file was named; beside it, others of the same output may lie."""
        return not is_folder(self.opened.root)

    @property
    def _in_header(self) -> bool:
        return self._one_file and HEADER_KEY in self.opened.metadata

    def all(self) -> Iterator[Check]:
        yield from self._seal()
        yield from self._tensors()
        if not self._in_header:
            yield from self._headers()
            yield from self._files()

    def _check(
        self, check: str, ok: bool | None, detail: str, file: Path | None = None, tensor: str | None = None
    ) -> Check:
        place = None if file is None else str(file)
        return Check(self.subject.reference, check, ok, detail, place, tensor)

    def _seal(self) -> Iterator[Check]:
        made = (
            f"{self.provenance.command} of {_listed(self.provenance)}, by loratools {self.provenance.version}"
        )
        try:
            place, data = self._carrier()
        except (LoratoolsError, OSError) as error:
            yield self._check("provenance", False, f"it cannot be read: {error}")
            return
        if self.provenance.seal is None:
            yield self._check(
                "provenance", None, f"{made}; it has no seal, so that its own bytes are not covered"
            )
        elif holds(data, self.provenance.seal):
            yield self._check("provenance", True, f"as it was written: {made}")
        else:
            what = "the header" if self._in_header else "the provenance"
            yield self._check(
                "provenance", False, f"{what} is not what was written: its seal is broken", place
            )

    def _carrier(self) -> tuple[Path, bytes]:
        """Where the provenance stands, and the bytes that its seal covers."""
        if self._in_header:
            return self.opened.root, read_start(self.opened.root)
        path = self.opened.folder / FILE
        return path, read_bytes(path)

    def _tensors(self) -> Iterator[Check]:
        expected, wrong = self.provenance.tensors, 0
        for name, seen in self.reading.tensors.items():
            if seen.error is not None:
                continue  # it is told of where it was read
            file = self.opened[name].file
            if name not in expected:
                wrong += 1
                yield self._check(
                    "hashes", False, "a tensor of which the provenance knows nothing", file, name
                )
            elif seen.root != expected[name]:
                wrong += 1
                yield self._check("hashes", False, "its values are not those that were written", file, name)
        for name in sorted(expected.keys() - self.reading.tensors.keys()) if self._whole else ():
            wrong += 1
            told = "a tensor that was written is not there any more"
            yield self._check("hashes", False, told, self.opened.root, name)
        unread = any(seen.error is not None for seen in self.reading.tensors.values())
        if not wrong and not unread:
            yield self._check(
                "hashes", True, f"{len(self.reading.tensors):,} tensors have the values that were written"
            )

    @property
    def _whole(self) -> bool:
        """Whether the subject is all that was written, not one file of several."""
        return self._in_header or not self._one_file

    def _headers(self) -> Iterator[Check]:
        folder, expected = self.opened.folder, self.provenance.headers
        if self._one_file:
            expected = {name: root for name, root in expected.items() if folder / name == self.opened.root}
        yield from self._each("header", expected, lambda path: root_of(read_start(path)), "header")

    def _files(self) -> Iterator[Check]:
        if self._one_file:
            return
        yield from self._each("file", self.provenance.files, file_root, "content")

    def _each(
        self, check: str, expected: Mapping[str, str], root: Callable[[Path], str], what: str
    ) -> Iterator[Check]:
        folder, wrong = self.opened.folder, 0
        for name, known in expected.items():
            path = folder / name
            try:
                if root(inside(path, folder)) == known:
                    continue
                told = f"its {what} is not what was written"
            except LoratoolsError as error:
                told = error.message
            wrong += 1
            yield self._check(f"{check}s", False, told, path)
        if not expected:
            yield self._check(f"{check}s", None, f"the provenance knows no {check}s")
        elif not wrong:
            noun = check if len(expected) == 1 else f"{check}s"
            beside = self._beside() if check == "file" else ""
            yield self._check(f"{check}s", True, f"{len(expected):,} {noun} as written{beside}")

    def _beside(self) -> str:
        """What lies in the folder and is not covered."""
        known = {*self.provenance.headers, *self.provenance.files, FILE}
        others = sorted(
            path.relative_to(self.opened.folder).as_posix()
            for here, _, names in walk(self.opened.folder)
            for path in (here / name for name in names)
            if is_file(path) and path.relative_to(self.opened.folder).as_posix() not in known
        )
        if not others:
            return ", and no other lies beside them"
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        return f"; nothing is known of {', '.join(others[:3])}{more}"


def _listed(provenance: Provenance) -> str:
    return ", ".join(record.name for record in provenance.inputs) or "nothing"
