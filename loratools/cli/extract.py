"""`loratools extract`."""

from __future__ import annotations

from typing import Literal

import click

from loratools.cli import options
from loratools.cli.options import Invocation


@click.command("extract", cls=options.Verb)
@click.argument("references", nargs=-1, metavar="[BASE TUNED]")
@click.option(
    "--rank",
    type=options.Rank(),
    metavar="N|auto",
    help="Rank of every module (default: 16). auto: of each, what stands above the noise of its storage.",
)
@click.option(
    "--energy",
    type=float,
    metavar="F",
    help="Instead of --rank: the least rank that keeps the share F (such as 0.9) of a delta's squared norm.",
)
@click.option(
    "--max-rank",
    type=click.IntRange(min=1),
    metavar="N",
    help="The most that --energy or --rank auto may choose.",
)
@click.option(
    "--svd",
    type=click.Choice(["auto", "exact"]),
    default="auto",
    show_default=True,
    help="Randomized until its certificate holds, or LAPACK in float64.",
)
@click.option(
    "--tolerance",
    type=float,
    default=1e-3,
    show_default=True,
    metavar="F",
    help="Residual that --svd auto may leave above the least possible, as a share of it.",
)
@click.option(
    "--fold",
    type=click.Choice(["sqrt", "A", "B"]),
    default="sqrt",
    show_default=True,
    help="The factor that the singular values go into; sqrt splits them evenly.",
)
@click.option(
    "--save-dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Dtype of the factors in the file.",
)
@click.option("--targets", multiple=True, metavar="REGEX", help="Factor only what matches; repeatable.")
@click.option("--exclude", multiple=True, metavar="REGEX", help="Factor nothing that matches; repeatable.")
@click.option(
    "--rest",
    type=click.Choice(["save", "drop", "refuse"]),
    default="save",
    show_default=True,
    help="Changed tensors that are not factored: norms, biases, embeddings, a head.",
)
@click.option(
    "--unholdable",
    type=click.Choice(["refuse", "drop"]),
    default="refuse",
    show_default=True,
    help="What no adapter can hold: a tensor that only one side has.",
)
@click.option("--base-name", metavar="NAME", help="What the adapter's config calls its base.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of --svd auto.")
@options.writes
@options.runs
@options.talks
@click.pass_obj
def extract(
    invocation: Invocation,
    references: tuple[str, ...],
    rank: int | Literal["auto"] | None,
    energy: float | None,
    max_rank: int | None,
    svd: str,
    tolerance: float,
    fold: str,
    save_dtype: str,
    targets: tuple[str, ...],
    exclude: tuple[str, ...],
    rest: str,
    unholdable: str,
    base_name: str | None,
    seed: int,
) -> None:
    """Take the low-rank adapter out of a full fine-tune.

    BASE is the checkpoint that the fine-tune started from, TUNED the fine-tune. What comes out at OUT is an
    adapter that PEFT loads: each changed weight matrix as two small factors, as close to the change as that
    rank allows (with a certificate that says so), and whatever else changed saved in full.

    \b
    Example:
      loratools extract ./base ./tuned --rank 16 -o ./adapter

    Without references it works on the bundled sample and writes loratools-sample/extract.
    """
    from loratools.cli.render import show, watch
    from loratools.cli.sources import destination, pair

    base, tuned = pair(references)
    with destination("extract", invocation, bare=not references) as target, watch(invocation) as progress:
        from loratools.operations.extract import extract as run  # after the words are known to be right

        report = run(
            base,
            tuned,
            target.path,
            rank=rank,
            energy=energy,
            max_rank=max_rank,
            svd=svd,
            tolerance=tolerance,
            fold=fold,
            save_dtype=save_dtype,
            targets=targets,
            exclude=exclude,
            rest=rest,
            unholdable=unholdable,
            base_name=base_name,
            seed=seed,
            workers=invocation.workers,
            max_memory=invocation.max_memory,
            force=target.force,
            resume=invocation.resume,
            dry_run=invocation.dry_run,
            progress=progress,
        )
    show(report, invocation)
