"""Rules of formats that headers alone do not settle: pairs of factors, configs, what has to lie beside."""

from __future__ import annotations

from collections.abc import Iterator

from loratools.adapters.peft import read_adapter
from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.files import is_folder
from loratools.checkpoints.folder import ADAPTER_CONFIG, MODEL_CONFIG
from loratools.errors import LoratoolsError, UnsupportedError
from loratools.operations.verification.subjects import Reading, Subject
from loratools.reports.verification import Check

__all__ = ["finite_checks", "found", "header_checks", "rule_checks"]


def found(subject: Subject, check: str, error: LoratoolsError) -> Check:
    """An error as a finding."""
    detail = error.message + (f"; {error.hint}" if error.hint else "")
    return Check(subject.reference, check, False, detail, error.file, error.tensor)


def header_checks(subject: Subject) -> Iterator[Check]:
    """Whether it could be opened: its headers, its index, and sizes against both."""
    if subject.opened is None:
        assert subject.damage is not None
        yield found(subject, "format", subject.damage)
        return
    count = len(subject.opened.shards)
    files = f"{count} files and their index" if count > 1 else subject.opened.shards[0].name
    held = f"{len(subject.opened):,} tensors in {files}: names, shapes, sizes and places agree"
    yield Check(subject.reference, "format", True, held)


def rule_checks(subject: Subject) -> Iterator[Check]:
    """What its kind needs beside its tensors."""
    opened = subject.opened
    if opened is None:
        return
    yield from (_adapter if opened.kind is Kind.ADAPTER else _checkpoint)(subject, opened)


def _adapter(subject: Subject, opened: Checkpoint) -> Iterator[Check]:
    if not opened.config and opened.format == "peft":
        ok = False if is_folder(opened.root) else None
        told = f"no {ADAPTER_CONFIG} beside it: alpha, and so its scaling, is unknown"
        yield Check(subject.reference, "config", ok, told, str(opened.root))
        return
    if opened.format != "peft":
        told = f"pairs of factors were not looked at: adapters of the format {opened.format} are only listed"
        yield Check(subject.reference, "pairs", None, told)
        return
    try:
        adapter = read_adapter(opened)
    except UnsupportedError as error:
        yield Check(subject.reference, "pairs", None, f"pairs of factors were not looked at: {error.message}")
    except LoratoolsError as error:
        yield found(subject, "pairs", error)
    else:
        told = f"factors come in pairs that fit {ADAPTER_CONFIG}; {len(adapter.updates):,} parameters change"
        yield Check(subject.reference, "pairs", True, told)


def _checkpoint(subject: Subject, opened: Checkpoint) -> Iterator[Check]:
    if opened.config:
        yield Check(subject.reference, "config", True, f"{MODEL_CONFIG} is there, and is JSON")
    elif is_folder(opened.root):
        told = f"there is no {MODEL_CONFIG}, without which transformers cannot load it"
        yield Check(subject.reference, "config", None, told)


def finite_checks(subject: Subject, reading: Reading) -> Iterator[Check]:
    """Every tensor that cannot be read, or holds NaN or infinity; else that all can, and none does."""
    if subject.opened is None:
        return
    bad = 0
    for name, seen in reading.tensors.items():
        spec = subject.opened[name]
        if seen.error is not None:
            bad += 1
            yield found(subject, "values", seen.error)
        elif seen.nonfinite:
            bad += 1
            told = f"{seen.nonfinite:,} of {spec.elements:,} values are NaN or infinite"
            yield Check(subject.reference, "values", False, told, str(spec.file), name)
    unknown = [
        name for name, seen in reading.tensors.items() if seen.error is None and seen.nonfinite is None
    ]
    good = len(reading.tensors) - bad - len(unknown)
    if good and not bad:
        yield Check(
            subject.reference, "values", True, f"{good:,} tensors were read, and every value is finite"
        )
    if unknown:
        dtypes = sorted({subject.opened[name].dtype for name in unknown})
        told = f"{len(unknown):,} tensors of {', '.join(dtypes)} were read, but not as numbers"
        yield Check(subject.reference, "values", None, told)
