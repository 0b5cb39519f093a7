"""The plan of `combine`: which factors make which, at which rank, and the fate of every tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratools import __version__
from loratools.checkpoints.hashing import file_root
from loratools.checkpoints.target import check_target
from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.engine.plan import Plan, Written
from loratools.errors import LoratoolsError
from loratools.operations.analysis.skinny import adapter_labels
from loratools.operations.arithmetic.carried import Shared, shared_tensors
from loratools.operations.arithmetic.combine_job import CombineJob, Part
from loratools.operations.arithmetic.combined import CombinedAdapter
from loratools.operations.arithmetic.factored import FactoredAdapter
from loratools.operations.arithmetic.resize_plan import refuse_file
from loratools.operations.combine_options import CombineOptions, Subject
from loratools.operations.rates import finishing, overhead
from loratools.operations.sidefiles import tokenizer_files

__all__ = ["CombinePlan", "plan_combine"]


@dataclass(frozen=True, kw_only=True)
class CombinePlan(Plan[CombineJob]):
    """`combined` is what the output will be."""

    combined: CombinedAdapter
    force: bool

    @property
    def stages(self) -> tuple[tuple[str, Sequence[CombineJob]], ...]:
        return (("combining", self.jobs),)

    @property
    def inputs(self) -> tuple[Path, ...]:
        return tuple(one.opened.root for one in self.combined.adapters)


def plan_combine(
    adapters: Sequence[FactoredAdapter],
    weights: Sequence[float],
    output: Path | None,
    options: CombineOptions,
    *,
    force: bool,
) -> CombinePlan:
    """Brings the adapters together, module by module.

    Raises:
        UsageError: an output that cannot hold an adapter.
        LoratoolsError: an output that may not be written, or adapters that cannot be combined.
    """
    refuse_file(output)
    check_target(output, force=force, inputs=tuple(one.opened.root for one in adapters))
    parts = _parts(adapters, weights)
    _refuse(parts)
    shared = shared_tensors(adapters, weights, parts.keys())
    ranks = {name: _rank(of_one, options, adapters) for name, of_one in parts.items()}
    combined = CombinedAdapter(adapters, weights, options, parts, ranks, shared, __version__)
    jobs = combined.jobs()
    read = sum(one.opened.bytes for one in adapters)
    return CombinePlan(
        command="combine",
        output=output,
        jobs=jobs,
        coverage=Coverage.of(_coverage(adapters, parts, shared)),
        read_bytes=read,
        write_bytes=combined.layout.size + combined.most_in_texts,
        weight_bytes=combined.layout.size,
        weights_written=Written.EXACTLY,
        overhead_bytes=overhead("combine"),
        finishing_seconds=finishing("combine", combined.layout.size),
        likeness=options.method.value,
        warnings=(*(line for one in adapters for line in one.warnings), *_doubts(combined)),
        combined=combined,
        force=force,
    )


def _parts(adapters: Sequence[FactoredAdapter], weights: Sequence[float]) -> dict[str, tuple[Part, ...]]:
    """The adapters' factors by module, in the order of names, each module's in the order of the adapters."""
    found: dict[str, list[Part]] = {}
    for place, (adapter, weight) in enumerate(zip(adapters, weights, strict=True)):
        for name, pair in adapter.pairs.items():
            found.setdefault(name, []).append(Part(place, pair, weight))
    return {name: tuple(found[name]) for name in sorted(found)}


def _refuse(parts: Mapping[str, tuple[Part, ...]]) -> None:
    for name, of_one in parts.items():
        first = of_one[0].pair
        for part in of_one:
            pair = part.pair
            if pair.magnitude is not None:
                raise LoratoolsError(
                    "DoRA cannot be combined: its magnitudes take the place of the norm of W + s·BA, so that "
                    "updates do not add up",
                    file=pair.magnitude.file,
                    tensor=pair.magnitude.name,
                    hint="merge each adapter into its base and extract the results",
                )
            if pair.layout != first.layout:
                raise LoratoolsError(
                    f"the adapters are not of one base: {name} has factors {first.B.shape} and "
                    f"{first.A.shape} in one, {pair.B.shape} and {pair.A.shape} in another",
                    file=pair.A.file,
                    tensor=pair.A.name,
                    hint="combine adapters of one base",
                )
    biased = next((p.pair for of_one in parts.values() for p in of_one if p.pair.bias is not None), None)
    embedding = next((of_one[0].pair for of_one in parts.values() if of_one[0].pair.embedding), None)
    if biased is not None and embedding is not None:
        raise LoratoolsError(
            f"{biased.module} has a bias beside its factors and {embedding.module} is an embedding, which "
            "PEFT's lora_bias does not allow in one adapter",
            file=biased.A.file,
            tensor=biased.A.name,
            hint="merge the adapters one after the other instead",
        )


def _rank(parts: tuple[Part, ...], options: CombineOptions, adapters: Sequence[FactoredAdapter]) -> int:
    """The rank of a module.

    Raises:
        LoratoolsError: factors are to be added, and have different ranks.
    """
    recipe, ranks = options.recipe, [part.pair.rank for part in parts]
    if recipe.truncates:
        wanted = options.rank or max(one.rank for one in adapters)
        there = min(parts[0].pair.shape)
        return min(wanted, there if recipe.subject is Subject.DENSE else min(there, sum(ranks)))
    if recipe.subject is Subject.SUM:
        return sum(ranks)
    if len(set(ranks)) > 1:
        told = ", ".join(map(str, ranks))
        raise LoratoolsError(
            f"--method {options.method.value} adds factors, which needs equal ranks: {parts[0].pair.module} "
            f"has {told}",
            file=parts[-1].pair.A.file,
            tensor=parts[-1].pair.A.name,
            hint="use --method cat or svd, or resize the adapters to one rank first",
        )
    return ranks[0]


def _coverage(
    adapters: Sequence[FactoredAdapter], parts: Mapping[str, tuple[Part, ...]], shared: Sequence[Shared]
) -> Iterator[CoverageRow]:
    labels = adapter_labels(len(adapters))
    for of_one in parts.values():
        for part in of_one:
            for spec in part.pair.specs:
                reason = f"times {part.factor:g}: weight {part.weight:g}, scaling {part.pair.scaling:g}"
                yield CoverageRow(labels[part.place], spec.name, Action.APPLIED, reason, spec.bytes)
    for one in shared:
        several = len(one.holders) > 1
        for place, spec in one.holders:
            reason = f"{one.why}: {'as all of its holders have it' if several else 'as it is'}"
            yield CoverageRow(labels[place], spec.name, Action.SAVED, reason, spec.bytes)
    for label, adapter in zip(labels, adapters, strict=True):
        for key, why in adapter.ignored.items():
            yield CoverageRow(label, key, Action.DROPPED, why, adapter.opened[key].bytes)


def _doubts(combined: CombinedAdapter) -> Iterator[str]:
    """What may mean that adapters do not belong together."""
    adapters = combined.adapters
    yield from (one.doubt for one in combined.shared if one.doubt is not None)
    bases = list(dict.fromkeys(one.config.base_name for one in adapters if one.config.base_name))
    if len(bases) > 1:
        yield f"the adapters name different bases, {bases[0]} and {bases[1]}; the first is written"
    records = [one.base_record for one in adapters]
    if all(records) and combined.base_record() is None:
        yield "the adapters were made for bases of different contents, by their provenance"
    tasks = list(dict.fromkeys(one.config.task_type for one in adapters if one.config.task_type))
    if len(tasks) > 1:
        yield f"the adapters are of different tasks, {tasks[0]} and {tasks[1]}; the first is written"
    held = [tokenizer_files(one.opened.folder) for one in adapters]
    contents = {tuple((name, file_root(path)) for name, path in one.items()) for one in held if one}
    if len(contents) > 1:
        yield "the adapters carry different tokenizers; the first one's goes along"
