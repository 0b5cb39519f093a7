"""What `verify` was given: each reference opened, or the reason why it cannot be, which is a finding too."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.files import exists, has_name, is_folder
from loratools.checkpoints.provenance import FILE
from loratools.checkpoints.reference import open_checkpoint, split_weight
from loratools.errors import LoratoolsError, UnsupportedError, UsageError
from loratools.operations.undo.record import UndoRecord, records_in
from loratools.operations.verification.tensors import Seen, TensorJob

__all__ = ["Subject", "kinds_of", "open_subjects"]

WEIGHTS = ""
"""The part of a subject that its own tensors are, beside those of its undo records."""


@dataclass(frozen=True)
class Subject:
    """A reference: opened, or broken for the reason in `damage`.

    `written` is what the user wrote, with a weight perhaps. `records` are the undo records beside it, and
    `record_damage` says which of them cannot be read, and why.
    """

    written: str
    reference: str
    weight: float | None
    opened: Checkpoint | None
    damage: LoratoolsError | None = None
    records: tuple[UndoRecord, ...] = ()
    record_damage: tuple[LoratoolsError, ...] = ()

    @property
    def jobs(self) -> tuple[TensorJob, ...]:
        """Reads every tensor, and every piece of its undo records."""
        own = () if self.opened is None else self.opened.items()
        return (
            *(TensorJob(self.reference, WEIGHTS, spec) for _, spec in own),
            *(
                TensorJob(self.reference, record.path.name, spec, numbers=False)
                for record in self.records
                for _, spec in sorted(record.pieces.items())
            ),
        )


@dataclass(frozen=True)
class Reading:
    """What reading all of a subject's tensors told, by name, and by undo record and name."""

    tensors: Mapping[str, Seen]
    pieces: Mapping[tuple[str, str], Seen] = field(default_factory=dict)

    @property
    def roots(self) -> dict[str, str]:
        """The hashes of the subject's tensors, as far as they could be read."""
        return {name: seen.root for name, seen in self.tensors.items() if seen.root is not None}


def open_subjects(references: Sequence[str | os.PathLike[str]]) -> tuple[Subject, ...]:
    """Opens each reference from its headers.

    Raises:
        UsageError: one is named twice.
        LoratoolsError: there is no such reference, or it is of a format that is not read here: there is
            nothing to look at then. Whatever is broken is no error, but found.
    """
    subjects = tuple(_open(os.fspath(reference)) for reference in references)
    names = [subject.reference for subject in subjects]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("the reference is named twice", file=twice, hint="name each once")
    return subjects


def kinds_of(subjects: Sequence[Subject]) -> tuple[list[Subject], list[Subject]]:
    """The checkpoints and the adapters, as far as they could be opened."""
    opened = [(subject, subject.opened) for subject in subjects if subject.opened is not None]
    return (
        [subject for subject, one in opened if one.kind is Kind.CHECKPOINT],
        [subject for subject, one in opened if one.kind is Kind.ADAPTER],
    )


def _open(written: str) -> Subject:
    reference, weight = split_weight(written)
    try:
        opened = open_checkpoint(reference)
    except LoratoolsError as error:
        beyond = isinstance(error, UnsupportedError) and not exists(Path(reference) / FILE)
        there = any(has_name(place) for place in (reference, error.file) if place)
        if beyond or isinstance(error, UsageError) or not there:
            raise
        return Subject(written, reference, weight, None, damage=error)
    records, damage = _records(opened)
    return Subject(written, reference, weight, opened, None, records, damage)


def _records(opened: Checkpoint) -> tuple[tuple[UndoRecord, ...], tuple[LoratoolsError, ...]]:
    records, damage = [], []
    try:
        paths = records_in(opened.folder) if is_folder(opened.root) else []
    except LoratoolsError as error:
        return (), (error,)
    for path in paths:
        try:
            records.append(UndoRecord.read(path))
        except LoratoolsError as error:
            damage.append(error)
    return tuple(records), tuple(damage)
