"""The plan of writing a checkpoint again, tensor by tensor: every file, every place in it, every job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.files import is_folder
from loratools.checkpoints.provenance import Provenance
from loratools.checkpoints.spec import TensorSpec
from loratools.engine.coverage import Coverage
from loratools.engine.device import Kind
from loratools.engine.plan import Plan, Written
from loratools.errors import UsageError
from loratools.operations.made_on import made_on
from loratools.operations.merge_inputs import MergeInputs
from loratools.operations.rates import finishing, overhead
from loratools.operations.resuming import ResumableJob
from loratools.operations.rewrite_layout import Outgoing, Shard, header_metadata, laid_out, readable
from loratools.operations.rewrite_record import header_room, padded_header
from loratools.operations.sidefiles import SideFiles, side_files
from loratools.operations.streaming import CopyJob, TensorFigures
from loratools.operations.written_bytes import most_in_texts, undo_bytes
from loratools.reports.report import Totals

_FOREIGN_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx"})

Asked = TypeVar("Asked", covariant=True)


class TensorJob(ResumableJob[TensorFigures], Protocol):
    """A job that writes one tensor of the output."""

    @property
    def target(self) -> TensorSpec: ...

    @property
    def memory(self) -> int:
        """Bytes that it holds at most."""
        ...

    @property
    def cost(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class RewritePlan(Plan[TensorJob], Generic[Asked]):
    """A plan with all that is to be written.

    `asked` are the verb's own options, `options` those of them that change the result, as the provenance has
    them; `role` is what the checkpoint is to the verb. `config` is None where the input's is copied as it is,
    or there is none; `header_room` is what one file's header keeps free for the provenance. `kept` are other
    files that are written as they are given, instead of an index and a config of the plan's own; where the
    provenance is among them, none is written.
    """

    inputs: MergeInputs
    role: str
    asked: Asked
    force: bool
    one_file: bool
    header_room: int
    shards: tuple[Shard, ...]
    metadata: Mapping[str, str]
    options: Mapping[str, object]
    side: SideFiles
    config: Mapping[str, object] | None = field(repr=False)
    kept: Mapping[str, bytes] | None = field(default=None, repr=False)

    @property
    def checkpoint(self) -> Checkpoint:
        return self.inputs.checkpoint

    @property
    def tensors(self) -> list[Outgoing]:
        return [tensor for shard in self.shards for tensor in shard.tensors]

    @property
    def totals(self) -> Totals:
        """Parameters and bytes of the output's tensors beside the input's."""
        return Totals.of(
            sum(tensor.elements for tensor in self.tensors),
            sum(tensor.bytes for tensor in self.tensors),
            self.checkpoint.parameters,
            self.checkpoint.bytes,
        )


@dataclass(frozen=True, kw_only=True)
class Draft(Generic[Asked]):
    """What a verb has settled when only files, places and jobs are missing.

    `shards` are tensors by file name; `change` makes the job of a tensor that is not copied; `role` and
    `options` are what the provenance says of the checkpoint and of the run, and `record` makes it in its
    widest form, where a header has to leave room for it.
    """

    command: str
    output: Path | None
    inputs: MergeInputs
    asked: Asked
    force: bool
    one_file: bool
    shards: Mapping[str, Sequence[Outgoing]]
    change: Callable[[Outgoing, TensorSpec], TensorJob]
    role: str
    options: Mapping[str, object]
    record: Callable[[], Provenance]
    side: SideFiles
    coverage: Coverage
    config: Mapping[str, object] | None = None
    likeness: str = ""
    keeps_undo: bool = False
    may_shrink: bool = False
    """Values that were not read may leave out a tensor that is laid out here."""
    warnings: tuple[str, ...] = ()

    def planned(self) -> RewritePlan[Asked]:
        """The plan."""
        metadata = header_metadata(self.inputs.checkpoint)
        room, reserved = self._reserved()
        shards = laid_out(self.shards, {**metadata, **reserved})
        jobs = tuple(self._job(tensor, shard.place(tensor)) for shard in shards for tensor in shard.tensors)
        read = sum(job.bytes for job in jobs) + sum(one.opened.bytes for one in self.inputs.adapters)
        weights = sum(shard.layout.size for shard in shards)
        write = weights + self._beside(shards)
        return RewritePlan(
            command=self.command,
            output=self.output,
            jobs=jobs,
            coverage=self.coverage,
            read_bytes=read,
            write_bytes=write,
            weight_bytes=weights,
            written=self._told,
            weights_written=Written.AT_MOST if self.may_shrink else Written.EXACTLY,
            kept_bytes=sum(one.opened.bytes for one in self.inputs.adapters) if self.keeps_undo else 0,
            overhead_bytes=overhead(self.command),
            finishing_seconds=finishing(self.command, write),
            likeness=self.likeness,
            warnings=(*self.warnings, *self.side.notes()),
            inputs=self.inputs,
            role=self.role,
            asked=self.asked,
            force=self.force,
            one_file=self.one_file,
            header_room=room,
            shards=shards,
            metadata=metadata,
            options=self.options,
            side=self.side,
            config=self.config,
        )

    def _reserved(self) -> tuple[int, dict[str, str]]:
        """The room in one file's header, and the metadata that keeps it free."""
        if not self.one_file:
            return 0, {}
        record = self.record()
        room = header_room(made_on(record, Kind.CUDA))  # perhaps it will be
        return room, padded_header(record, room)

    @property
    def _told(self) -> Written:
        if self.keeps_undo:
            return Written.ABOUT
        return Written.EXACTLY if self.one_file and not self.may_shrink else Written.AT_MOST

    def _beside(self, shards: Sequence[Shard]) -> int:
        """Bytes of all but the weights."""
        if self.one_file:
            return self.side.bytes
        adapters = [one.opened for one in self.inputs.adapters]
        inputs = [self.inputs.checkpoint, *adapters]
        record = undo_bytes(adapters, shards) if self.keeps_undo else 0
        return self.side.bytes + most_in_texts(inputs, shards, self.config, self.side.copied) + record

    def _job(self, tensor: Outgoing, place: TensorSpec) -> TensorJob:
        if tensor.touched or tensor.source is None:
            return self.change(tensor, place)
        return CopyJob(readable(tensor.source), readable(place))


def wants_one_file(checkpoint: Checkpoint, output: Path | None) -> bool:
    """Whether the output's name asks for one weight file.

    Raises:
        UsageError: it does, but the checkpoint has several, or the suffix is that of another format.
    """
    if output is None:
        return False
    if output.suffix in _FOREIGN_SUFFIXES:
        raise UsageError(
            "weights are written as safetensors",
            file=output,
            hint="name a folder, or a file with .safetensors",
        )
    if output.suffix != ".safetensors" or is_folder(output):
        return False
    if len(checkpoint.shards) > 1:
        raise UsageError(
            f"one file cannot be written of a checkpoint that has {len(checkpoint.shards)}",
            file=output,
            hint="name a folder",
        )
    return True


def files_beside(checkpoint: Checkpoint, output: Path | None, *, one_file: bool) -> SideFiles:
    """What comes along: nothing to one file, nor from beside a file that lies in no model's folder."""
    if one_file or not (checkpoint.is_folder or checkpoint.config):
        return SideFiles({}, ())
    return side_files(checkpoint.folder, frozenset(checkpoint.shards), skip=output)
