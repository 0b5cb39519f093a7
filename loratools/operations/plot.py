"""A report as a picture in a file, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import has_name, is_folder, write_bytes
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
    with disk_errors(target, "look at the output"):
        folder = is_folder(target)
    if folder:
        raise LoratoolsError("the picture's name is a folder's", file=target, hint="choose another name")
    read = _on_disk(inputs)
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
    read = _on_disk(inputs)
    with Publication(target, force=force, inputs=read, one_file=True, suffixes=SUFFIXES) as publication:
        with disk_errors(target):
            write_bytes(publication.folder / target.name, picture)
        warnings = publication.publish()
    return replace(report, output=target, warnings=(*report.warnings, *warnings))


def _on_disk(inputs: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The references that are paths (the others are names of the sample or on the hub)."""
    paths = []
    for reference in inputs:
        with disk_errors(reference, "open"):
            if has_name(reference):
                paths.append(Path(reference))
    return paths
