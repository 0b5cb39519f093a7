"""`verify` in a terminal: the verdict, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loratools.errors import printable
from loratools.reports import words
from loratools.reports.columns import Column, Page, table
from loratools.reports.report import Report
from loratools.reports.verification import (
    Check,
    Distance,
    ModelOutputs,
    ModuleDistance,
    OutputKind,
    Outputs,
)

__all__ = ["verification_pages"]

_OK = {True: "holds", False: "WRONG", None: "unknown"}


def verification_pages(report: Report, full: bool) -> Iterator[Page]:
    """The verdict; each reference's checks; distances and outputs; `full` adds a row for every tensor."""
    if report.dry_run:
        return
    found = report.details
    yield printable(found["verdict"])
    yield from _checks(found["checks"])
    if outputs := found.get("outputs"):
        yield from _outputs(outputs)
    if distance := found.get("distance"):
        yield from _distances(distance, found["distances"], full=full)


def _checks(checks: Sequence[Check]) -> Iterator[Page]:
    for reference in dict.fromkeys(check.reference for check in checks):
        yield table(printable(reference), _CHECK, [check for check in checks if check.reference == reference])


def _detail(check: Check) -> str:
    where = ", ".join(part for part in (check.file, check.tensor) if part)
    return f"{check.detail} ({where})" if where else check.detail


def _outputs(outputs: Outputs) -> Iterator[Page]:
    causal = outputs.kind is OutputKind.CAUSAL
    yield table(
        f"Outputs on {outputs.tokens:,} tokens of {printable(outputs.text)}",
        _CAUSAL if causal else _HIDDEN,
        outputs.models,
    )


@dataclass(frozen=True)
class _Family:
    """The tensors of one kind, layers taken together."""

    name: str
    rows: tuple[ModuleDistance, ...]

    @property
    def base(self) -> float:
        return float(sum(row.distance_base**2 for row in self.rows) ** 0.5)

    @property
    def adapted(self) -> float:
        return float(sum(row.distance_adapted**2 for row in self.rows) ** 0.5)

    @property
    def remaining(self) -> float | None:
        return self.adapted / self.base if self.base else None

    @property
    def farther(self) -> int:
        return sum(row.distance_adapted > row.distance_base for row in self.rows)


def _distances(distance: Distance, rows: Sequence[ModuleDistance], *, full: bool) -> Iterator[Page]:
    farther = f"; the adapter takes {distance.farther} farther away" if distance.farther else ""
    yield (
        f"Distance to tuned, by the Frobenius norm: {words.number(distance.distance_base)} from base, "
        f"{words.number(distance.distance_adapted)} from base + adapter; {distance.moved} of "
        f"{distance.tensors} tensors moved{farther}"
    )
    if full:
        yield table("", _EACH, rows)
        return
    grouped: dict[str, list[ModuleDistance]] = {}
    for row in rows:
        grouped.setdefault(words.family(row.name), []).append(row)
    yield table("", _BY_FAMILY, [_Family(name, tuple(members)) for name, members in grouped.items()])


_CHECK: tuple[Column[Check], ...] = (
    Column("check", lambda check: check.check, text=True),
    Column("", lambda check: _OK[check.ok], text=True),
    Column("what was found", _detail, text=True),
)
_MODEL: tuple[Column[ModelOutputs], ...] = (Column("model", lambda row: row.model, text=True),)
_CAUSAL: tuple[Column[ModelOutputs], ...] = (
    *_MODEL,
    Column("loss, nats a token", lambda row: words.number(row.loss)),
    Column("KL(tuned || model)", lambda row: words.number(row.kl)),
    Column("agrees with tuned", lambda row: words.share(row.agreement)),
)
_HIDDEN: tuple[Column[ModelOutputs], ...] = (
    *_MODEL,
    Column("1 - cosine to tuned", lambda row: words.number(row.distance)),
    Column("mean cosine", lambda row: words.number(row.agreement)),
)
_EACH: tuple[Column[ModuleDistance], ...] = (
    Column("tensor", lambda row: row.name, text=True),
    Column("adapter", lambda row: row.kind or "-", text=True),
    Column("base", lambda row: words.number(row.distance_base)),
    Column("with it", lambda row: words.number(row.distance_adapted)),
    Column("left", lambda row: words.share(row.remaining)),
)
_BY_FAMILY: tuple[Column[_Family], ...] = (
    Column("tensors", lambda family: family.name, text=True),
    Column("count", lambda family: str(len(family.rows))),
    Column("base", lambda family: words.number(family.base)),
    Column("with adapter", lambda family: words.number(family.adapted)),
    Column("left", lambda family: words.share(family.remaining)),
    Column("farther", lambda family: str(family.farther)),
)
