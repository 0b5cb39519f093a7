"""Hashes of tensors that depend on their bytes alone, not on how these were cut into pieces or files.

A tensor's root is the BLAKE3 hash of the concatenated BLAKE3 digests of its fixed 8 MiB blocks (an empty
tensor has one block, of no bytes); a checkpoint's fingerprint is the BLAKE3 hash of its tensors' names,
dtypes, shapes and roots. `blake3` frees the interpreter's lock and hashes on the thread that asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from loratools.checkpoints.claims import regular_file
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import pieces

BLOCK_BYTES = 8 * 2**20
"""Size of the blocks under a root; fixed, since it is part of what a root means."""


class TensorHasher:
    """Collects a tensor's bytes in order, in pieces of any size; `root()` is its block root, in hex."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._block = blake3()
        self._filled = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        if not view.nbytes:  # also the one kind of view that cannot be cast
            return
        view = view.cast("B")
        while len(view):
            piece = view[: BLOCK_BYTES - self._filled]
            self._block.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == BLOCK_BYTES:
                self._digests += self._block.digest()
                self._block, self._filled = blake3(), 0

    def root(self) -> str:
        """The root of what was given so far, as 64 hexadecimal digits."""
        tail = self._block.digest() if self._filled or not self._digests else b""
        return blake3(bytes(self._digests) + tail).hexdigest()


def root_of(data: bytes | bytearray | memoryview) -> str:
    """The root of some bytes, as if they were a tensor's."""
    hasher = TensorHasher()
    hasher.update(data)
    return hasher.root()


def file_root(path: Path) -> str:
    """The root of all bytes of a file, read in pieces.

    Raises:
        LoratoolsError: it cannot be read, or is no regular file.
    """
    regular_file(path)
    hasher = TensorHasher()
    with disk_errors(path, "read"):
        for piece in pieces(path):
            hasher.update(piece)
    return hasher.root()


def fingerprint(tensors: Iterable[tuple[str, str, tuple[int, ...], str]]) -> str:
    """The hash of a checkpoint's contents: over (name, dtype, shape, root) in the order of names.

    It knows nothing of shards, file names or header order.
    """
    digest = blake3()
    for name, dtype, shape, root in sorted(tensors):
        digest.update(f"{name}\0{dtype}\0{','.join(map(str, shape))}\0{root}\n".encode())
    return digest.hexdigest()
