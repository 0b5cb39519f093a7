"""`loratools clean`."""

from __future__ import annotations

import click

from loratools.cli import options
from loratools.cli.options import Invocation


@click.command("clean", cls=options.Verb)
@click.argument("folder", default=".", type=click.Path(), metavar="[DIR]")
@options.removes
@options.talks
@click.pass_obj
def clean(invocation: Invocation, folder: str) -> None:
    """Remove what interrupted runs left behind.

    Below DIR (by default the current folder), partial outputs of runs that were killed, and copies of outputs
    that had been replaced. What a run that is still at work writes stays, and so does whatever loratools did
    not write, and an output that is the only copy of itself; the table says why.

    \b
    Examples:
      loratools clean ./outputs --dry-run
      loratools clean ./outputs
    """
    from loratools.cli.render import show
    from loratools.operations.clean import clean as run

    show(run(folder, dry_run=invocation.dry_run), invocation)
