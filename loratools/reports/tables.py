"""A report as pages for a terminal or a pipe: rich tables and lines of text, made from the report alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from loratools.errors import printable
from loratools.reports import fates, words
from loratools.reports.columns import Column, Page, table
from loratools.reports.modules import module_tables
from loratools.reports.report import ExtractedModule, HeldoutLoss, InspectedItem, PlannedWork, Report, Totals

_LOOKS = {
    "analyze": ("loratools.reports.looks.analysis", "analysis_pages"),
    "clean": ("loratools.reports.looks.leftovers", "leftover_pages"),
    "report": ("loratools.reports.looks.costs", "cost_pages"),
    "verify": ("loratools.reports.looks.verification", "verification_pages"),
    "resize": ("loratools.reports.looks.arithmetic", "resize_answer"),
    "combine": ("loratools.reports.looks.arithmetic", "combine_answer"),
}
"""Where the look of a verb's own rows in `details` is at home: imported for that verb alone, which alone pays
for it, and printed before everything else."""


def pages(report: Report, *, full: bool) -> Iterator[Page]:
    """What to print of `report`, from top to bottom.

    Args:
        full: every row and every name; otherwise many modules are summed up and long lists of names cut.
    """
    if report.command in _LOOKS:
        home, look = _LOOKS[report.command]
        yield from getattr(import_module(home), look)(report, full)
    if report.items is not None:
        yield from map(_card, report.items)
    if report.modules is not None:
        yield from module_tables(report.modules, full=full)
    if report.coverage is not None:
        yield from fates.counts(report.coverage)
        shown = fates.everything if report.dry_run else fates.explained
        yield from shown(report.coverage, full=full)
    for value in report.details.values():
        yield from _detail(value)
    if report.totals is not None:
        yield _totals(report.totals)
    yield from _extraction(report)
    yield from _undo(report)
    if (resumed := report.details.get("resumed_jobs")) is not None:
        yield (
            f"{resumed} jobs were taken from an interrupted run" if resumed else "there was no run to resume"
        )
    yield _closing(report)


def _card(item: InspectedItem) -> str:
    """What an inspected reference is, in a few lines that fit any terminal."""
    told = [", ".join(filter(None, (item.kind, item.format, item.dtype)))]
    told.append(f"{item.tensors:,} tensors, {item.parameters:,} parameters, {words.size(item.bytes)}")
    if item.rank is not None:
        told.append(f"rank {words.several(item.rank)}, alpha {words.several(item.alpha)}")
    if item.targets:
        told.append(f"targets {', '.join(item.targets)}")
    told.extend(f"note: {warning}" for warning in item.warnings)
    return "\n    ".join(map(printable, (item.reference, *told)))


def _detail(value: object) -> Iterator[Page]:
    """Further results that have a look of their own; plain ones stand in --json only."""
    if isinstance(value, PlannedWork):
        yield _work(value)
    elif isinstance(value, tuple) and value and all(isinstance(row, HeldoutLoss) for row in value):
        yield table("Held-out loss", _LOSS, value)


def _work(work: PlannedWork) -> str:
    runs = f"{work.calibration_runs} run{'s' if work.calibration_runs > 1 else ''} on this machine"
    basis = {
        "alike": f"as {runs} told",
        "similar": f"as {runs.replace(' on', ' of other settings on')} told",
        "no": "not calibrated: no run on this machine has told yet",
    }[work.calibrated]
    lines = [
        f"{work.jobs} jobs would read {words.size(work.read_bytes)}, write {work.written} "
        f"{words.size(work.write_bytes)} and hold about {words.size(work.memory_bytes)}, in about "
        f"{words.seconds(work.estimated_seconds)} on {work.workers} worker{'s' if work.workers > 1 else ''} "
        f"({basis})"
    ]
    if work.weight_bytes:
        lines.append(f"of what is written, weights are {work.weights_written} {work.weight_bytes:,} bytes")
    lines.append(f"the least that --max-memory may be is {words.size(work.least_memory_bytes)}")
    return "\n".join(lines)


def _totals(totals: Totals) -> str:
    line = f"{totals.parameters:,} parameters, {words.size(totals.bytes)}"
    if totals.ratio_bytes is None or totals.ratio_parameters is None or totals.ratio_parameters < 1.1:
        return line  # a checkpoint beside a checkpoint: nothing was saved
    return (
        f"{line}; the base has {words.number(totals.ratio_parameters, 3)} times as many parameters "
        f"and {words.number(totals.ratio_bytes, 3)} times the bytes"
    )


def _extraction(report: Report) -> Iterator[str]:
    """What an extraction says of itself as a whole."""
    details = report.details
    if rest := details.get("rest_bytes"):
        share = words.share(details.get("rest_share"))
        yield f"what was saved whole takes {words.size(rest)} of it, {share}; --rest drop leaves it out"
    by_chance = any(
        isinstance(row, ExtractedModule) and row.failure_probability for row in report.modules or ()
    )
    if by_chance and (chance := details.get("failure_probability")):
        yield f"the bounds on the excess hold, but for a chance of {words.number(chance)} that one does not"


def _undo(report: Report) -> Iterator[str]:
    """What a merge kept so that it can be taken off again."""
    undo = report.details.get("undo")
    if isinstance(undo, Mapping):
        lost = words.size(undo["interval_bytes"])
        share = words.share(undo["interval_share"])
        yield (
            f"undo record: {words.size(undo['bytes'])}; {lost} of it hold what rounding lost, {share} of the "
            "tensors"
        )


def _closing(report: Report) -> str:
    parts = [words.seconds(report.seconds)]
    if report.peak_bytes is not None:
        parts.append(f"{words.size(report.peak_bytes)} of memory at most")
    if report.dry_run:
        done = "removed" if report.command == "clean" else "written"
        parts.insert(0, f"nothing was {done}" + (f" to {report.output}" if report.output is not None else ""))
    elif report.output is not None:
        parts.insert(0, f"wrote {report.output}")
    return printable(f"{report.command}: {', '.join(parts)}")


_LOSS: tuple[Column[HeldoutLoss], ...] = (
    Column("model", lambda row: row.model, text=True),
    Column("rank", lambda row: "-" if row.rank is None else str(row.rank)),
    Column("adapter bytes", lambda row: "-" if row.bytes is None else words.size(row.bytes)),
    Column("nats per token", lambda row: f"{row.loss:.3f}"),
)
