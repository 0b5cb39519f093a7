"""Whether references that were named together belong together: what provenance says each was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from loratools.checkpoints.checkpoint import Kind
from loratools.checkpoints.provenance import InputRecord, Provenance, config_root
from loratools.errors import LoratoolsError
from loratools.operations.verification.subjects import Subject
from loratools.reports.verification import Check

__all__ = ["origin_checks"]

CHECK = "made from"


def origin_checks(
    subjects: Sequence[Subject], provenances: Mapping[str, Provenance], fingerprints: Mapping[str, str]
) -> Iterator[Check]:
    """A row for each reference that another of them was made from.

    Where just an adapter and a checkpoint are named, that they belong together is what is asked: it is wrong
    then if one of them knows what it was made from, and the other is not it.

    Args:
        provenances, fingerprints: by reference, of those that have one.
    """
    for made in subjects:
        provenance = provenances.get(made.reference)
        for other in subjects if provenance is not None else ():
            if other is not made and provenance is not None:
                yield from _between(made, other, provenance, fingerprints.get(other.reference))
    if len(subjects) == 2:
        yield from _strangers(subjects[0], subjects[1], provenances, fingerprints)


def _between(
    made: Subject, other: Subject, provenance: Provenance, fingerprint: str | None
) -> Iterator[Check]:
    record = _input(provenance, fingerprint)
    if record is None:
        return
    told = f"{other.reference} is the {record.role} that it was made from, by the hash of its tensors"
    yield Check(made.reference, CHECK, True, told)
    try:
        changed = other.opened is not None and record.config not in (None, config_root(other.opened))
    except LoratoolsError:
        return
    if changed:
        yield Check(
            made.reference,
            CHECK,
            False,
            f"the config of {other.reference} is not the one that it was made with",
            None if other.opened is None else str(other.opened.folder),
        )


def _strangers(
    one: Subject, other: Subject, provenances: Mapping[str, Provenance], fingerprints: Mapping[str, str]
) -> Iterator[Check]:
    if one.opened is None or other.opened is None or one.opened.kind is other.opened.kind:
        return
    if not {one.reference, other.reference} <= fingerprints.keys():
        return  # what could not be read is told of where it was
    pairs = ((one, other), (other, one))
    asked = [(made, of) for made, of in pairs if _expects(provenances.get(made.reference), of)]
    if any(_input(provenances[made.reference], fingerprints.get(of.reference)) for made, of in asked):
        return
    for made, of in asked:
        names = ", ".join(sorted({record.name for record in provenances[made.reference].inputs}))
        told = f"{of.reference} is none of what it was made from, which is {names}"
        yield Check(made.reference, CHECK, False, told)
    if not asked:
        told = "neither knows what it was made from, so that this could not be checked"
        yield Check(one.reference, CHECK, None, told)


def _expects(provenance: Provenance | None, other: Subject) -> bool:
    """Whether the provenance names an input of the other's kind."""
    if provenance is None or other.opened is None:
        return False
    is_adapter = other.opened.kind is Kind.ADAPTER
    return any((record.role == "adapter") == is_adapter for record in provenance.inputs)


def _input(provenance: Provenance, fingerprint: str | None) -> InputRecord | None:
    return next((record for record in provenance.inputs if record.fingerprint == fingerprint), None)
