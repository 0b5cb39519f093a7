"""Untouched bytes from file to file."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from loratools.checkpoints import copying
from loratools.checkpoints.copying import COPY_BYTES, ByteSource, copy_bytes
from loratools.checkpoints.hashing import TensorHasher, root_of
from loratools.checkpoints.parts import PartWriter
from loratools.errors import LoratoolsError


def patterned(size: int) -> bytes:
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()


@pytest.fixture(params=["preadv", "seek and read"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "seek and read":
        monkeypatch.delattr(copying.os, "preadv")


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("size", [0, 1, COPY_BYTES - 1, COPY_BYTES, 3 * COPY_BYTES + 5])
def test_bytes_arrive_at_their_place_and_are_hashed(tmp_path: Path, size: int) -> None:
    data = patterned(size + 100)
    (tmp_path / "source").write_bytes(data)
    (tmp_path / "target").write_bytes(b"-" * (size + 50))
    hasher = TensorHasher()
    with ByteSource(tmp_path / "source") as source, PartWriter(tmp_path / "target") as writer:
        copy_bytes(source, 33, size, writer, 7, hasher)
    assert (tmp_path / "target").read_bytes() == b"-" * 7 + data[33 : 33 + size] + b"-" * 43
    assert hasher.root() == root_of(data[33 : 33 + size])


@pytest.mark.usefixtures("reading")
def test_threads_share_the_files(tmp_path: Path) -> None:
    count, size = 6, COPY_BYTES + 17
    data = patterned(count * size)
    (tmp_path / "source").write_bytes(data)
    (tmp_path / "target").write_bytes(bytes(count * size))
    hashers = [TensorHasher() for _ in range(count)]
    with ByteSource(tmp_path / "source") as source, PartWriter(tmp_path / "target") as writer:
        threads = [
            threading.Thread(
                target=copy_bytes, args=(source, at * size, size, writer, at * size, hashers[at])
            )
            for at in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (tmp_path / "target").read_bytes() == data
    assert [hasher.root() for hasher in hashers] == [
        root_of(data[at * size : (at + 1) * size]) for at in range(count)
    ]


@pytest.mark.usefixtures("reading")
def test_a_source_that_ends_early_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(100))
    (tmp_path / "target").write_bytes(bytes(200))
    with (
        ByteSource(tmp_path / "source") as source,
        PartWriter(tmp_path / "target") as writer,
        pytest.raises(LoratoolsError, match="ends before its header says") as caught,
    ):
        copy_bytes(source, 0, 101, writer, 0)
    assert caught.value.file == str(tmp_path / "source")


def test_a_source_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LoratoolsError, match="cannot open: No such file"):
        ByteSource(tmp_path / "source")
