"""The plan of an exact unmerge: the base's files and tensors, and the merges that are taken off each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from loratools import __version__
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import is_file, is_folder, size
from loratools.checkpoints.hashing import file_root
from loratools.checkpoints.parts import Place, SafetensorsLayout, stored_bytes
from loratools.checkpoints.provenance import FILE, InputRecord, Provenance, fingerprint_of
from loratools.checkpoints.publication import check_target
from loratools.checkpoints.spec import TensorSpec
from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.engine.plan import Written
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.merge_inputs import MergeInputs
from loratools.operations.rates import finishing, overhead
from loratools.operations.rewrite_layout import Outgoing, Shard
from loratools.operations.rewrite_plan import RewritePlan
from loratools.operations.rewrite_record import input_record, tensor_root
from loratools.operations.sidefiles import SideFiles
from loratools.operations.streaming import TensorFigures
from loratools.operations.undo.record import FOLDER, BaseTensor, UndoRecord, records_in
from loratools.operations.undo.restore_job import RestoreJob, Taken
from loratools.operations.written_bytes import most_in_provenance

__all__ = ["RestoreOptions", "RestorePlan", "plan_restore", "restore_record"]


@dataclass(frozen=True)
class RestoreOptions:
    """What is taken off: records, the last merge's first."""

    records: tuple[UndoRecord, ...]
    allow_modified: bool

    @property
    def base(self) -> UndoRecord:
        """The record of the first of these merges, which knows the base."""
        return self.records[-1]


RestorePlan = RewritePlan[RestoreOptions]


def plan_restore(
    merged: Checkpoint, output: Path | None, *, all_of: bool, allow_modified: bool, force: bool
) -> RestorePlan:
    """Reads the records, and says what becomes of every tensor.

    Raises:
        LoratoolsError: a record is missing, damaged, or not that of this checkpoint.
        UsageError: the output's name asks for one file.
    """
    inputs = MergeInputs(merged, ())
    if output is not None and output.suffix == ".safetensors" and not is_folder(output):
        raise UsageError("the base is given back as a folder", file=output, hint="name a folder")
    check_target(output, force=force, inputs=inputs.paths)
    paths = records_in(merged.folder)
    if not paths:
        raise LoratoolsError(
            "no merge kept an undo record here, and no adapter was named",
            file=merged.root,
            hint="name the adapters that were merged, or merge with --undo next time",
        )
    chosen = paths if all_of else paths[-1:]
    records = tuple(UndoRecord.read(path) for path in reversed(chosen))
    options = RestoreOptions(records, allow_modified)
    _refuse_others(merged, records)
    base = options.base
    shards = tuple(_shard(base, file, merged) for file in sorted(base.sizes))
    jobs = tuple(
        _job(options, merged, tensor.name, shard.place(tensor))
        for shard in shards
        for tensor in shard.tensors
    )
    kept, copied, notes = _files(options, merged)
    for path in paths[: len(paths) - len(chosen)]:
        copied[f"{FOLDER}/{path.name}"] = path
    side = SideFiles(copied, ())
    read = sum(job.bytes for job in jobs) + sum(size(record.path) for record in records)
    weights = sum(shard.layout.size for shard in shards)
    beside = sum(map(len, kept.values())) + side.bytes
    write = weights + beside
    if FILE not in kept:
        pieces = (name for record in records for name in record.pieces)
        write += most_in_provenance((merged,), shards, (*side.copied, *kept, *pieces))
    return RewritePlan(
        command="unmerge",
        output=output,
        jobs=jobs,
        coverage=_coverage(merged, options),
        read_bytes=read,
        write_bytes=write,
        weight_bytes=weights,
        written=Written.EXACTLY if FILE in kept else Written.AT_MOST,
        weights_written=Written.EXACTLY,
        overhead_bytes=overhead("unmerge"),
        finishing_seconds=finishing("unmerge", write),
        likeness="by its record",
        warnings=tuple(merged.warnings)
        + (("the base was in torch format, and comes back as safetensors",) if base.made_again else ())
        + tuple(notes),
        inputs=inputs,
        role="merged",
        asked=options,
        force=force,
        one_file=False,
        header_room=0,
        shards=shards,
        metadata={},
        options={"allow_modified": allow_modified, "merges": len(records)},
        side=side,
        config=None,
        kept=kept,
    )


def restore_record(
    plan: RestorePlan, figures: Mapping[str, TensorFigures], merged_roots: Mapping[str, str]
) -> Provenance:
    """The provenance of an exact unmerge."""
    return Provenance(
        command="unmerge",
        version=__version__,
        options={
            "exact": True,
            "merges": len(plan.asked.records),
            "allow_modified": plan.asked.allow_modified,
        },
        inputs=(
            input_record("merged", plan.inputs.checkpoint, merged_roots),
            *map(_record_as_input, plan.asked.records),
        ),
        tensors={name: figures[name].root for name in sorted(figures)},
    )


def _record_as_input(record: UndoRecord) -> InputRecord:
    """An undo record, by the hashes of its pieces."""
    roots = {**record.roots, "record": tensor_root(record.pieces["record"])}
    fingerprint = fingerprint_of(record.pieces.values(), roots)
    return InputRecord(
        "undo record", record.path.name, "safetensors", fingerprint, dict(sorted(roots.items()))
    )


def _refuse_others(merged: Checkpoint, records: Sequence[UndoRecord]) -> None:
    """Records that do not follow on one another, or do not speak of this checkpoint's tensors."""
    for later, earlier in pairwise(records):
        before = {name: tensor.root for name, tensor in later.tensors.items()}
        if before != dict(earlier.merged):
            raise LoratoolsError(
                "the undo records of two merges do not follow on one another", file=earlier.path
            )
    written = set(records[0].merged)
    for others, what in (
        (written - set(merged), "that the merge wrote are not here any more"),
        (set(merged) - written, "are here that the merge did not write"),
    ):
        if others:
            raise LoratoolsError(
                f"tensors {what}: {len(others)}, {min(others)} for one",
                file=merged.root,
                hint="use the merged checkpoint as it was written",
            )


def _shard(base: UndoRecord, file: str, merged: Checkpoint) -> Shard:
    """A weight file of the base, with the header that it had."""
    held = [tensor for tensor in base.tensors.values() if tensor.file == file]
    header = base.piece(f"header/{file}").read()
    size = base.sizes[file]
    places = {}
    end = len(header)
    for tensor in sorted(held, key=lambda one: (one.offset, math.prod(one.shape))):
        length = _bytes(tensor, base)
        if tensor.offset != end:
            raise LoratoolsError("the undo record does not lay its files out", file=base.path)
        places[tensor.name] = Place(tensor.offset, length)
        end += length
    if end != size:
        raise LoratoolsError("the undo record does not lay its files out", file=base.path)
    outgoing = tuple(
        Outgoing(tensor.name, tensor.dtype, tensor.shape, merged.tensors.get(tensor.name)) for tensor in held
    )
    return Shard(file, outgoing, SafetensorsLayout(header, places, size))


def _bytes(tensor: BaseTensor, base: UndoRecord) -> int:
    try:
        return stored_bytes(tensor.dtype, tensor.shape)
    except LoratoolsError as error:
        raise LoratoolsError(error.message, file=base.path, tensor=tensor.name) from error


def _job(options: RestoreOptions, merged: Checkpoint, name: str, place: TensorSpec) -> RestoreJob:
    taken = tuple(
        Taken(record.tensors[name], record.path, record.pieces_of(record.tensors[name]), record.seed)
        for record in options.records
    )
    source = merged.tensors.get(name)
    expected = options.records[0].merged.get(name, "")
    return RestoreJob(source, expected, place, taken, options.allow_modified)


def _files(
    options: RestoreOptions, merged: Checkpoint
) -> tuple[dict[str, bytes], dict[str, Path], list[str]]:
    """The base's other files: bytes that a record holds, and files of the merged folder that are the base's.

    With them comes what has to be said: files that were changed since, and are taken as they are.

    Raises:
        LoratoolsError: one was changed since the merge (unless that is allowed: then it is taken as it is).
    """
    kept: dict[str, bytes] = {}
    copied: dict[str, Path] = {}
    notes: list[str] = []
    for relative, (root, _) in options.base.files.items():
        holder = next(
            (record for record in reversed(options.records) if record.files.get(relative, ("", False))[1]),
            None,
        )
        if holder is not None:
            kept[relative] = holder.piece(f"file/{relative}").read()
            continue
        path = merged.folder / relative
        with disk_errors(path, "open"):
            missing = not is_file(path)
        if missing:
            raise LoratoolsError("this file of the base is not beside the merged weights any more", file=path)
        if file_root(path) != root:
            if not options.allow_modified:
                raise LoratoolsError(
                    "this file was changed since the merge",
                    file=path,
                    hint="--allow-modified takes it as it is",
                )
            notes.append(f"{relative} was changed since the merge, and is not the base's")
        copied[relative] = path
    return kept, copied, notes


def _coverage(merged: Checkpoint, options: RestoreOptions) -> Coverage:
    rows = []
    for name, spec in merged.items():
        fates = {record.tensors[name].how for record in options.records if name in record.tensors}
        if name not in options.base.tensors:
            action, reason = Action.DROPPED, "the merge added it"
        elif "whole" in fates:
            action, reason = Action.REPLACED, "the record holds the base's whole"
        elif "interval" in fates:
            action, reason = Action.MERGED, "restored bit by bit"
        else:
            action, reason = Action.COPIED, "no merge changed it"
        rows.append(CoverageRow("merged", name, action, reason, spec.bytes))
    return Coverage.of(rows)
