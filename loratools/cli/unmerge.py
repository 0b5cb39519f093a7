"""`loratools unmerge`."""

from __future__ import annotations

import click

from loratools.cli import options
from loratools.cli.options import Invocation


@click.command("unmerge", cls=options.Verb)
@click.argument("references", nargs=-1, metavar="[MERGED] [ADAPTER]...")
@click.option(
    "--weight",
    "weights",
    type=float,
    multiple=True,
    metavar="F",
    help="Weight that an adapter was merged with; once for each, in their order. Or inline: ADAPTER=0.8.",
)
@click.option(
    "--all", "all_merges", is_flag=True, help="Take off every merge that kept a record, not only the last."
)
@click.option(
    "--allow-modified",
    is_flag=True,
    help="Where tensors were changed since the merge, leave these as they are and restore the others.",
)
@click.option("--allow-unmatched", is_flag=True, help="Go on where keys of an adapter find no tensor.")
@options.writes
@options.runs
@options.talks
@click.pass_obj
def unmerge(
    invocation: Invocation,
    references: tuple[str, ...],
    weights: tuple[float, ...],
    all_merges: bool,
    allow_modified: bool,
    allow_unmatched: bool,
) -> None:
    """Take merged adapters off again.

    MERGED is a checkpoint that adapters were merged into. Where the merge kept its record (merge --undo), the
    base comes back bit by bit, checked by its hashes, and no adapter need be named. Else what the ADAPTERs
    added is subtracted, and the report says how far the result may be off from the base; what a merge
    replaced is not there any more then and cannot be subtracted: that is refused.

    \b
    Examples:
      loratools unmerge ./merged -o ./base-again
      loratools unmerge ./merged -o ./base-again --all
      loratools unmerge ./merged ./adapter -o ./base-again

    Without references it merges the bundled sample first, and writes loratools-sample/unmerge.
    """
    from loratools.cli.render import show, watch
    from loratools.cli.sources import destination, merged_and_adapters

    with (
        destination("unmerge", invocation, bare=not references) as target,
        merged_and_adapters(references, weights) as (merged, adapters),
        watch(invocation) as progress,
    ):
        from loratools.operations.unmerge import unmerge as run  # after the words are known to be right

        report = run(
            merged,
            adapters,
            target.path,
            weights=list(weights) or None if adapters or references else None,
            all_merges=all_merges,
            allow_modified=allow_modified,
            allow_unmatched=allow_unmatched,
            workers=invocation.workers,
            max_memory=invocation.max_memory,
            force=target.force,
            resume=invocation.resume,
            dry_run=invocation.dry_run,
            progress=progress,
        )
    show(report, invocation)
