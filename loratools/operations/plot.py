"""A report as a picture in a file, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.publication import Publication, check_target
from loratools.errors import LoratoolsError, UsageError
from loratools.reports.report import Report

__all__ = ["SUFFIXES", "check_plot", "plot"]

SUFFIXES = frozenset({".pdf", ".png", ".svg"})
"""What a picture's name may end in; the ending says what is written."""


def check_plot(
    file: str | os.PathLike[str], *, force: bool = False, inputs: Sequence[str | os.PathLike[str]] = ()
) -> Path:
    """Refuses, before any work, a picture that could not be drawn or must not be written there.

    Args:
        force: whether a picture that stands there may be replaced.
        inputs: references that are read; those that are files or folders must not hold the picture.

    Raises:
        UsageError: the name does not end in .png, .svg or .pdf.
        LoratoolsError: matplotlib is not installed, or `checkpoints.target.check_target` refuses the file.
    """
    target = Path(file)
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"cannot draw a {target.suffix or 'nameless kind of'} file",
            file=target,
            hint="end its name in .png, .svg or .pdf",
        )
    if find_spec("matplotlib") is None:
        raise LoratoolsError(
            "drawing needs matplotlib", hint="install it with the extra: pip install 'loratools[plot]'"
        )
    if target.is_dir():
        raise LoratoolsError("the picture's name is a folder's", file=target, hint="choose another name")
    read = [Path(reference) for reference in inputs if os.path.lexists(reference)]
    check_target(target, force=force, inputs=read, suffixes=SUFFIXES)
    return target


def plot(
    report: Report,
    file: str | os.PathLike[str],
    *,
    force: bool = False,
    inputs: Sequence[str | os.PathLike[str]] = (),
) -> Report:
    """Draws what `analyze` or `report` found into a .png, .svg or .pdf; the same report gives the same bytes.

    Returns the report with the file as its output and, where the file that was replaced could not be removed,
    a warning.

    Raises:
        LoratoolsError: see `check_plot`; or there is nothing in the report to draw, or the disk refused it.
    """
    target = check_plot(file, force=force, inputs=inputs)
    from loratools.reports.figures.drawing import drawn  # after the check that matplotlib is there

    picture = drawn(report, target.suffix.lower().removeprefix("."))
    if picture is None:
        raise LoratoolsError("there is nothing to draw in this report", hint="leave --plot out")
    read = [Path(reference) for reference in inputs if os.path.lexists(reference)]
    with Publication(target, force=force, inputs=read, one_file=True, suffixes=SUFFIXES) as publication:
        with disk_errors(target):
            (publication.folder / target.name).write_bytes(picture)
        warnings = publication.publish()
    return replace(report, output=target, warnings=(*report.warnings, *warnings))
