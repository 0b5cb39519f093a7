"""`loratools analyze`."""

from __future__ import annotations

import click

from loratools.cli import options
from loratools.cli.options import Invocation
from loratools.cli.ranks import RankedVerb, ranks_option


@click.command("analyze", cls=RankedVerb)
@click.argument("references", nargs=-1, metavar="[REFERENCE]...")
@ranks_option(
    "Of adapters, in their order: the rank to cut each to. Of a fine-tune: the ranks to weigh. As a list: "
    "--rank 4 8."
)
@click.option(
    "--directions",
    type=click.Choice(["factor", "product"]),
    default="factor",
    show_default=True,
    help="Directions of the factors A and B, each by itself, or of their product BA.",
)
@click.option(
    "--spectrum",
    type=click.Choice(["leading", "full"]),
    default="leading",
    show_default=True,
    help="The leading singular values of each change, or all.",
)
@click.option(
    "--amplification/--no-amplification",
    default=True,
    show_default=True,
    help="Whether to compare each change with the weights it was made to.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of what is drawn at random."
)
@options.draws
@options.reads
@options.talks
@click.pass_obj
def analyze(
    invocation: Invocation,
    references: tuple[str, ...],
    ranks: tuple[int, ...],
    directions: str,
    spectrum: str,
    amplification: bool,
    seed: int,
) -> None:
    """Say which rank a fine-tune needs, and where adapters agree.

    \b
    What it says depends on what it is given:
      BASE TUNED             two checkpoints: which rank keeps how much of each
                             change, how much of it is mere rounding, what it
                             amplifies, and where in the model it happened
      ADAPTER ADAPTER...     which directions the adapters share, beside chance
      ADAPTER                its singular values, and what lower ranks keep
      BASE ADAPTER...        what the adapters amplify in the base
      BASE TUNED ADAPTER...  how much of the change each adapter holds

    \b
    Examples:
      loratools analyze ./base ./tuned --rank 4 16
      loratools analyze ./adapter-one ./adapter-two --plot shared.png

    Without references it compares the bundled sample's adapters of the ranks asked for: loratools analyze
    --rank 4 8.
    """
    from loratools.cli.plots import checked_plot, show_and_draw
    from loratools.cli.render import watch

    plot = checked_plot(invocation, references)
    with watch(invocation) as progress:
        from loratools.operations.analyze import analyze as run  # after the words are known to be right

        report = run(
            references,
            ranks=ranks or None,
            directions=directions,
            spectrum=spectrum,
            amplification=amplification,
            seed=seed,
            workers=invocation.workers,
            max_memory=invocation.max_memory,
            dry_run=invocation.dry_run,
            progress=progress,
        )
    show_and_draw(report, invocation, plot, references)
