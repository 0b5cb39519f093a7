"""How a report is shown: tables or JSON on stdout, warnings on stderr, progress on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from loratools.cli.failures import Late
from loratools.cli.options import Invocation
from loratools.cli.process import Terminated
from loratools.engine.progress import Progress
from loratools.errors import printable, shortened

if TYPE_CHECKING:
    from rich.console import Console

    from loratools.reports.columns import Page
    from loratools.reports.report import Report

_LONGEST_WARNING = 4000
"""Characters of a warning that are shown: it may quote what a file says of itself."""

ENDLESS = 100_000
"""Columns of a page that is no terminal, or too narrow a one: so many that no name is cut or folded."""


def show(report: Report, invocation: Invocation) -> None:
    """Prints the report as the shared options ask for it.

    An interruption now leaves the output as it is, and is `Late`.
    """
    try:
        _print(_from_the_start(report, invocation), invocation)
    except (KeyboardInterrupt, Terminated) as error:
        if report.output is None or report.dry_run:
            raise
        raise Late.of(report.output) from error


def _from_the_start(report: Report, invocation: Invocation) -> Report:
    """With the seconds that imports took in what a dry run foretells: the run itself will need them too."""
    from loratools.reports.report import PlannedWork

    work = report.details.get("plan")
    if not isinstance(work, PlannedWork):
        return report
    before = time.perf_counter() - invocation.began - report.seconds
    work = replace(work, estimated_seconds=work.estimated_seconds + before)
    return replace(report, details={**report.details, "plan": work})


def _print(report: Report, invocation: Invocation) -> None:
    for warning in report.warnings:
        click.echo(f"Warning: {printable(shortened(warning, _LONGEST_WARNING))}", err=True)
    if invocation.as_json:
        from loratools.cli.jsontext import as_json

        click.echo(as_json(report.to_json()))
    elif not invocation.quiet:
        from loratools.reports.tables import pages

        out = console()
        told = pages(report, full=invocation.verbose or not out.is_terminal)
        drawn = _on_a_terminal(told, out) if out.is_terminal else _piped(told, out)
        click.echo(_encodable(drawn), nl=False)


def _on_a_terminal(pages: Iterable[Page], out: Console) -> str:
    from loratools.reports.columns import least_width

    width = out.width
    with out.capture() as drawn:  # rich would end the process where a reader has gone away
        for page in pages:
            fits = isinstance(page, str) or least_width(page) <= width
            out.width = width if fits else ENDLESS  # the terminal wraps whole rows then
            out.print(_plain(page) if isinstance(page, str) else page, soft_wrap=isinstance(page, str))
    return drawn.get()


def _piped(pages: Iterable[Page], out: Console) -> str:
    """The same without rich, which takes its time over every cell, where there is nothing for it to do."""
    from loratools.reports.columns import Sheet

    drawn = []
    for page in pages:
        if isinstance(page, (str, Sheet)):
            drawn.append(_plain(page if isinstance(page, str) else page.lines()) + "\n")
            continue
        with out.capture() as captured:
            out.print(page)
        drawn.append(captured.get())
    return "".join(drawn)


def _plain(text: str) -> str:
    """Lines of text with what a stranger's name may hold of control characters escaped."""
    return "\n".join(map(printable, text.split("\n")))


def _encodable(text: str) -> str:
    """With question marks for what stdout's encoding lacks: bars and formulas are worth no failure."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def announce(invocation: Invocation) -> Callable[[str], None] | None:
    """Prints a line while a verb still runs; None where only the report, or nothing, is to be printed."""
    if invocation.quiet or invocation.as_json:
        return None
    return click.echo


@contextmanager
def watch(invocation: Invocation) -> Iterator[Progress | None]:
    """A progress bar on stderr if that is a terminal and nothing forbids it; else None."""
    if invocation.quiet or invocation.as_json or not sys.stderr.isatty():
        yield None
        return
    from loratools.cli.bar import Bar

    with Bar() as bar:
        yield bar


def console() -> Console:
    """Stdout as rich draws on it: NO_COLOR is respected, and what is piped keeps whole names."""
    from rich.console import Console

    out = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    if not out.is_terminal:
        out.width = ENDLESS
    return out
