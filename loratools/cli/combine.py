"""`loratools combine`."""

from __future__ import annotations

import click

from loratools.cli import options
from loratools.cli.options import Invocation

METHODS = ("cat", "svd", "linear", "ties", "ties_svd", "dare_linear", "dare_ties", "magnitude_prune")


@click.command("combine", cls=options.Verb)
@click.argument("references", nargs=-1, metavar="[ADAPTER]...")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="cat",
    show_default=True,
    help="cat is the weighted sum, exactly; svd its best approximation at a rank; the others are PEFT's.",
)
@click.option(
    "--weight",
    "weights",
    type=float,
    multiple=True,
    metavar="F",
    help="Weight of an adapter, perhaps negative; once for each, in their order. Or inline: ADAPTER=0.8.",
)
@click.option(
    "--density",
    type=float,
    metavar="F",
    help="Share of the values that ties, dare and magnitude_prune keep; they need it.",
)
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rank that svd and ties_svd cut to (default: the largest of the adapters).",
)
@click.option(
    "--majority-sign-method",
    type=click.Choice(["total", "frequency"]),
    default="total",
    show_default=True,
    help="How ties elects a sign: that of the sum, or that of most.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of what dare drops.")
@options.writes
@options.runs_through
@options.talks
@click.pass_obj
def combine(
    invocation: Invocation,
    references: tuple[str, ...],
    method: str,
    weights: tuple[float, ...],
    density: float | None,
    rank: int | None,
    majority_sign_method: str,
    seed: int,
) -> None:
    """Make one adapter of several.

    Each ADAPTER is a LoRA adapter of one base; their ranks, alphas and modules may differ. Every method but
    cat is an approximation of the weighted sum of the updates, and the report says how far each module is
    from it. No base is read.

    \b
    Examples:
      loratools combine ./one ./two -o ./both
      loratools combine ./one=0.7 ./two=-0.3 --method svd --rank 16 -o ./both
      loratools combine ./one ./two --method ties --density 0.5 -o ./both

    Without references it works on the bundled sample and writes loratools-sample/combine.
    """
    from loratools.cli.render import show, watch
    from loratools.cli.sources import destination, several_adapters

    with destination("combine", invocation, bare=not references) as target, watch(invocation) as progress:
        from loratools.operations.combine import combine as run  # after the words are known to be right

        report = run(
            several_adapters(references),
            target.path,
            method=method,
            weights=list(weights) or None,
            density=density,
            rank=rank,
            majority_sign_method=majority_sign_method,
            seed=seed,
            workers=invocation.workers,
            max_memory=invocation.max_memory,
            force=target.force,
            dry_run=invocation.dry_run,
            progress=progress,
        )
    show(report, invocation)
