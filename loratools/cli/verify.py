"""`loratools verify`."""

from __future__ import annotations

import click

from loratools.cli import options
from loratools.cli.options import Invocation

MISMATCH = 3
"""The exit code where something was found wrong."""


@click.command("verify", cls=options.Verb)
@click.argument("references", nargs=-1, metavar="[REFERENCE]...")
@click.option(
    "--text",
    type=click.Path(),
    metavar="FILE",
    help="Compare outputs on this text (extra [transformers]; default: on the sample, its own).",
)
@click.option(
    "--min-agreement",
    type=float,
    metavar="F",
    help="Exit with 3 where outputs agree with those of TUNED by less than F, between 0 and 1.",
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens in a window of the text (default: 512, or as many as the model has positions).",
)
@click.option(
    "--batch", type=click.IntRange(min=1), metavar="N", help="Windows in a batch (default: by vocabulary)."
)
@options.reads
@options.talks
@click.pass_context
def verify(
    context: click.Context,
    references: tuple[str, ...],
    text: str | None,
    min_agreement: float | None,
    window: int | None,
    batch: int | None,
) -> None:
    """Check files to the last bit, and adapters against the fine-tune that they stand for.

    Each REFERENCE is read whole: headers, sizes and indexes, rules of its format, whether every value is
    finite, and, where it says what it was written as, whether every byte still is that. References that were
    made from one another are told.

    Two checkpoints and adapters, BASE TUNED ADAPTER, are compared too: how far base + adapter is from tuned,
    in weights and, on a text, in outputs.

    \b
    Examples:
      loratools verify ./merged
      loratools verify ./adapter ./base
      loratools verify ./base ./tuned ./adapter --text held-out.txt --min-agreement 0.9

    Exits with 3 where anything is found wrong. Without references it checks the bundled sample.
    """
    from loratools.cli.render import show, watch
    from loratools.operations.verify import verify as run

    invocation = context.ensure_object(Invocation)
    with watch(invocation) as progress:
        report = run(
            references,
            text=text,
            min_agreement=min_agreement,
            window=window,
            batch=batch,
            workers=invocation.workers,
            max_memory=invocation.max_memory,
            dry_run=invocation.dry_run,
            progress=progress,
        )
    show(report, invocation)
    if not report.ok:
        context.exit(MISMATCH)
