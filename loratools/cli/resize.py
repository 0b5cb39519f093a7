"""`loratools resize`."""

from __future__ import annotations

import click

from loratools.cli import options
from loratools.cli.options import Invocation


@click.command("resize", cls=options.Verb)
@click.argument("references", nargs=-1, metavar="[ADAPTER]")
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rank of every module, at most; modules that have no more stay as they are.",
)
@click.option(
    "--energy",
    type=float,
    metavar="F",
    help="The least rank of each module that keeps the share F (such as 0.9) of its update's squared norm.",
)
@click.option(
    "--budget",
    metavar="SIZE",
    help="The most bytes of the whole output, such as 20MB: ranks are chosen over all modules by energy "
    "per byte.",
)
@options.writes
@options.runs_through
@options.talks
@click.pass_obj
def resize(
    invocation: Invocation,
    references: tuple[str, ...],
    rank: int | None,
    energy: float | None,
    budget: str | None,
) -> None:
    """Give an adapter another rank, exactly, or another size.

    ADAPTER is a LoRA adapter. The update of each module is cut to its leading singular directions, the best
    that any adapter of that rank can do; they are computed from the factors alone, without the base. Say how
    much to keep by one of --rank, --energy and --budget.

    \b
    Examples:
      loratools resize ./adapter --rank 8 -o ./smaller
      loratools resize ./adapter --energy 0.95 -o ./smaller
      loratools resize ./adapter --budget 20MB -o ./smaller

    Without references it works on the bundled sample, at rank 4 unless told otherwise, and writes
    loratools-sample/resize.
    """
    from loratools.cli.render import show, watch
    from loratools.cli.sources import destination, one_adapter

    if not references and rank is None and energy is None and budget is None:
        rank = 4
    with destination("resize", invocation, bare=not references) as target, watch(invocation) as progress:
        from loratools.operations.resize import resize as run  # after the words are known to be right

        report = run(
            one_adapter(references),
            target.path,
            rank=rank,
            energy=energy,
            budget=budget,
            workers=invocation.workers,
            max_memory=invocation.max_memory,
            force=target.force,
            dry_run=invocation.dry_run,
            progress=progress,
        )
    show(report, invocation)
