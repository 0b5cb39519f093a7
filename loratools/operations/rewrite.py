"""Writing a checkpoint again: the run fills a plan's places in any order, and makes all visible at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratools import __version__
from loratools.checkpoints.codec import Codec
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import copy, has_name, make_folder, size, write_bytes, write_text
from loratools.checkpoints.fingerprints import InputMark, RunFingerprint
from loratools.checkpoints.parts import SafetensorsLayout, write_at
from loratools.checkpoints.provenance import FILE, Provenance
from loratools.checkpoints.publication import Publication
from loratools.checkpoints.seal import sealed
from loratools.checkpoints.trees import remove_whole
from loratools.engine.engine import Engine
from loratools.operations.resuming import journaled, keep_only
from loratools.operations.rewrite_layout import Outgoing, index_of
from loratools.operations.rewrite_plan import RewritePlan
from loratools.operations.rewrite_record import padded_header
from loratools.operations.sidefiles import SideFiles
from loratools.operations.streaming import TensorFigures
from loratools.operations.undo.kept import Kept
from loratools.operations.undo.record import records_in
from loratools.operations.written_bytes import json_text

FIGURES = Codec(TensorFigures, Kept=Kept)


@dataclass(frozen=True)
class Rewritten:
    """What a run measured, by tensor, what it has to say, and how many jobs an earlier run had done."""

    figures: Mapping[str, TensorFigures]
    warnings: tuple[str, ...]
    taken: int


def run_rewrite(
    plan: RewritePlan[Any],
    engine: Engine,
    *,
    watch: Callable[[TensorFigures], None],
    record: Callable[[Mapping[str, TensorFigures]], Provenance],
    adapter_roots: Sequence[Mapping[str, str]] = (),
    records: Sequence[Path] = (),
    resume: bool = False,
    last: Callable[[Path, Mapping[str, TensorFigures]], tuple[str, ...]] | None = None,
) -> Rewritten:
    """Writes everything and publishes it.

    Args:
        watch: is shown each tensor's figures as they come, and may refuse by raising LoratoolsError.
        record: makes the provenance of all figures, by tensor.
        adapter_roots: hashes of the adapters' tensors, which are read before.
        records: further files that are read.
        resume: go on where a run that was asked for the same stopped.
        last: writes what is written when all but the provenance is there, into the unpublished folder; gives
            warnings.

    Raises:
        LoratoolsError: the disk or a job refused; nothing is published then.
    """
    figures: dict[str, TensorFigures] = {}
    taken = 0
    assert plan.output is not None
    with Publication(
        plan.output,
        force=plan.force,
        inputs=plan.inputs.paths,
        one_file=plan.one_file,
        fingerprint=_fingerprint(plan, adapter_roots, records),
        resume=resume,
    ) as publication:
        _lay_out(plan, publication.folder)
        _copy_side_files(plan.side, publication.folder)
        jobs = journaled(plan.jobs, "tensor", FIGURES, publication.journal, resumed=publication.resumed)
        for job, done in engine.run(plan.command, jobs, publication.folder, torch=False):
            watch(done.result)
            figures[job.name] = done.result
            taken += done.taken
        provenance = record(figures)
        texts = _write_texts(plan, publication.folder)
        notes = () if last is None else last(publication.folder, figures)
        _write_provenance(plan, provenance, texts, publication.folder)
        plan.inputs.require_unchanged()
        warnings = (*notes, *publication.publish())
    return Rewritten(figures, (*_nonfinite(figures), *warnings), taken)


def source_roots(tensors: Iterable[Outgoing], figures: Mapping[str, TensorFigures]) -> dict[str, str]:
    """The hash of each tensor of the input, by its name there."""
    roots: dict[str, str] = {}
    for tensor in tensors:
        root = figures[tensor.name].source_root
        if tensor.source is not None and root is not None:
            roots[tensor.source.name] = root
    return roots


def _fingerprint(
    plan: RewritePlan[Any], adapter_roots: Sequence[Mapping[str, str]], records: Sequence[Path]
) -> RunFingerprint:
    import numpy as np

    labelled = zip(plan.inputs.labels(), plan.inputs.adapters, adapter_roots, strict=True)
    return RunFingerprint(
        plan.command,
        __version__,
        {"numpy": np.__version__},
        plan.options,
        (
            InputMark.of(plan.role, plan.checkpoint),
            *(InputMark.of(label, one.opened, roots) for label, one, roots in labelled),
            *(InputMark.of_file("undo record", path) for path in records),
        ),
    )


def _lay_out(plan: RewritePlan[Any], folder: Path) -> None:
    """The weight files at their full size. What an interrupted run wrote there stays, and nothing else."""
    left = [name for job in plan.jobs for name in job.leaves]
    with disk_errors(folder):
        keep_only(folder, [*(shard.file for shard in plan.shards), *left])
    for shard in plan.shards:
        path = folder / shard.file
        with disk_errors(path):
            started = has_name(path)
            if started and size(path) != shard.layout.size:
                remove_whole(path)
                started = False
        if started:
            write_at(path, 0, shard.layout.header)
        else:
            shard.layout.create(path)


def _copy_side_files(side: SideFiles, folder: Path) -> None:
    for relative, file in side.copied.items():
        target = folder / relative
        with disk_errors(target):
            make_folder(target.parent)
        copy(file, target)


def _write_texts(plan: RewritePlan[Any], folder: Path) -> list[str]:
    """Writes what stands beside the weights; gives the paths."""
    if plan.one_file:
        return []
    if plan.kept is not None:
        for relative, data in plan.kept.items():
            with disk_errors(folder / relative):
                make_folder((folder / relative).parent)
                write_bytes(folder / relative, data)
        return list(plan.kept)
    texts: dict[str, Mapping[str, object]] = dict(filter(None, [index_of(plan.shards)]))
    if plan.config is not None:
        texts["config.json"] = plan.config
    for name, content in texts.items():
        _write_json(folder / name, content)
    return list(texts)


def _write_provenance(
    plan: RewritePlan[Any], provenance: Provenance, texts: Sequence[str], folder: Path
) -> None:
    """Writes it where it belongs, with the hashes of all else; nothing where the base's own is kept."""
    if plan.one_file:
        _write_header(plan, provenance, folder)
    elif FILE not in texts:
        records = [path.relative_to(folder).as_posix() for path in records_in(folder)]
        provenance.covering(
            folder,
            weights=[*(shard.file for shard in plan.shards), *records],
            files=({*plan.side.copied, *texts} - {*records}),
        ).write(folder)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    with disk_errors(path):
        write_text(path, json_text(content))


def _write_header(plan: RewritePlan[Any], provenance: Provenance, folder: Path) -> None:
    """Puts the provenance into the room that the one file's header has for it."""
    shard = plan.shards[0]
    entries = [(tensor.name, tensor.dtype, tensor.shape) for tensor in shard.tensors]
    metadata = {**plan.metadata, **padded_header(provenance, plan.header_room)}
    final = SafetensorsLayout.of(entries, metadata)
    if final.places != shard.layout.places:
        raise ValueError("the header does not fit into the room that was left for it")
    write_at(folder / shard.file, 0, sealed(final.header))


def _nonfinite(figures: Mapping[str, TensorFigures]) -> list[str]:
    return [
        f"{figure.nonfinite} elements of {name} were NaN or infinite before, and still are"
        for name, figure in sorted(figures.items())
        if figure.nonfinite
    ]
