"""The plan of `resize`: which ranks, where headers tell them, and the fate of every tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratools.checkpoints.target import WEIGHT_SUFFIXES, check_target
from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.engine.plan import Plan
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.arithmetic.factored import FactoredAdapter, FactorPair
from loratools.operations.arithmetic.resize_job import SpectrumJob
from loratools.operations.rates import finishing, overhead
from loratools.operations.resize_options import ResizeOptions

__all__ = ["ResizePlan", "plan_resize", "refuse_cut_dora", "refuse_file", "resize_coverage"]


@dataclass(frozen=True, kw_only=True)
class ResizePlan(Plan[SpectrumJob]):
    """`ranks` are None where the data must be read for them; `jobs` are the pairs of factors."""

    adapter: FactoredAdapter
    options: ResizeOptions
    ranks: Mapping[str, int] | None
    force: bool

    @property
    def stages(self) -> tuple[tuple[str, Sequence[SpectrumJob]], ...]:
        """The jobs that write cost what those cost that decompose, and carry the same names."""
        names = ("resizing",) if self.ranks is not None else ("decomposing", "resizing")
        return tuple((name, self.jobs) for name in names)


def plan_resize(
    adapter: FactoredAdapter, output: Path | None, options: ResizeOptions, *, force: bool
) -> ResizePlan:
    """Settles what headers can tell.

    Raises:
        UsageError: an output that cannot hold an adapter.
        LoratoolsError: an output that may not be written, or DoRA that would be cut.
    """
    refuse_file(output)
    check_target(output, force=force, inputs=(adapter.opened.root,))
    ranks = None
    if options.rank is not None:
        ranks = {name: min(options.rank, pair.rank) for name, pair in adapter.pairs.items()}
        refuse_cut_dora(adapter, ranks)
    jobs = tuple(map(SpectrumJob, adapter.pairs.values()))
    return ResizePlan(
        command="resize",
        output=output,
        jobs=jobs,
        coverage=resize_coverage(adapter, options, ranks),
        read_bytes=adapter.opened.bytes,
        write_bytes=adapter.opened.bytes if options.budget is None else options.budget,
        overhead_bytes=overhead("resize"),
        finishing_seconds=finishing("resize", adapter.opened.bytes),
        warnings=adapter.warnings + (() if ranks is None else tuple(_above(adapter, options, ranks))),
        adapter=adapter,
        options=options,
        ranks=ranks,
        force=force,
    )


def refuse_file(output: Path | None) -> None:
    """Raises UsageError where an adapter's output is named like one file."""
    if output is not None and output.suffix in WEIGHT_SUFFIXES:
        raise UsageError(
            "an adapter needs a folder", file=output, hint="name a folder with -o, without a file's suffix"
        )


def refuse_cut_dora(adapter: FactoredAdapter, ranks: Mapping[str, int]) -> None:
    """Refuses to cut factors under DoRA's magnitudes.

    Such a weight is m ⊙ (W + s·BA) / ||W + s·BA||: the update is not s·BA, and how far a cut moves it depends
    on W, which is not read here. An error could be neither bounded nor told.
    """
    for name, pair in adapter.pairs.items():
        if pair.magnitude is not None and ranks[name] < pair.rank:
            raise LoratoolsError(
                f"DoRA cannot be cut from rank {pair.rank} to {ranks[name]}: its magnitudes go with the norm "
                "of W + s·BA, so that what a cut changes depends on the base",
                file=pair.magnitude.file,
                tensor=pair.magnitude.name,
                hint="merge it into its base and extract the result at that rank",
            )


def resize_coverage(
    adapter: FactoredAdapter, options: ResizeOptions, ranks: Mapping[str, int] | None
) -> Coverage:
    """The fate of every tensor of the adapter; pending where its rank is not known yet."""
    rows = [row for pair in adapter.pairs.values() for row in _of_pair(pair, options, ranks)]
    for one in adapter.carried.values():
        spec = one.spec
        rows.append(CoverageRow("adapter", spec.name, Action.SAVED, f"{one.why}: as it is", spec.bytes))
    for key, why in adapter.ignored.items():
        size = adapter.opened[key].bytes
        rows.append(CoverageRow("adapter", key, Action.DROPPED, why, size))
    return Coverage.of(rows)


def _of_pair(
    pair: FactorPair, options: ResizeOptions, ranks: Mapping[str, int] | None
) -> Iterator[CoverageRow]:
    if ranks is None:
        action, reason, beside = Action.PENDING, f"of rank {pair.rank}: {options.amount}", ""
    elif ranks[pair.module] == pair.rank:
        action, reason, beside = Action.COPIED, f"of rank {pair.rank}: as it is", ""
    elif not ranks[pair.module]:
        action, reason, beside = Action.DROPPED, "the budget keeps more energy in other modules", ""
    else:
        action, reason = Action.FACTORED, f"from rank {pair.rank} to {ranks[pair.module]}"
        beside = f"times its scaling {pair.scaling:g}, so that alpha is the rank"
    for spec in pair.specs:
        factor = spec in (pair.A, pair.B)
        yield CoverageRow("adapter", spec.name, action, reason if factor else beside or reason, spec.bytes)


def _above(adapter: FactoredAdapter, options: ResizeOptions, ranks: Mapping[str, int]) -> Iterator[str]:
    """Where the rank asked for is more than there is."""
    lower = [name for name, pair in adapter.pairs.items() if pair.rank < (options.rank or 0)]
    if lower:
        more = f" and {len(lower) - 1} more" if len(lower) > 1 else ""
        yield (
            f"{lower[0]}{more}: rank {options.rank} is more than the factors have, so they stay as they are"
        )
