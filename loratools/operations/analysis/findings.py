"""What one kind of analysis found, before it becomes a report."""

from __future__ import annotations

from dataclasses import dataclass

from loratools.engine.coverage import CoverageRow
from loratools.reports.analysis import (
    Amplification,
    Movement,
    Overlap,
    Similarity,
    SimilarityMean,
    Spectrum,
    TokenMovement,
)

__all__ = ["Findings"]


@dataclass(frozen=True)
class Findings:
    """Rows by kind, each in the order of modules; a kind that was not asked for is empty."""

    similarity: tuple[Similarity, ...] = ()
    means: tuple[SimilarityMean, ...] = ()
    amplification: tuple[Amplification, ...] = ()
    spectra: tuple[Spectrum, ...] = ()
    movement: tuple[Movement, ...] = ()
    tokens: tuple[TokenMovement, ...] = ()
    overlap: tuple[Overlap, ...] = ()
    coverage: tuple[CoverageRow, ...] = ()
    warnings: tuple[str, ...] = ()
