"""`loratools merge`."""

from __future__ import annotations

import click

from loratools.cli import options
from loratools.cli.options import Invocation


@click.command("merge", cls=options.Verb)
@click.argument("references", nargs=-1, metavar="[BASE] [ADAPTER]...")
@click.option(
    "--weight",
    "weights",
    type=float,
    multiple=True,
    metavar="F",
    help="Weight of an adapter; once for each, in their order. Or inline: ADAPTER=0.8.",
)
@click.option(
    "--shard-size",
    default="keep",
    show_default=True,
    metavar="SIZE",
    help="Cut the output into shards of at most SIZE, such as 5GB; keep leaves them as the base has them.",
)
@click.option(
    "--dtype",
    type=click.Choice(["keep", "float32", "bfloat16", "float16"]),
    default="keep",
    show_default=True,
    help="Dtype of the merged weights.",
)
@click.option(
    "--tied",
    type=click.Choice(["auto", "tie", "untie", "refuse"]),
    default="auto",
    show_default=True,
    help="Embedding and head that share a tensor: auto keeps the tie where both sides end equal and writes "
    "them apart otherwise; tie changes both sides, as PEFT's merge does.",
)
@click.option(
    "--undo/--no-undo",
    default=False,
    help="Keep what makes unmerge give the base back bit by bit, in loratools-undo inside of the output.",
)
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "stochastic"]),
    default="nearest",
    show_default=True,
    help="How sums become weights: stochastic rounds up or down by chance, so that updates too small to "
    "change a weight survive on average.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Of --rounding stochastic: the same N gives the same bytes.",
)
@click.option("--allow-unmatched", is_flag=True, help="Go on where keys of an adapter find no tensor.")
@click.option("--allow-other-base", is_flag=True, help="Go on where an adapter was made for another base.")
@options.writes
@options.runs
@options.talks
@click.pass_obj
def merge(
    invocation: Invocation,
    references: tuple[str, ...],
    weights: tuple[float, ...],
    shard_size: str,
    dtype: str,
    tied: str,
    undo: bool,
    rounding: str,
    seed: int,
    allow_unmatched: bool,
    allow_other_base: bool,
) -> None:
    """Merge adapters into the weights of their base.

    BASE is a checkpoint, each ADAPTER a LoRA adapter of it; they are applied in their order. With an adapter
    alone, the base is the one that its config names. The sum is computed in a wider dtype than the
    weights have and rounded once; the report says how much of each update the rounding took.

    \b
    Examples:
      loratools merge ./base ./adapter -o ./merged
      loratools merge ./base ./one ./two=0.5 -o ./merged
      loratools merge ./adapter -o ./merged
      loratools merge ./base ./adapter -o ./merged --undo

    Without references it works on the bundled sample and writes loratools-sample/merge.
    """
    from loratools.cli.render import show, watch
    from loratools.cli.sources import base_and_adapters, destination

    with destination("merge", invocation, bare=not references) as target, watch(invocation) as progress:
        from loratools.operations.merge import merge as run  # after the words are known to be right

        sources = base_and_adapters(references)
        report = run(
            sources.checkpoint,
            sources.adapters,
            target.path,
            weights=list(weights) or None,
            dtype=dtype,
            shard_size=shard_size,
            tied=tied,
            allow_unmatched=allow_unmatched,
            allow_other_base=allow_other_base,
            undo=undo,
            rounding=rounding,
            seed=seed,
            workers=invocation.workers,
            max_memory=invocation.max_memory,
            force=target.force,
            resume=invocation.resume,
            dry_run=invocation.dry_run,
            progress=progress,
        )
    show(report, invocation)
