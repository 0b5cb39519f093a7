"""Writing the undo record of a merge into the unpublished output, once everything else is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loratools import __version__
from loratools.adapters.bias import Bias
from loratools.adapters.dora import Dora
from loratools.adapters.lowrank import LowRank
from loratools.adapters.update import Update
from loratools.adapters.values import Values
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import copy, is_file, make_folder, read_bytes
from loratools.checkpoints.files import size as size_of
from loratools.checkpoints.hashing import file_root, root_of
from loratools.checkpoints.parts import PartWriter, SafetensorsLayout
from loratools.checkpoints.spec import FLOATING
from loratools.checkpoints.trees import remove_whole
from loratools.operations.rewrite_layout import Outgoing, index_of, laid_out, shards_as_they_are
from loratools.operations.rewrite_record import tensor_root
from loratools.operations.sidefiles import RENEWED, SideFiles, side_files
from loratools.operations.streaming import TensorFigures
from loratools.operations.undo.kept import Keeping, Kept
from loratools.operations.undo.parts import PARTS, part_of
from loratools.operations.undo.record import (
    FOLDER,
    METADATA_KEY,
    SCHEMA,
    UndoRecord,
    chunks,
    record_name,
    records_in,
)
from loratools.operations.undo.recorder import keep_whole
from loratools.operations.written_bytes import json_text

__all__ = ["RecordSize", "write_record"]


@dataclass(frozen=True)
class RecordSize:
    """What a record takes: all of it, and what of it is kept of rounding and of whole tensors, in bytes."""

    bytes: int
    intervals: int
    whole: int
    merged: int
    """Bytes of the tensors that were merged."""
    warnings: tuple[str, ...] = ()


@dataclass
class _Pieces:
    """The record's tensors, each from memory or from a file, and their hashes."""

    entries: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    sources: dict[str, bytes | Path] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    _factors: dict[Values, str] = field(default_factory=dict)

    def add(self, name: str, source: bytes | Path, dtype: str = "uint8", shape: tuple[int, ...] = ()) -> None:
        size = len(source) if isinstance(source, bytes) else size_of(source)
        self.entries[name] = (dtype, shape or (size,))
        self.sources[name] = source
        self.roots[name] = root_of(source) if isinstance(source, bytes) else file_root(source)

    def factor(self, values: Values) -> str:
        """The name of an adapter's tensor in the record; the same for equal ones."""
        from loratools.operations.precision import rounded

        if values not in self._factors:
            name = f"factor/{len(self._factors)}"
            array = values.array()
            dtype = values.spec.dtype if values.spec.dtype in FLOATING else str(array.dtype)
            self.add(name, rounded(array, dtype).tobytes(), dtype, values.shape)
            values.release()
            self._factors[values] = name
        return self._factors[values]

    def scale(self, factor: Sequence[float]) -> str:
        import numpy as np

        name = f"scale/{sum(one.startswith('scale/') for one in self.entries)}"
        self.add(name, np.asarray(factor, "<f8").tobytes(), "float64", (len(factor),))
        return name

    def write(self, path: Path, record: bytes) -> int:
        self.add("record", record)
        layout = SafetensorsLayout.of(
            ((name, dtype, shape) for name, (dtype, shape) in self.entries.items()),
            {METADATA_KEY: self.roots.pop("record")},
        )
        layout.create(path)
        with PartWriter(path) as writer:
            for name, source in self.sources.items():
                at = layout.offset(name)
                for chunk in chunks(source):
                    writer.write(at, chunk)
                    at += len(chunk)
        return layout.size


def write_record(
    folder: Path,
    base: Checkpoint,
    tensors: Sequence[Outgoing],
    figures: Mapping[str, TensorFigures],
    base_roots: Mapping[str, str],
    adapters: Sequence[Mapping[str, Any]],
    output: Path,
    seed: int | None,
) -> RecordSize:
    """Puts the record together from the parts that the jobs left, after earlier ones that still hold.

    Args:
        folder: of the unpublished output, complete but for the record.
        tensors: of the output; `figures` are theirs, `base_roots` those of the base's tensors by name.
        adapters: what is said of each: name, fingerprint, weight.
        output: where the folder is going to be, which is left out where it lies in the base's.
        seed: of rounding by chance; None where the merge rounded to nearest.

    Raises:
        LoratoolsError: the disk refused, or the base cannot be read.
    """
    earlier, warnings = _earlier(base, base_roots)
    pieces = _Pieces()
    held = {name: _kept(name, base, tensors, figures, folder) for name in base}
    merged = {tensor.name: tensor for tensor in tensors}
    shards, sizes = _weight_files(base, pieces)
    content = {
        "schema": SCHEMA,
        "seed": seed,
        "version": __version__,
        "adapters": [dict(one) for one in adapters],
        "made_again": base.format != "safetensors",
        "merged": {name: figures[name].root for name in sorted(merged)},
        "shards": sizes,
        "tensors": {
            name: {
                "dtype": base[name].dtype,
                "shape": list(base[name].shape),
                "root": base_roots[name] if name in base_roots else tensor_root(base[name]),
                "file": shards[name][0],
                "offset": shards[name][1],
                "how": "copied" if kept is None else kept.how.value,
                "bits": 0 if kept is None else kept.bits,
                "apart": 0 if kept is None else kept.apart,
                "steps": []
                if kept is None or kept.how is not Keeping.INTERVAL
                else _steps(merged[name].updates, kept, pieces),
            }
            for name, kept in held.items()
        },
    }
    for name, kept in held.items():
        if kept is not None:
            pieces.add(f"tensor/{name}", folder / kept.part)
    content["files"] = _files(base, folder, output, pieces)
    content["pieces"] = pieces.roots
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    place = folder / FOLDER
    with disk_errors(place):
        make_folder(place)
        for path in earlier:
            copy(path, place / path.name)
    size = pieces.write(folder / record_name(len(earlier) + 1), text)
    with disk_errors(place):
        remove_whole(folder / PARTS)
    kinds = {name: kept.how for name, kept in held.items() if kept is not None}
    spans = {name: pieces.entries[f"tensor/{name}"][1][0] for name in kinds}
    return RecordSize(
        bytes=size,
        intervals=sum(spans[name] for name, how in kinds.items() if how is Keeping.INTERVAL),
        whole=sum(spans[name] for name, how in kinds.items() if how is Keeping.WHOLE),
        merged=sum(base[name].bytes for name, how in kinds.items() if how is Keeping.INTERVAL),
        warnings=warnings,
    )


def _earlier(base: Checkpoint, base_roots: Mapping[str, str]) -> tuple[list[Path], tuple[str, ...]]:
    """The records of earlier merges into the base, if the last of them made what the base is."""
    found = records_in(base.folder) if base.is_folder else []
    if not found:
        return [], ()
    last = UndoRecord.read(found[-1])
    if {name: base_roots.get(name) for name in last.merged} == dict(last.merged) and len(base) == len(
        last.merged
    ):
        return found, ()
    return [], ("the base was changed since its own merge: the undo record of that stays behind",)


def _kept(
    name: str,
    base: Checkpoint,
    tensors: Sequence[Outgoing],
    figures: Mapping[str, TensorFigures],
    folder: Path,
) -> Kept | None:
    """What was kept of a tensor of the base; None where the output has it as it was."""
    kept = figures[name].undo
    if kept is not None or figures[name].source_name == name:
        return kept
    part = part_of(len(figures) + list(base).index(name))
    return keep_whole(base[name], folder / part, part)


def _weight_files(base: Checkpoint, pieces: _Pieces) -> tuple[dict[str, tuple[str, int]], dict[str, int]]:
    """(file, offset) of every tensor as they are to be again, and the files' sizes; keeps their headers."""
    places: dict[str, tuple[str, int]] = {}
    sizes: dict[str, int] = {}
    if base.format == "safetensors":
        for file in base.shards:
            first = min((spec.offset for spec in base.values() if spec.file == file), default=0)
            with disk_errors(file, "read"):
                sizes[file.name] = size_of(file)
                pieces.add(f"header/{file.name}", read_bytes(file, first))
        return {name: (spec.file.name, spec.offset) for name, spec in base.items()}, sizes
    plain = [Outgoing(name, spec.dtype, spec.shape, spec) for name, spec in base.items()]
    shards = laid_out(shards_as_they_are(base, plain), {})
    for shard in shards:
        sizes[shard.file] = shard.layout.size
        pieces.add(f"header/{shard.file}", shard.layout.header)
        places |= {tensor.name: (shard.file, shard.layout.offset(tensor.name)) for tensor in shard.tensors}
    index = index_of(shards)
    if index is not None:
        pieces.add(f"file/{index[0]}", json_text(index[1]).encode())
    return places, sizes


def _files(base: Checkpoint, folder: Path, output: Path, pieces: _Pieces) -> dict[str, dict[str, Any]]:
    """The base's other files: those that the output has byte for byte, and those that the record keeps."""
    listed: dict[str, dict[str, Any]] = {
        name.removeprefix("file/"): {"root": root, "kept": True}
        for name, root in pieces.roots.items()
        if name.startswith("file/")
    }
    if not (base.is_folder or base.config):
        return listed
    beside = side_files(base.folder, frozenset(base.shards), skip=output)
    for relative, path in {**beside.copied, **_renewed(base, beside)}.items():
        root = file_root(path)
        written = folder / relative
        with disk_errors(output / relative, "read"):
            same = is_file(written) and file_root(written) == root
        if not same:
            with disk_errors(path, "read"):
                pieces.add(f"file/{relative}", read_bytes(path))
            root = pieces.roots[f"file/{relative}"]  # of what was kept, should it be another by now
        listed[relative] = {"root": root, "kept": not same}
    return listed


def _renewed(base: Checkpoint, beside: SideFiles) -> dict[str, Path]:
    """The index and the provenance, of which an output has its own."""
    names = [one.path for one in beside.left_behind if one.reason == RENEWED]
    if base.format != "safetensors":
        names = [name for name in names if not name.endswith(".index.json")]
    return {name: base.folder / name for name in names}


def _steps(updates: Sequence[Update], kept: Kept, pieces: _Pieces) -> list[dict[str, Any]]:
    factors = iter(kept.factors)
    steps: list[dict[str, Any]] = []
    for update in updates:
        if isinstance(update, Bias):
            steps.append({"kind": "added", "value": pieces.factor(update.value), "scaling": update.scaling})
            continue
        product = update.direction if isinstance(update, Dora) else update
        assert isinstance(product, LowRank)
        steps.append(
            {
                "kind": "product",
                "A": pieces.factor(product.A),
                "B": pieces.factor(product.B),
                "scaling": product.scaling,
                "transposed": bool(product.transposed),
            }
        )
        if isinstance(update, Dora):
            axis = 1 if product.transposed else 0
            steps.append({"kind": "scaled", "axis": axis, "factor": pieces.scale(next(factors))})
    return steps
