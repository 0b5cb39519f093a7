"""The undo record of one merge: a safetensors file in `loratools-undo/` beside the merged weights.

Its tensors are bytes: `record`, a JSON text that says what the base was and what became of each tensor;
`tensor/NAME`, what was kept of one; `file/PATH`, files of the base that the merge wrote anew or left out;
`header/FILE`, the first bytes of the base's weight files; and the factors of the adapters as they were
applied. The header's metadata holds the hash of `record`; `record` holds those of everything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratools.checkpoints.claims import check_shape
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import is_folder, listing, pieces
from loratools.checkpoints.hashing import root_of
from loratools.checkpoints.jsonfile import parse_object
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.safetensors import read_header
from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.errors import LoratoolsError

__all__ = [
    "FOLDER",
    "METADATA_KEY",
    "SCHEMA",
    "BaseTensor",
    "Piece",
    "UndoRecord",
    "chunks",
    "record_name",
    "records_in",
]

FOLDER = "loratools-undo"
METADATA_KEY = "loratools_undo"
SCHEMA = 2
"""Records of schema 1 kept fewer elements apart than another machine's sums may call for."""
_NAMED = re.compile(r"merge-(\d{4})\.safetensors")
_JSON_BYTES = 200_000_000
_PLAIN = re.compile(r"(?!\.{1,2}(?:/|$))[^/\\\0]+(?:/(?!\.{1,2}(?:/|$))[^/\\\0]+)*")


def record_name(number: int) -> str:
    """The name of the record of the so-many-eth merge, below the checkpoint's folder."""
    return f"{FOLDER}/merge-{number:04d}.safetensors"


def records_in(folder: Path) -> list[Path]:
    """The records beside a checkpoint's weights, in the order of the merges.

    Raises:
        LoratoolsError: one of them is missing in between.
    """
    place = folder / FOLDER
    with disk_errors(place, "open"):
        entries = listing(place) if is_folder(place) else []
    found = [path for path in entries if _NAMED.fullmatch(path.name)]
    for number, path in enumerate(found, start=1):
        if path.name != Path(record_name(number)).name:
            raise LoratoolsError(
                f"the record of merge {number} is missing",
                file=path.with_name(Path(record_name(number)).name),
            )
    return found


@dataclass(frozen=True)
class BaseTensor:
    """A tensor of the base: what it was, and how it comes back.

    `how` is `copied` (the merged checkpoint has it unchanged), `interval` or `whole`. `steps` are those of
    an interval, as the record holds them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    root: str
    file: str
    offset: int
    how: str
    bits: int
    apart: int
    steps: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Piece:
    """A tensor of a record, and the hash of its bytes."""

    spec: TensorSpec
    root: str

    def read(self) -> bytes:
        """Raises LoratoolsError where the bytes are not those that were written."""
        with TensorReader(self.spec) as reader:
            data = bytes(reader.read(0, self.spec.rows).buffer)
        if root_of(data) != self.root:
            raise _damaged(self.spec.file, self.spec.name)
        return data


@dataclass(frozen=True)
class UndoRecord:
    """A record as it was read, and everything in it checked but the bytes of tensors."""

    path: Path
    version: str
    tensors: Mapping[str, BaseTensor]
    merged: Mapping[str, str]
    """The roots of the merged checkpoint's tensors."""
    files: Mapping[str, tuple[str, bool]]
    """The base's other files: their hash, and whether the record holds them."""
    sizes: Mapping[str, int]
    """The base's weight files and their sizes."""
    made_again: bool
    """Whether the base's weight files are laid out anew, since they were of another format."""
    adapters: tuple[Mapping[str, Any], ...]
    pieces: Mapping[str, TensorSpec]
    roots: Mapping[str, str]
    seed: int | None = None
    """Of rounding by chance; None where the merge rounded to nearest."""

    @classmethod
    def read(cls, path: Path) -> UndoRecord:
        """
        Raises:
            LoratoolsError: the file is no record, or is damaged.
        """
        header = read_header(path)
        spec = header.tensors.get("record")
        if spec is None or spec.dtype != "uint8" or spec.bytes > _JSON_BYTES:
            raise LoratoolsError("this is no undo record", file=path)
        with TensorReader(spec) as reader:
            text = bytes(reader.read(0, spec.rows).buffer)
        if header.metadata.get(METADATA_KEY) != root_of(text):
            raise _damaged(path, "record")
        found = parse_object(text, path)
        try:
            return cls._parsed(path, found, header.tensors)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise LoratoolsError(f"the undo record cannot be read ({error})", file=path) from error

    @classmethod
    def _parsed(cls, path: Path, found: Mapping[str, Any], pieces: Mapping[str, TensorSpec]) -> UndoRecord:
        if found["schema"] != SCHEMA:
            raise LoratoolsError(
                f"an undo record of schema {found['schema']!r}, not {SCHEMA}",
                file=path,
                hint="use the loratools that wrote it",
            )
        tensors = {
            str(name): _tensor(str(name), entry, path) for name, entry in sorted(found["tensors"].items())
        }
        sizes = {_relative(name, path): int(size) for name, size in found["shards"].items()}
        for tensor in tensors.values():
            if tensor.file not in sizes:
                raise LoratoolsError("a weight file that is not listed", file=path, tensor=tensor.name)
        record = cls(
            path=path,
            version=str(found["version"]),
            tensors=tensors,
            merged={str(name): str(root) for name, root in found["merged"].items()},
            files={
                _relative(name, path): (str(entry["root"]), bool(entry["kept"]))
                for name, entry in found["files"].items()
            },
            sizes=sizes,
            made_again=bool(found["made_again"]),
            adapters=tuple(dict(one) for one in found["adapters"]),
            pieces=pieces,
            roots={str(name): str(root) for name, root in found["pieces"].items()},
            seed=_seed(found["seed"], path),
        )
        if set(record.roots) != set(pieces) - {"record"}:
            raise LoratoolsError("the undo record does not hold what it lists", file=path)
        return record

    def piece(self, name: str) -> Piece:
        """One of the record's tensors. Raises LoratoolsError where there is none of that name."""
        spec = self.pieces.get(name)
        if spec is None or name not in self.roots:
            raise LoratoolsError("the undo record lacks a part", file=self.path, tensor=name)
        return Piece(spec, self.roots[name])

    def pieces_of(self, tensor: BaseTensor) -> Mapping[str, Piece]:
        """Those that a tensor needs to come back."""
        if tensor.how == "copied":
            return {}
        named = [step[key] for step in tensor.steps for key in ("A", "B", "value", "factor") if key in step]
        return {str(name): self.piece(str(name)) for name in (f"tensor/{tensor.name}", *named)}


def chunks(source: bytes | Path) -> Iterator[bytes]:
    """Bytes as they are, or those of a file in chunks. Raises LoratoolsError where it cannot be read."""
    if isinstance(source, bytes):
        yield source
        return
    with disk_errors(source, "read"):
        yield from pieces(source)


def _damaged(path: Path, name: str) -> LoratoolsError:
    return LoratoolsError(
        "damaged: its bytes are not those that were written",
        file=path,
        tensor=name,
        hint="copy the merged checkpoint again, with its loratools-undo folder",
    )


def _seed(found: Any, path: Path) -> int | None:
    if found is not None and (type(found) is not int or found < 0):
        raise LoratoolsError("the undo record holds something that is no seed", file=path)
    seed: int | None = found
    return seed


def _tensor(name: str, entry: Mapping[str, Any], path: Path) -> BaseTensor:
    dtype, how = str(entry["dtype"]), str(entry["how"])
    if how not in ("copied", "interval", "whole"):
        raise LoratoolsError(f"no way to restore a tensor: {how!r}", file=path, tensor=name)
    bits = 8 * ITEM_BYTES[dtype] if dtype in ITEM_BYTES else 8
    counts = [entry["offset"], entry["bits"], entry["apart"]]
    if any(type(count) is not int or count < 0 for count in counts):
        raise LoratoolsError("the undo record holds something that is no size", file=path, tensor=name)
    return BaseTensor(
        name=name,
        dtype=dtype,
        shape=check_shape(entry["shape"], bits, file=path, tensor=name),
        root=str(entry["root"]),
        file=_relative(entry["file"], path),
        offset=counts[0],
        how=how,
        bits=counts[1],
        apart=counts[2],
        steps=tuple(dict(step) for step in entry["steps"]),
    )


def _relative(name: Any, path: Path) -> str:
    """A path that stays below the folder: the record is as little to be believed as any file."""
    if not isinstance(name, str) or not name.isprintable() or not _PLAIN.fullmatch(name):
        raise LoratoolsError(f"{json.dumps(name)} is no file below the checkpoint's folder", file=path)
    return name
