"""`loratools inspect`."""

from __future__ import annotations

import click

from loratools.cli import options
from loratools.cli.options import Invocation


@click.command("inspect", cls=options.Verb)
@click.argument("references", nargs=-1, metavar="[REFERENCE]...")
@options.talks
@click.pass_obj
def inspect(invocation: Invocation, references: tuple[str, ...]) -> None:
    """Say what is in checkpoints and adapters, from their headers alone.

    Kind, format, dtype, number of tensors and parameters, bytes; of an adapter its ranks, alpha and targets.

    \b
    Example:
      loratools inspect ./base ./adapter

    Without references it shows the bundled sample.
    """
    from loratools.cli.render import show
    from loratools.operations.bare import everything
    from loratools.operations.inspect import inspect as run

    show(run(references or everything()), invocation)
