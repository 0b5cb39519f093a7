"""`--plot FILE`: checked before the work, drawn after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.cli.options import Invocation
from loratools.cli.render import show

if TYPE_CHECKING:
    from loratools.reports.report import Report


def checked_plot(invocation: Invocation, references: Sequence[str]) -> Path | None:
    """Where to draw, once it is known that one can; None where nothing is to be drawn."""
    if invocation.plot is None:
        return None
    from loratools.operations.plot import check_plot

    return check_plot(invocation.plot, force=invocation.force, inputs=references)


def show_and_draw(
    report: Report, invocation: Invocation, file: Path | None, references: Sequence[str]
) -> None:
    """Prints the report, with the picture drawn first where one was asked for; a dry run draws nothing."""
    if file is not None and not report.dry_run:
        from loratools.operations.plot import plot

        report = plot(report, file, force=invocation.force, inputs=references)
    show(report, invocation)
