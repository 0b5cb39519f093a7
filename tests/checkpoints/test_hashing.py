"""Roots and fingerprints, against the blake3 package by hand and against values written down once."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.roots import root_of
from loratools.checkpoints import hashing
from loratools.checkpoints.hashing import BLOCK_BYTES, TensorHasher, fingerprint

GOLDEN = {
    "": "82878ed8a480ee41775636820e05a934ca5c747223ca64306658ee5982e6c227",
    "loratools": "e46f3de34da1ecf0223edcad77b39fd4b552e17d42e4819ea6c0b2c8fd78f2ca",
    "a block and a byte of zeros": "4dd5640ad34661421e51cd31bc19657d9a91770d57616f68168ec2761974b70c",
    "fingerprint": "ddf695940b9451c25e8ce613d4c740cef161775f5c882e2ebb8e9f7bc82d0cef",
}
"""Computed once from the definition, with the blake3 package and nothing of ours."""


def by_hand(data: bytes, block: int = BLOCK_BYTES) -> str:
    """The definition, word by word."""
    pieces = [data[start : start + block] for start in range(0, len(data), block)] or [b""]
    return blake3(b"".join(blake3(piece).digest() for piece in pieces)).hexdigest()


def patterned(size: int) -> bytes:
    """Bytes of which no block equals another."""
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()


SIZES = [0, 1, 2047, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 5]


def test_golden_values() -> None:
    assert blake3(b"").hexdigest().startswith("af1349b9f5f9a1a6a0404dea36dcc949")  # BLAKE3's own test vector
    assert root_of(b"") == by_hand(b"") == GOLDEN[""]
    assert root_of(b"loratools") == by_hand(b"loratools") == GOLDEN["loratools"]
    assert root_of(bytes(BLOCK_BYTES + 1)) == GOLDEN["a block and a byte of zeros"]
    assert fingerprint([("w", "float32", (2, 3), root_of(b""))]) == GOLDEN["fingerprint"]


@pytest.mark.parametrize("size", SIZES)
def test_a_root_is_the_hash_of_its_blocks_digests(size: int) -> None:
    data = patterned(size)
    assert root_of(data) == by_hand(data)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1_000_003, BLOCK_BYTES, 3 * BLOCK_BYTES])
def test_pieces_of_any_size_make_the_same_root(size: int, piece: int) -> None:
    data = patterned(size)
    hasher = TensorHasher()
    for start in range(0, size, piece):
        hasher.update(memoryview(data)[start : start + piece])
    assert hasher.root() == by_hand(data)


@given(st.binary(max_size=200), st.lists(st.integers(0, 60), max_size=20))
@settings(deadline=None)
def test_where_the_pieces_end_does_not_matter(data: bytes, cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "BLOCK_BYTES", 16)
        hasher = TensorHasher()
        at = 0
        for cut in cuts:
            hasher.update(data[at : at + cut])
            at += cut
        hasher.update(data[at:])
        assert hasher.root() == by_hand(data, 16)


def test_arrays_are_hashed_as_their_bytes() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    hasher = TensorHasher()
    hasher.update(values.data)
    hasher.update(np.empty((0, 4), np.float32).data)
    assert hasher.root() == root_of(values.tobytes())


ROWS = [("b", "float32", (2, 3), "0" * 64), ("a", "bfloat16", (), "1" * 64)]


def test_a_fingerprint_is_the_hash_of_sorted_lines() -> None:
    lines = f"a\0bfloat16\0\0{'1' * 64}\n" + "b\0float32\0" + "2,3\0" + "0" * 64 + "\n"
    assert fingerprint(ROWS) == fingerprint(reversed(ROWS)) == blake3(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        ("c", "float32", (2, 3), "0" * 64),
        ("b", "float64", (2, 3), "0" * 64),
        ("b", "float32", (3, 2), "0" * 64),
        ("b", "float32", (23,), "0" * 64),
        ("b", "float32", (2, 3), "2" * 64),
    ],
    ids=["name", "dtype", "shape", "axes", "root"],
)
def test_a_fingerprint_sees_every_part(other: tuple[str, str, tuple[int, ...], str]) -> None:
    assert fingerprint([other, ROWS[1]]) != fingerprint(ROWS)
