"""`loratools demo`."""

from __future__ import annotations

import click

from loratools.cli import options
from loratools.cli.options import Invocation


@click.command("demo", cls=options.Verb)
@options.writes
@options.talks
@click.pass_obj
def demo(invocation: Invocation) -> None:
    """Tell the whole story on the bundled sample, in under a minute.

    A small model and its full fine-tune come with the package. The demo extracts adapters from them, merges
    one and compares it with the fine-tune, merges and unmerges an adapter that was trained, looks at the
    results, and then asks how much rank this fine-tune needs and what that saves. Each step is printed as the
    command that does it. Where the extra [transformers] is installed it also measures each model's loss on
    text that none was trained on.

    \b
    Example:
      loratools demo

    It writes loratools-sample/demo.
    """
    from pathlib import Path

    from loratools.cli.render import announce, show
    from loratools.operations.demo import demo as run

    output = None if invocation.output is None else Path(invocation.output)
    show(run(output, force=invocation.force, announce=announce(invocation)), invocation)
