"""Torch files since 1.6: a zip whose `data.pkl` describes tensors over the records `data/0`, `data/1`, ...

The zip's directory is believed only where every member is stored as it is (a deflated one could be a bomb),
lies where both headers say, and overlaps nothing. Each tensor must lie inside its record, and each record's
CRC-32 is checked by the first read of it (see `raw`).
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from loratools.checkpoints.claims import check_name, check_shape
from loratools.checkpoints.files import reading
from loratools.checkpoints.spec import ITEM_BYTES, Storage, TensorSpec
from loratools.checkpoints.torchpickle import unpickle
from loratools.checkpoints.torchrecords import DTYPE_BYTES, PickleError, TensorRef, Unreadable
from loratools.errors import LoratoolsError

PICKLE_BYTES = 32_000_000
"""Cap on data.pkl: more than 100,000 tensors."""

DIRECTORY_BYTES = 16_000_000
"""Cap on a zip's directory: 250,000 tensors. It is read whole, and each entry becomes half a kilobyte."""

MOST_SPREAD = 64
"""A view may lie over so many times its own bytes, and `FREE_SPREAD`: what lies between is read with it."""

FREE_SPREAD = 64_000_000

_WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts keep the state dict beside other things."""

_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class StateDict:
    """The tensors of a torch file, and what was passed over."""

    tensors: dict[str, TensorSpec]
    warnings: tuple[str, ...]


def read_state_dict(path: Path) -> StateDict:
    """Opens the state dict of a torch zip: at the top, or under `state_dict` or `model`. Nothing is unpickled
    into a class, and no weights are read.

    Raises:
        LoratoolsError: the zip or its pickle is broken, lies, or holds something else than a state dict.
    """
    try:
        with reading(path) as file:
            members = _members(file, path)
            root = _root(members, path)
            _require_little_endian(file, members, root, path)
            data = _content(file, members[f"{root}/data.pkl"], PICKLE_BYTES, path)
    except OSError as error:
        raise LoratoolsError(f"cannot read: {error.strerror}", file=path) from error
    try:
        value = unpickle(data)
    except PickleError as error:
        hint = "save its state_dict() alone, with torch.save or as safetensors"
        raise LoratoolsError(f"no plain state dict: {error}", file=path, hint=hint) from error
    entries, warnings = _state_dict(value, path)
    records = {
        name.removeprefix(f"{root}/data/"): member
        for name, member in members.items()
        if name.startswith(f"{root}/data/")
    }
    tensors = {}
    for name, entry in entries.items():
        check_name(name, path)
        if isinstance(entry, Unreadable):
            raise LoratoolsError(f"{entry.what} cannot be read", file=path, tensor=name, hint="save it dense")
        tensors[name] = _spec(name, entry, records, path)
    return StateDict(tensors, tuple(warnings))


def _members(file: BinaryIO, path: Path) -> dict[str, Storage]:
    """Every member by name: where its bytes lie, how many, and their CRC."""
    try:
        with zipfile.ZipFile(_CappedReads(file)) as archive:
            infos = archive.infolist()
            end = archive.start_dir
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        OverflowError,
        EOFError,
        struct.error,
    ) as error:
        raise LoratoolsError("a broken zip", file=path, hint="copy or download it again") from error
    if any(info.filename.endswith("/constants.pkl") for info in infos):
        raise LoratoolsError(
            "a TorchScript program, not a state dict", file=path, hint="save its state_dict() with torch.save"
        )
    members: dict[str, Storage] = {}
    reached = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if not 0 <= info.header_offset < end:
            raise LoratoolsError(f"the member {info.filename} lies outside of the zip", file=path)
        member = _member(file, info, path)
        if info.filename in members:
            raise LoratoolsError(f"two members called {info.filename}", file=path)
        if info.header_offset < reached or member.offset + member.bytes > end:
            raise LoratoolsError(f"the member {info.filename} overlaps another or the directory", file=path)
        reached = member.offset + member.bytes
        members[info.filename] = member
    return members


class _CappedReads:
    """What `zipfile` reads a directory through: it believes how long the directory says it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if size > DIRECTORY_BYTES:
            raise zipfile.BadZipFile
        data = self._file.read(DIRECTORY_BYTES + 1 if size < 0 else size)
        if len(data) > DIRECTORY_BYTES:
            raise zipfile.BadZipFile
        return data


def _member(file: BinaryIO, info: zipfile.ZipInfo, path: Path) -> Storage:
    """Where a member's bytes lie, by its local header, which must agree with the directory."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
        how = "encrypted" if info.flag_bits & _ENCRYPTED else "compressed"
        raise LoratoolsError(f"the member {info.filename} is {how}, as torch never does", file=path)
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        raise LoratoolsError("a broken zip", file=path, hint="copy or download it again")
    magic, _, flags, method, _, _, _, _, _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    name = file.read(name_bytes).decode("utf-8" if flags & 0x800 else "cp437", errors="replace")
    agrees = magic == b"PK\x03\x04" and method == zipfile.ZIP_STORED and name == info.orig_filename
    if not agrees or info.file_size != info.compress_size:
        raise LoratoolsError(f"the zip says two things about its member {info.filename}", file=path)
    start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    return Storage(start, info.file_size, info.CRC)


def _root(members: Mapping[str, Storage], path: Path) -> str:
    """The folder inside the zip that holds everything; the archive's name when it was saved."""
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    roots = [root for root in roots if "/" not in root]
    if len(roots) != 1:
        raise LoratoolsError("a zip that torch.save did not write", file=path)
    return roots[0]


def _require_little_endian(file: BinaryIO, members: Mapping[str, Storage], root: str, path: Path) -> None:
    order = members.get(f"{root}/byteorder")
    if order is not None and _content(file, order, 16, path) != b"little":
        raise LoratoolsError("written on a big-endian machine", file=path, hint="save it again on another")


def _content(file: BinaryIO, member: Storage, cap: int, path: Path) -> bytes:
    if member.bytes > cap:
        raise LoratoolsError(f"{member.bytes:,} bytes of description, above the cap of {cap:,}", file=path)
    file.seek(member.offset)
    data = file.read(member.bytes)
    if zlib.crc32(data) != member.crc32:
        raise LoratoolsError(
            "damaged: its description does not have the checksum it was written with", file=path
        )
    return data


def _state_dict(value: Any, path: Path) -> tuple[dict[str, TensorRef | Unreadable], list[str]]:
    """The mapping of names to tensors in what was pickled, and warnings about everything beside it."""
    warnings = []
    if isinstance(value, dict):
        wrapper = next((key for key in _WRAPPERS if _has_tensors(value.get(key))), None)
        if wrapper is not None:
            beside = [str(key) for key in value if key != wrapper]
            if beside:
                warnings.append(f"{path.name}: beside {wrapper}, {_some(beside)} is not read")
            value = value[wrapper]
    if not _has_tensors(value):
        raise LoratoolsError("it holds no state dict", file=path, hint="save a model's state_dict()")
    passed_over = [str(key) for key, entry in value.items() if not _is_tensor(entry)]
    if passed_over:
        warnings.append(f"{path.name}: no tensors, and not read: {_some(passed_over)}")
    return {key: entry for key, entry in value.items() if _is_tensor(entry)}, warnings


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (TensorRef, Unreadable))


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(_is_tensor(entry) for entry in value.values())


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def _spec(name: str, tensor: TensorRef, records: Mapping[str, Storage], path: Path) -> TensorSpec:
    """The place of a tensor in the file, which must lie inside its record."""
    record = records.get(tensor.storage.key)
    if record is None:
        raise LoratoolsError(f"its record data/{tensor.storage.key} is missing", file=path, tensor=name)
    stored = tensor.storage.elements * DTYPE_BYTES[tensor.storage.dtype]
    if stored != record.bytes:
        raise LoratoolsError(
            f"its record has {record.bytes:,} bytes where {stored:,} are promised", file=path, tensor=name
        )
    item = DTYPE_BYTES[tensor.dtype]
    shape = check_shape(tensor.shape, 8 * item, file=path, tensor=name)
    elements = math.prod(shape)
    last = sum((size - 1) * stride for size, stride in zip(shape, tensor.strides, strict=True))
    if elements and (tensor.offset + last + 1) * item > record.bytes:
        raise LoratoolsError("it reaches beyond its record", file=path, tensor=name)
    if elements * item > record.bytes:
        raise LoratoolsError(
            f"{elements:,} elements repeated from a record of {record.bytes:,} bytes", file=path, tensor=name,
            hint="save it after .contiguous()",
        )  # fmt: skip
    if elements and (last + 1 - MOST_SPREAD * elements) * item > FREE_SPREAD:
        raise LoratoolsError(
            f"{elements:,} elements spread over {(last + 1) * item:,} bytes", file=path, tensor=name,
            hint="save it after .contiguous()",
        )  # fmt: skip
    return TensorSpec(
        name,
        tensor.dtype,
        shape,
        elements * item,
        path,
        record.offset + tensor.offset * item,
        None if not elements or _row_major(shape, tensor.strides) else tensor.strides,
        record if tensor.dtype in ITEM_BYTES else None,
    )


def _row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the strides are those of a row-major tensor; those of axes of length 1 do not matter."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
