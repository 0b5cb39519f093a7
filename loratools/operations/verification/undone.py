"""Undo records: whether each is what was written, and belongs to the weights that it lies beside."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.hashing import file_root
from loratools.errors import LoratoolsError
from loratools.operations.undo.record import UndoRecord
from loratools.operations.verification.rules import found
from loratools.operations.verification.subjects import Reading, Subject
from loratools.reports.verification import Check

__all__ = ["undo_checks"]

CHECK = "undo record"


def undo_checks(
    subject: Subject, reading: Reading, told: Collection[tuple[str | None, str | None]]
) -> Iterator[Check]:
    """Holds each record against its own hashes, the last against the weights, and each against the next.

    Args:
        told: the (file, tensor) of what was found already, and is not told again.
    """
    for error in subject.record_damage:
        yield found(subject, CHECK, error)
    if subject.opened is None or not subject.records:
        return
    wrong = len(subject.record_damage)
    findings = (
        *(check for record in subject.records for check in _pieces(subject, record, reading)),
        *_chain(subject),
        *_weights(subject, subject.opened, reading),
        *_files(subject, subject.opened),
    )
    for check in findings:
        wrong += 1
        if (check.file, check.tensor) not in told:
            yield check
    if not wrong:
        count = len(subject.records)
        merges = "the last merge" if count == 1 else f"the last {count} merges"
        yield Check(subject.reference, CHECK, True, f"whole, and of these weights: {merges} can be taken off")


def _pieces(subject: Subject, record: UndoRecord, reading: Reading) -> Iterator[Check]:
    for name, expected in record.roots.items():
        seen = reading.pieces[record.path.name, name]
        if seen.error is not None:
            yield found(subject, CHECK, seen.error)
        elif seen.root != expected:
            told = "damaged: its bytes are not those that were written"
            yield Check(subject.reference, CHECK, False, told, str(record.path), name)


def _chain(subject: Subject) -> Iterator[Check]:
    for earlier, later in pairwise(subject.records):
        if {name: tensor.root for name, tensor in later.tensors.items()} != dict(earlier.merged):
            told = "it does not follow on the record before it"
            yield Check(subject.reference, CHECK, False, told, str(later.path))


def _weights(subject: Subject, opened: Checkpoint, reading: Reading) -> Iterator[Check]:
    merged, roots = subject.records[-1].merged, reading.roots
    for name in sorted(merged.keys() | opened.tensors.keys()):
        if name not in opened:
            told, file = "the merge wrote this tensor, and it is not there any more", opened.root
        elif name not in merged:
            told, file = "the merge did not write this tensor", opened[name].file
        elif name in roots and roots[name] != merged[name]:
            told, file = "its values are not those that the merge wrote", opened[name].file
        else:
            continue
        yield Check(subject.reference, CHECK, False, told, str(file), name)


def _files(subject: Subject, opened: Checkpoint) -> Iterator[Check]:
    for relative, (root, kept) in subject.records[-1].files.items():
        path = opened.folder / relative
        try:
            if kept or file_root(path) == root:
                continue
            told = "this file of the base was changed since the merge"
        except LoratoolsError as error:
            told = error.message
        yield Check(subject.reference, CHECK, False, told, str(path))
