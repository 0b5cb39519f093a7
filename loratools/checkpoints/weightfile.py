"""One weight file, opened by what its first bytes say it is; its suffix is not believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from loratools.checkpoints.claims import regular_file
from loratools.checkpoints.files import read_bytes
from loratools.checkpoints.safetensors import looks_like_safetensors, read_header
from loratools.checkpoints.spec import TensorSpec
from loratools.checkpoints.unchanged import FileMark
from loratools.errors import LoratoolsError, UnsupportedError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""What weight files are called, best first."""


@dataclass(frozen=True)
class Weights:
    """The tensors of one file, or of all shards of one checkpoint. `container`: `safetensors` or `torch`."""

    container: str
    tensors: Mapping[str, TensorSpec]
    files: tuple[Path, ...]
    metadata: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    marks: tuple[FileMark, ...] = ()
    """The files as they were before they were opened."""


def _open_safetensors(path: Path) -> Weights:
    header = read_header(path)
    return Weights("safetensors", header.tensors, (path,), header.metadata, header.warnings)


def _open_torch(path: Path) -> Weights:
    from loratools.checkpoints.torchzip import read_state_dict

    state = read_state_dict(path)
    return Weights("torch", state.tensors, (path,), {}, state.warnings)


def _refuse(what: str, hint: str) -> Callable[[Path], Weights]:
    def refuse(path: Path) -> Weights:
        raise UnsupportedError(what, file=path, hint=hint)

    return refuse


_MAGIC: tuple[tuple[bytes, Callable[[Path], Weights]], ...] = (
    (b"PK\x03\x04", _open_torch),
    (
        b"GGUF",
        _refuse(
            "a GGUF file can be inspected, but not computed with",
            "name the checkpoint it was made from",
        ),
    ),
    (
        b"\x80",
        _refuse(
            "a pickle of torch before 1.6, which cannot be read without loading it whole",
            "load it with torch and save it again with torch.save or safetensors",
        ),
    ),
    (b"version https://git-lfs", _refuse("a git-lfs pointer, not the weights", "run git lfs pull")),
)


def open_weights(path: Path) -> Weights:
    """Opens a safetensors file or a torch zip from its header.

    Raises:
        LoratoolsError: the file is no regular file, is empty, or is neither, or breaks its format's rules.
    """
    status = regular_file(path)
    if status.st_size == 0:
        raise LoratoolsError("an empty file", file=path, hint="copy or download it again")
    try:
        start = read_bytes(path, 32)
    except OSError as error:
        raise LoratoolsError(f"cannot read: {error.strerror}", file=path) from error
    return replace(_opener(start, path)(path), marks=(FileMark.of(path, status),))


def _opener(start: bytes, path: Path) -> Callable[[Path], Weights]:
    if looks_like_safetensors(start):  # before the magics: a header's length may begin with a pickle's byte
        return _open_safetensors
    for magic, opener in _MAGIC:
        if start.startswith(magic):
            return opener
    if path.suffix == ".safetensors":
        return _open_safetensors
    raise LoratoolsError(
        "neither a safetensors file nor a torch zip", file=path, hint="name a weight file, or its folder"
    )
