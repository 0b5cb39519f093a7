"""Everything that is said of each reference by itself, and of those that were made from one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loratools.checkpoints.provenance import Provenance, fingerprint_of
from loratools.operations.verification.origins import origin_checks
from loratools.operations.verification.rules import finite_checks, header_checks, rule_checks
from loratools.operations.verification.subjects import WEIGHTS, Reading, Subject
from loratools.operations.verification.tensors import Seen, TensorJob
from loratools.operations.verification.undone import undo_checks
from loratools.operations.verification.written import written_checks
from loratools.reports.verification import Check, Verified

__all__ = ["Integrity", "integrity_of"]


@dataclass(frozen=True)
class Integrity:
    """What was read, and what was found."""

    read: Sequence[tuple[TensorJob, Seen]]
    references: tuple[Verified, ...]
    checks: tuple[Check, ...]
    provenances: Mapping[str, Provenance]
    fingerprints: Mapping[str, str]

    @property
    def sound(self) -> bool:
        return all(check.ok is not False for check in self.checks)


def integrity_of(subjects: Sequence[Subject], read: Sequence[tuple[TensorJob, Seen]]) -> Integrity:
    """The checks of all subjects, from what reading each of their tensors told."""
    checks: list[Check] = []
    provenances: dict[str, Provenance] = {}
    prints: dict[str, str] = {}
    readings = _readings(read)
    for subject in subjects:
        reading = readings.get(subject.reference, Reading({}))
        written = written_checks(subject, reading)
        if written.provenance is not None:
            provenances[subject.reference] = written.provenance
        if (fingerprint := _fingerprint(subject, reading)) is not None:
            prints[subject.reference] = fingerprint
        own = (
            *header_checks(subject),
            *rule_checks(subject),
            *finite_checks(subject, reading),
            *written.checks,
        )
        told = {(check.file, check.tensor) for check in own if check.ok is False}
        checks += (*own, *undo_checks(subject, reading, told))
    checks += origin_checks(subjects, provenances, prints)
    rows = tuple(_row(subject, prints) for subject in subjects)
    return Integrity(read, rows, tuple(checks), provenances, prints)


def _readings(read: Sequence[tuple[TensorJob, Seen]]) -> dict[str, Reading]:
    """What was read, by reference."""
    found: dict[str, tuple[dict[str, Seen], dict[tuple[str, str], Seen]]] = {}
    for job, seen in read:
        tensors, pieces = found.setdefault(job.reference, ({}, {}))
        if job.part == WEIGHTS:
            tensors[job.name] = seen
        else:
            pieces[job.part, job.name] = seen
    return {reference: Reading(*parts) for reference, parts in found.items()}


def _fingerprint(subject: Subject, reading: Reading) -> str | None:
    """The hash of all that it holds; None where some of it could not be read."""
    roots = reading.roots
    if subject.opened is None or len(roots) < len(subject.opened):
        return None
    return fingerprint_of(subject.opened.tensors.values(), roots)


def _row(subject: Subject, prints: dict[str, str]) -> Verified:
    opened = subject.opened
    if opened is None:
        return Verified(subject.reference, None, None, 0, 0, None)
    return Verified(
        subject.reference,
        opened.kind.value,
        opened.format,
        len(opened),
        opened.bytes,
        prints.get(subject.reference),
    )
