"""The plan of an unmerge: which tensors updates are taken off from, or why that cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loratools import __version__
from loratools.adapters.bind import Tied, bind
from loratools.adapters.binding import BoundTensor
from loratools.adapters.contents import VALUES, Contents
from loratools.checkpoints.provenance import Provenance
from loratools.checkpoints.publication import check_target
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError
from loratools.operations.merge_coverage import planned_coverage
from loratools.operations.merge_inputs import MergeInputs
from loratools.operations.merge_options import OutputDtype
from loratools.operations.merge_plan import outgoing, said
from loratools.operations.own_copies import copies_pending, without_own_copies
from loratools.operations.rewrite_layout import Outgoing, shards_as_they_are
from loratools.operations.rewrite_plan import Draft, RewritePlan, TensorJob, files_beside, wants_one_file
from loratools.operations.rewrite_record import (
    changed_rows,
    hash_tensors,
    input_record,
    widest,
    widest_roots,
)
from loratools.operations.seeds import draws_of
from loratools.operations.streaming import TensorFigures
from loratools.operations.subtract import SubtractJob
from loratools.operations.unmerge_record import MergeRecord, adapter_fingerprints


@dataclass(frozen=True)
class UnmergeOptions:
    """What `unmerge` was asked for, and knows from the start: the merge's record, adapters' hashes."""

    allow_unmatched: bool
    record: MergeRecord
    adapter_roots: tuple[Mapping[str, str], ...]


UnmergePlan = RewritePlan[UnmergeOptions]


def plan_unmerge(
    inputs: MergeInputs,
    output: Path | None,
    *,
    allow_unmatched: bool,
    force: bool,
    contents: Contents = VALUES,
) -> UnmergePlan:
    """Binds the adapters to the merged checkpoint, and refuses by name what cannot be subtracted.

    Where values are not read, the record's adapters are told by the names of their tensors.

    A tied pair is taken to have been merged as one: had it been written apart, it would not be tied any more.

    Raises:
        LoratoolsError: a replacement, token rows or DoRA; a tensor that the merge added, wrote apart or
            rounded to a narrower dtype; anything that headers show to be impossible.
        UsageError: the output's name asks for what cannot be written.
    """
    one_file = wants_one_file(inputs.checkpoint, output)
    check_target(output, force=force, inputs=inputs.paths)
    record = MergeRecord.of(inputs)
    record.refuse_what_cannot_be_had_back()
    hashes = hash_tensors if contents.reads else widest_roots
    roots = tuple(hashes(one.opened) for one in inputs.adapters)
    fingerprints = adapter_fingerprints(inputs, roots) if contents.reads else record.likely(inputs)
    inputs, notes = record.told(inputs, fingerprints)
    if not contents.reads:
        notes = [*record.of_names(inputs, fingerprints), *notes]
    inputs, taken = without_own_copies(
        inputs,
        lambda adapter, tensor: record.only_added(fingerprints[adapter], tensor),
        allow_unmatched=allow_unmatched,
        contents=contents,
    )
    binding = bind(
        [(one.adapter, one.weight) for one in inputs.adapters],
        inputs.checkpoint,
        tied=Tied.TIE,
        allow_unmatched=allow_unmatched,
        contents=contents,
    )
    binding = replace(binding, pending={**binding.pending, **copies_pending(inputs, contents)})
    for bound in binding.tensors.values():
        _refuse_what_does_not_add(bound)
    tensors = outgoing(inputs.checkpoint, binding, OutputDtype.KEEP)
    options = UnmergeOptions(allow_unmatched, record, roots)
    return Draft(
        command="unmerge",
        output=output,
        inputs=inputs,
        asked=options,
        force=force,
        one_file=one_file,
        shards=(
            {output.name: tensors}
            if one_file and output is not None
            else shards_as_they_are(inputs.checkpoint, tensors)
        ),
        change=_Jobs(record.seed),
        role="merged",
        options=_options_record(inputs, options),
        record=lambda: unmerge_record(
            inputs, options, tensors, widest(tensors), widest_roots(inputs.checkpoint)
        ),
        side=files_beside(inputs.checkpoint, output, one_file=one_file),
        coverage=planned_coverage(inputs, binding, tensors, role="merged", verb="subtracted"),
        likeness="by subtraction",
        warnings=(*said(inputs, binding), *notes, *taken),
    ).planned()


def unmerge_record(
    inputs: MergeInputs,
    options: UnmergeOptions,
    tensors: Sequence[Outgoing],
    figures: Mapping[str, TensorFigures],
    merged_roots: Mapping[str, str],
) -> Provenance:
    """The provenance of an unmerge whose figures and hashes are known."""
    adapters = [
        input_record("adapter", one.opened, roots)
        for one, roots in zip(inputs.adapters, options.adapter_roots, strict=True)
    ]
    return Provenance(
        command="unmerge",
        version=__version__,
        options=_options_record(inputs, options),
        inputs=(input_record("merged", inputs.checkpoint, merged_roots), *adapters),
        tensors={name: figures[name].root for name in sorted(figures)},
        modules=tuple(
            {
                **row,
                "off": figures[row["name"]].off,
                "largest_difference": figures[row["name"]].largest_difference,
            }
            for row in changed_rows(tensors, figures)
        ),
    )


def _options_record(inputs: MergeInputs, options: UnmergeOptions) -> dict[str, object]:
    """The options that change the result."""
    return {
        "allow_unmatched": options.allow_unmatched,
        "seed": options.record.seed,
        "weights": [one.weight for one in inputs.adapters],
    }


def _refuse_what_does_not_add(bound: BoundTensor) -> None:
    for update in bound.updates:
        if not update.subtractable:
            raise LoratoolsError(
                f"{_WHAT.get(update.kind, update.kind)} cannot be subtracted: "
                "what it stands in the place of is not there any more",
                tensor=bound.name,
                hint="only the base itself has it",
            )
    if bound.source is None or bound.source.name != bound.name:
        raise LoratoolsError(
            "this tensor was added by the merge, and cannot be subtracted",
            tensor=bound.name,
            hint="use the base",
        )


_WHAT = {
    "replace": "a tensor that the adapter holds in full",
    "rows": "token rows that the adapter holds in full",
    "dora": "DoRA, which scales the base's own weights,",
}


@dataclass(frozen=True)
class _Jobs:
    """Makes the jobs of tensors; `seed` is that of a merge that rounded by chance."""

    seed: int | None

    def __call__(self, tensor: Outgoing, place: TensorSpec) -> TensorJob:
        if tensor.source is None:
            raise ValueError(f"{tensor.name} starts from nothing")
        draws = None if self.seed is None else draws_of(self.seed, tensor.name)
        return SubtractJob(tensor.source, place, tensor.updates, draws)
