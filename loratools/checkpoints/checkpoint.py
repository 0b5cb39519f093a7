"""`Checkpoint`: a read-only mapping of tensor names to specs, with positioned reads of their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import is_folder
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import RawTensor, TensorSpec
from loratools.checkpoints.unchanged import FileMark, require_unchanged


class Kind(str, Enum):
    """What a reference is; told from headers and keys, never from its place on the command line."""

    CHECKPOINT = "checkpoint"
    ADAPTER = "adapter"


@dataclass(frozen=True)
class Checkpoint(Mapping[str, TensorSpec]):
    """An opened reference: headers are read, weights are not.

    Iteration is in the order of `sorted(names)`. `root` is the folder (or the file, if the reference is one
    file); `shards` are the weight files in sorted order; `format` is `safetensors` or `torch` for a
    checkpoint, for an adapter its format's name (`peft`, `kohya`, ...: see `formats`); `config` is
    config.json or adapter_config.json, `{}` where there is none.
    """

    reference: str
    root: Path
    kind: Kind
    format: str
    tensors: Mapping[str, TensorSpec]
    shards: tuple[Path, ...]
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    revision: str | None = None
    warnings: tuple[str, ...] = ()
    marks: tuple[FileMark, ...] = field(default=(), repr=False)

    def __getitem__(self, name: str) -> TensorSpec:
        return self.tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.tensors))

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def is_folder(self) -> bool:
        """Whether the reference is a folder, as opposed to one file."""
        with disk_errors(self.root, "open"):
            return is_folder(self.root)

    @property
    def folder(self) -> Path:
        """The folder that holds the weights and their side files."""
        return self.root if self.is_folder else self.root.parent

    @property
    def hub_id(self) -> str | None:
        """`org/name` if the reference is a hub id (whose commit is then in `revision`), else None."""
        return None if self.revision is None else self.reference.partition("@")[0]

    @property
    def name(self) -> str:
        """The hub id, or the last part of the path: what is shown and written instead of a whole path."""
        return self.hub_id or self.root.absolute().name

    @property
    def bytes(self) -> int:
        return sum(spec.bytes for spec in self.tensors.values())

    @property
    def parameters(self) -> int:
        return sum(spec.elements for spec in self.tensors.values())

    def require_unchanged(self) -> None:
        """Raises LoratoolsError where a weight file is not the one any more whose header was read."""
        require_unchanged(self.marks)

    def read(
        self, name: str, rows: slice | None = None, *, into: bytearray | memoryview | None = None
    ) -> RawTensor:
        """Reads a tensor, or the block of rows `rows` (step 1), into `into` or a new buffer.

        Args:
            name: a name in this mapping.
            rows: a slice of the leading axis; None reads all of it (and is all that a scalar allows).
            into: a writable buffer of at least the block's bytes, to be reused from call to call.

        Raises:
            LoratoolsError: the dtype cannot be read, the file ended early or could not be read.
        """
        with TensorReader(self.tensors[name]) as reader:
            first, stop, step = (rows or slice(None)).indices(reader.spec.rows)
            if step != 1:
                raise ValueError(f"rows are read in blocks, not by steps of {step}")
            return reader.read(first, max(0, stop - first), into=into)
