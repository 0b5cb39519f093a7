"""Hashes of tensors that do not depend on the order in which their blocks come.

A tensor's root is the BLAKE3 hash of the concatenated BLAKE3 digests of its fixed 8 MiB blocks (an empty
tensor has one block, of no bytes); a checkpoint's fingerprint is the BLAKE3 hash of its tensors' names,
dtypes, shapes and roots. `blake3` frees the interpreter's lock and hashes on the thread that asks.
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

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


class BlockRoots:
    """Collects a tensor's blocks in any order, from any thread; `root()` is the same as a `TensorHasher`'s.

    Args:
        size: the tensor's bytes; it has `count` blocks, all of `BLOCK_BYTES` but the last.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = max(1, -(-size // BLOCK_BYTES))
        self._digests: list[bytes | None] = [None] * self.count

    def block(self, index: int, data: bytes | bytearray | memoryview) -> None:
        """Takes block `index`, whole. Raises ValueError where its length is not that block's."""
        length = min(BLOCK_BYTES, self.size - index * BLOCK_BYTES)
        view = memoryview(data)
        if not 0 <= index < self.count or view.nbytes != length:
            raise ValueError(f"{view.nbytes} bytes are not block {index} of {self.size} bytes")
        self._digests[index] = blake3(view.cast("B") if length else b"").digest()

    def root(self) -> str:
        """The root, as 64 hexadecimal digits. Raises ValueError while a block is missing."""
        digests = [digest for digest in self._digests if digest is not None]
        if self.size and len(digests) < self.count:
            raise ValueError(f"{self.count - len(digests)} of {self.count} blocks are missing")
        return blake3(b"".join(digests) if self.size else blake3().digest()).hexdigest()


def root_of(data: bytes | bytearray | memoryview) -> str:
    """The root of a tensor that is in memory."""
    hasher = TensorHasher()
    hasher.update(data)
    return hasher.root()


def fingerprint(tensors: Iterable[tuple[str, str, tuple[int, ...], str]]) -> str:
    """The hash of a checkpoint's contents: over (name, dtype, shape, root) in the order of names.

    It knows nothing of shards, file names or header order.
    """
    digest = blake3()
    for name, dtype, shape, root in sorted(tensors):
        digest.update(f"{name}\0{dtype}\0{','.join(map(str, shape))}\0{root}\n".encode())
    return digest.hexdigest()
