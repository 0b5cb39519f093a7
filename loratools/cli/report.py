"""`loratools report`."""

from __future__ import annotations

import click

from loratools.cli import options
from loratools.cli.options import Invocation
from loratools.cli.ranks import RankedVerb, ranks_option


@click.command("report", cls=RankedVerb)
@click.argument("references", nargs=-1, metavar="[REFERENCE]...")
@click.option("--preset", metavar="NAME", help="A public architecture instead of a checkpoint; list for all.")
@click.option(
    "--config", type=click.Path(), metavar="FILE", help="A transformers config.json instead of a checkpoint."
)
@ranks_option("Ranks of LoRA, and widths of bottleneck adapters beside it (default: 8).")
@click.option(
    "--targets",
    multiple=True,
    metavar="REGEX",
    help="LoRA adapts what matches; repeatable (default: query and value for the paper's models, else all "
    "linear layers of the blocks).",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="What bytes are counted in (default: the model's own).",
)
@click.option("--link", metavar="SPEED", help="Tell how long each takes to move: 1Gbit, 10MB/s.")
@options.draws
@options.talks
@click.pass_obj
def report(
    invocation: Invocation,
    references: tuple[str, ...],
    preset: str | None,
    config: str | None,
    ranks: tuple[int, ...],
    targets: tuple[str, ...],
    dtype: str | None,
    link: str | None,
) -> None:
    """Say what adapters save, and what they cost.

    Parameters, bytes, latency and training memory of LoRA, adapters in series, prefixes and prompts beside
    the full fine-tune, each with its formula. It reads headers, configs or a table of public models: no
    weights.

    \b
    Examples:
      loratools report ./base ./adapter --rank 4 8
      loratools report --preset llama-3-8b --rank 16 --link 1Gbit
      loratools report --preset gpt3-175b --rank 1 4 8

    Without references it reports on the bundled sample; for the paper's models it sets the paper's figures
    beside their formulas.
    """
    from loratools.cli.plots import checked_plot, show_and_draw
    from loratools.operations.report import report as run

    plot = checked_plot(invocation, references)
    found = run(
        references,
        preset=preset,
        config=config,
        ranks=ranks or None,
        targets=targets,
        dtype=dtype,
        link=link,
    )
    show_and_draw(found, invocation, plot, references)
