"""`analyze` in a terminal: the answer first, then the pictures and tables that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loratools.reports.columns import Page
from loratools.reports.looks.amplification import amplification_answer, amplification_tables
from loratools.reports.looks.map import movement_tables, token_table
from loratools.reports.looks.needed import needed_answer
from loratools.reports.looks.overlap import overlap_answer, overlap_tables
from loratools.reports.looks.similarity import similarity_answer, similarity_tables
from loratools.reports.looks.spectra import spectrum_tables
from loratools.reports.report import Report


def analysis_pages(report: Report, full: bool) -> Iterator[Page]:
    """The report's findings in the order in which one reads them; `full` adds a row for every module."""
    yield from _answers(report)
    for section in _sections(report.details, full):
        yield ""
        yield from section


def _sections(found: Mapping[str, Any], full: bool) -> Iterator[Iterator[Page]]:
    similarity, spectra = found.get("similarity", ()), found.get("spectra", ())
    if means := found.get("similarity_means"):
        yield similarity_tables(means, similarity, full=full)
    if spectra:
        yield spectrum_tables(spectra, full=full)
    if amplification := found.get("amplification"):
        yield amplification_tables(amplification, full=full)
    if overlap := found.get("overlap"):
        yield overlap_tables(overlap, spectra, full=full)
    if movement := found.get("movement"):
        yield movement_tables(movement, full=full)
    if tokens := found.get("tokens"):
        yield iter((token_table(tokens, full=full),))


def _answers(report: Report) -> Iterator[Page]:
    """What was found, in so few lines that nobody has to scroll for it."""
    found = report.details
    if means := found.get("similarity_means"):
        yield from similarity_answer(means, found.get("similarity", ()))
    if spectra := found.get("spectra"):
        yield from needed_answer(spectra, found.get("movement", ()))
    if overlap := found.get("overlap"):
        yield from overlap_answer(overlap)
    if amplification := found.get("amplification"):
        yield from amplification_answer(amplification)
