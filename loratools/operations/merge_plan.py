"""The plan of a merge: what becomes of every tensor, settled from headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratools import __version__
from loratools.adapters.bind import bind
from loratools.adapters.binding import Binding, BoundTensor
from loratools.adapters.contents import VALUES, Contents
from loratools.adapters.replace import Replace
from loratools.adapters.update import Update
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.provenance import Provenance
from loratools.checkpoints.publication import check_target
from loratools.checkpoints.spec import FLOATING, TensorSpec
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.merge_coverage import planned_coverage
from loratools.operations.merge_inputs import MergeInputs
from loratools.operations.merge_job import MergeJob
from loratools.operations.merge_options import MergeOptions, OutputDtype
from loratools.operations.merged_config import MergedConfig, merged_config
from loratools.operations.other_base import name_warnings, no_common_tensor
from loratools.operations.rewrite_layout import Outgoing, shards_as_they_are, shards_by_size
from loratools.operations.rewrite_plan import Draft, RewritePlan, TensorJob, files_beside, wants_one_file
from loratools.operations.rewrite_record import changed_rows, input_record, widest, widest_roots
from loratools.operations.seeds import draws_of
from loratools.operations.sidefiles import SideFiles, with_tokenizer
from loratools.operations.streaming import TensorFigures
from loratools.operations.undo.parts import part_of
from loratools.operations.undo.record import FOLDER

MergePlan = RewritePlan[MergeOptions]


def plan_merge(
    inputs: MergeInputs, output: Path | None, options: MergeOptions, contents: Contents = VALUES
) -> MergePlan:
    """Binds the adapters to the base, lays the output out, and says what becomes of every tensor.

    Raises:
        LoratoolsError: anything that headers show to be impossible, or the output must not be written there.
        UsageError: the output's name and the options do not go together.
    """
    base = inputs.checkpoint
    one_file = wants_one_file(base, output)
    if one_file and options.shard_size.bytes is not None:
        raise UsageError(
            "one file has no shards", file=output, hint="leave --shard-size out, or name a folder"
        )
    if one_file and options.undo:
        raise UsageError("one file has no room for an undo record", file=output, hint="name a folder")
    check_target(output, force=options.force, inputs=inputs.paths)
    binding = bind(
        [(one.adapter, one.weight) for one in inputs.adapters],
        base,
        tied=options.tied,
        allow_unmatched=options.allow_unmatched,
        contents=contents,
    )
    tensors = outgoing(base, binding, options.dtype)
    config = merged_config(base, tensors, dtype=options.dtype, binding=binding, adapters=inputs.adapters)
    side, notes = _beside(inputs, output, one_file=one_file)
    if options.undo:
        _refuse_names_without_record(side)
        side = side.without(f"{FOLDER}/")  # earlier records come along with the new one
    draft = Draft(
        command="merge",
        output=output,
        inputs=inputs,
        asked=options,
        force=options.force,
        one_file=one_file,
        shards=(
            {output.name: tensors}
            if one_file and output is not None
            else _in_shards(base, tensors, options.shard_size.bytes)
        ),
        change=_Jobs(
            {tensor.name: part_of(n) for n, tensor in enumerate(tensors)} if options.undo else {},
            options.drawing_seed,
        ),
        role="base",
        options=_options_record(inputs, options),
        record=lambda: merge_record(inputs, options, tensors, widest(tensors), *_widest_roots(inputs)),
        side=side,
        coverage=planned_coverage(inputs, binding, tensors, role="base", verb="merged"),
        likeness="with its undo record" if options.undo else "plain",
        keeps_undo=options.undo,
        may_shrink=any(name not in base for name in binding.pending_tensors),
        config=config.content if config.changes and not one_file else None,
        warnings=(
            *said(inputs, binding),
            *name_warnings(inputs),
            *no_common_tensor(inputs),
            *notes,
            *_config_notes(config, one_file=one_file),
        ),
    )
    return draft.planned()


def outgoing(base: Checkpoint, binding: Binding, dtype: OutputDtype) -> list[Outgoing]:
    """Every tensor of the output: those of the base, in the order of names, then those that are new."""
    added = sorted(name for name in binding.tensors if name not in base)
    return [_outgoing(name, base.get(name), binding.tensors.get(name), dtype) for name in [*base, *added]]


def _outgoing(name: str, own: TensorSpec | None, bound: BoundTensor | None, dtype: OutputDtype) -> Outgoing:
    source, updates = (own, ()) if bound is None else (bound.source, bound.updates)
    before, shape = (source.dtype, source.shape) if source is not None else _of_new(name, updates)
    for update in updates:
        shape = update.shape(shape)
    written = before if dtype is OutputDtype.KEEP or before not in FLOATING else dtype.value
    return Outgoing(name, written, shape, source, updates)


def _of_new(name: str, updates: tuple[Update, ...]) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape of a tensor that the base does not have: those of what the adapter holds in full."""
    if not updates or not isinstance(updates[0], Replace):
        raise ValueError(f"{name} starts from nothing, and nothing is put there")
    return updates[0].value.spec.dtype, updates[0].value.shape


def merge_record(
    inputs: MergeInputs,
    options: MergeOptions,
    tensors: Sequence[Outgoing],
    figures: Mapping[str, TensorFigures],
    base_roots: Mapping[str, str],
    adapter_roots: Sequence[Mapping[str, str]],
) -> Provenance:
    """The provenance of a merge whose figures and hashes are known."""
    adapters = [
        input_record("adapter", one.opened, roots)
        for one, roots in zip(inputs.adapters, adapter_roots, strict=True)
    ]
    return Provenance(
        command="merge",
        version=__version__,
        options=_options_record(inputs, options),
        inputs=(input_record("base", inputs.checkpoint, base_roots), *adapters),
        tensors={name: figures[name].root for name in sorted(figures)},
        modules=changed_rows(tensors, figures),
    )


def _options_record(inputs: MergeInputs, options: MergeOptions) -> dict[str, Any]:
    """The options that change the result."""
    return {
        "allow_unmatched": options.allow_unmatched,
        "dtype": options.dtype.value,
        "shard_size": options.shard_size.bytes or "keep",
        "tied": options.tied.value,
        "weights": [one.weight for one in inputs.adapters],
        **({"undo": True} if options.undo else {}),
        **_rounding_record(options),
    }


def _rounding_record(options: MergeOptions) -> dict[str, Any]:
    """Rounding by chance; to nearest is what a record that does not speak of it means."""
    if options.drawing_seed is None:
        return {}
    return {"rounding": options.rounding.value, "seed": options.drawing_seed}


def said(inputs: MergeInputs, binding: Binding) -> list[str]:
    """What the inputs and the binding have to say; each line once."""
    lines = [
        *inputs.checkpoint.warnings,
        *(line for one in inputs.adapters for line in one.adapter.warnings),
        *binding.warnings,
        *binding.decisions,
        *(f"{adapter}: {key} finds no tensor in the base" for adapter, key in binding.unmatched),
    ]
    return list(dict.fromkeys(lines))


@dataclass(frozen=True)
class _Jobs:
    """Makes the jobs of tensors.

    `parts` says where each leaves what an undo record keeps; `seed` is that of rounding by chance, None
    rounds to nearest.
    """

    parts: Mapping[str, str]
    seed: int | None

    def __call__(self, tensor: Outgoing, place: TensorSpec) -> TensorJob:
        draws = None if self.seed is None else draws_of(self.seed, tensor.name)
        return MergeJob(tensor.source, place, tensor.updates, self.parts.get(tensor.name), draws)


def _in_shards(base: Checkpoint, tensors: list[Outgoing], limit: int | None) -> dict[str, list[Outgoing]]:
    return shards_as_they_are(base, tensors) if limit is None else shards_by_size(base, tensors, limit)


def _refuse_names_without_record(side: SideFiles) -> None:
    """Names that no header can hold, and so no undo record."""
    for name, path in side.copied.items():
        if not name.isprintable():
            raise LoratoolsError(
                "an undo record cannot hold a file of this name",
                file=path,
                hint="rename it, or leave --undo out",
            )


def _beside(inputs: MergeInputs, output: Path | None, *, one_file: bool) -> tuple[SideFiles, list[str]]:
    """What comes along, with the tokenizer of the last adapter that carries one."""
    side = files_beside(inputs.checkpoint, output, one_file=one_file)
    if one_file:
        return side, []
    carriers = []
    for one in inputs.adapters:
        side, carried = with_tokenizer(side, one.opened.folder)
        if carried:
            carriers.append(one.name)
    if len(carriers) > 1:
        return side, [f"{', '.join(carriers)} each carry a tokenizer; that of {carriers[-1]} is used"]
    return side, [f"the tokenizer is that of {name}" for name in carriers]


def _widest_roots(inputs: MergeInputs) -> tuple[dict[str, str], list[dict[str, str]]]:
    return widest_roots(inputs.checkpoint), [widest_roots(one.opened) for one in inputs.adapters]


def _config_notes(config: MergedConfig, *, one_file: bool) -> list[str]:
    """What has to be said of the config."""
    if one_file:
        return [f"the config beside the base does not fit any more: {change}" for change in config.changes]
    return [f"config.json: {change}" for change in config.changes]
