"""Safetensors files written at known offsets, as the safetensors package itself reads and writes them."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save

from loratools.checkpoints import parts, system
from loratools.checkpoints.parts import (
    PartWriter,
    SafetensorsLayout,
    stored_bytes,
    write_at,
    write_safetensors,
)
from loratools.checkpoints.safetensors import BITS, DTYPES, read_header
from loratools.errors import LoratoolsError

OURS = sorted(DTYPES.values())


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def written(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    content = {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), as_bytes(tensor))
        for name, tensor in tensors.items()
    }
    write_safetensors(path, content, metadata)
    return path.read_bytes()


def random_tensor(dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator).to(getattr(torch, dtype))


MIXED = {
    "z": torch.ones(3, dtype=torch.bfloat16),
    "b.weight": torch.arange(6, dtype=torch.float16).reshape(2, 3),
    "a": torch.tensor(1.5),
    'é "quoted"\n/': torch.tensor([True, False, True]),
    "empty": torch.empty(0, 4),
    "i": torch.arange(3),
    "d": torch.tensor([1.0], dtype=torch.float64),
    "u": torch.tensor([7], dtype=torch.uint8),
}


def test_every_byte_is_the_package_s_own(tmp_path: Path) -> None:
    assert written(tmp_path / "x", MIXED) == save(MIXED, {"format": "pt"})


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(OURS), st.lists(st.integers(0, 4), max_size=3)),
        max_size=8,
    )
)
@settings(deadline=None, max_examples=60)
def test_every_byte_is_the_package_s_own_for_any_tensors(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, tuple[str, list[int]]]
) -> None:
    tensors = {
        name: random_tensor(dtype, tuple(shape), place)
        for place, (name, (dtype, shape)) in enumerate(drawn.items())
    }
    path = tmp_path_factory.mktemp("parts") / "x"
    assert written(path, tensors) == save(tensors, {"format": "pt"})


def test_the_package_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    written(path, MIXED, {"note": "ünïcode", "a": "b"})
    loaded = load_file(path)
    assert loaded.keys() == MIXED.keys()
    for name, tensor in MIXED.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"note": "ünïcode", "a": "b", "format": "pt"}


def test_every_tensor_is_aligned_and_our_own_reader_agrees(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    printable = {name: tensor for name, tensor in MIXED.items() if name.isprintable()}
    written(path, printable)
    specs = read_header(path).tensors
    assert specs.keys() == printable.keys()
    for name, spec in specs.items():
        assert spec.offset % MIXED[name].element_size() == 0
        assert spec.shape == tuple(MIXED[name].shape) and spec.dtype == str(MIXED[name].dtype)[6:]


def test_the_order_of_entries_and_metadata_does_not_matter() -> None:
    entries = [("b", "float32", (2,)), ("a", "float32", (3,)), ("c", "bfloat16", (1,))]
    layout = SafetensorsLayout.of(entries, {"x": "1", "y": "2"})
    assert SafetensorsLayout.of(reversed(entries), {"y": "2", "x": "1"}) == layout
    assert list(layout.places) == ["a", "b", "c"]


def test_golden_header() -> None:
    layout = SafetensorsLayout.of([("w", "bfloat16", (2, 3)), ("b", "float32", ())], {"k": "v"})
    text = (
        '{"__metadata__":{"format":"pt","k":"v"},"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        '"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]}}'
    )
    padded = text + " " * (-len(text) % 8)
    assert layout.header == len(padded).to_bytes(8, "little") + padded.encode()
    assert layout.offset("b") == len(layout.header) and layout.offset("w") == len(layout.header) + 4
    assert layout.size == len(layout.header) + 16


def test_the_format_is_always_said_to_be_pt() -> None:
    header = SafetensorsLayout.of([], {"format": "np"}).header[8:]
    assert json.loads(header) == {"__metadata__": {"format": "pt"}}


@pytest.mark.parametrize("word", sorted(BITS))
def test_words_of_the_format_pass_through(tmp_path: Path, word: str) -> None:
    size = BITS[word]
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"q": (word, (8,), bytes(size)), "w": ("float32", (1,), bytes(4))})
    with safe_open(path, "np") as file:
        assert sorted(file.keys()) == ["q", "w"]
        assert file.get_slice("q").get_dtype() == word
    assert read_header(path).tensors["q"].bytes == size


def test_the_table_of_words_has_an_order_for_each() -> None:
    assert sorted(parts._ORDER) == sorted(BITS)


@pytest.mark.parametrize("dtype", ["complex128", "Q4_K", "F6", ""])
def test_a_dtype_without_a_word_is_refused_by_name(dtype: str) -> None:
    with pytest.raises(LoratoolsError, match="has no dtype") as caught:
        SafetensorsLayout.of([("w", dtype, (2,))])
    assert caught.value.tensor == "w"


def test_half_bytes_are_refused() -> None:
    with pytest.raises(LoratoolsError, match="whole bytes"):
        SafetensorsLayout.of([("w", "F4", (3,))])
    assert stored_bytes("F4", (4,)) == 2


def test_a_name_twice_and_the_format_s_own_name_are_bugs() -> None:
    for names in (("w", "w"), ("__metadata__",)):
        with pytest.raises(ValueError, match="twice"):
            SafetensorsLayout.of([(name, "float32", (1,)) for name in names])


def test_half_a_character_is_one_line() -> None:
    with pytest.raises(LoratoolsError, match="UTF-8"):
        SafetensorsLayout.of([], {"note": "\ud800"})


def test_a_header_over_the_format_s_cap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "HEADER_BYTES", 1000)
    SafetensorsLayout.of([("w", "float32", (1,))], {"note": "x" * 800})
    with pytest.raises(LoratoolsError, match="a header of 1,"):
        SafetensorsLayout.of([("w", "float32", (1,))], {"note": "x" * 1000})


@pytest.fixture(params=["pwrite", "seek and write"])
def writing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of writing at a place: the second is what a system without `pwrite` has."""
    if request.param == "seek and write":
        monkeypatch.setattr(system, "_POSITIONED", False)


@pytest.mark.usefixtures("writing")
def test_pieces_may_be_written_in_any_order_by_several_threads(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    values = np.random.default_rng(0).standard_normal((64, 33)).astype(np.float32)
    layout = SafetensorsLayout.of([("w", "float32", values.shape), ("b", "float16", (1,))])
    layout.create(path)
    assert path.stat().st_size == layout.size

    def write(rows: range) -> None:
        for row in rows:
            writer.write(layout.offset("w") + row * values.strides[0], values[row].data)

    with PartWriter(path) as writer:
        threads = [threading.Thread(target=write, args=(range(start, 64, 4),)) for start in (3, 1, 2, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    loaded = load_file(path)
    np.testing.assert_array_equal(loaded["w"].numpy(), values)
    assert loaded["b"].item() == 0


@pytest.mark.usefixtures("writing")
def test_a_short_write_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = system.calls.write_at
    monkeypatch.setattr(
        system.calls, "write_at", lambda handle, data, offset: whole(handle, data[:7], offset)
    )
    assert written(tmp_path / "x", MIXED) == save(MIXED, {"format": "pt"})


def test_arrays_of_any_shape_are_bytes(tmp_path: Path) -> None:
    layout = SafetensorsLayout.of([("w", "float32", (2, 3))])
    layout.create(tmp_path / "x")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_at(tmp_path / "x", layout.offset("w"), values.data)
    write_at(tmp_path / "x", layout.size, np.empty((0, 3), np.float32).data)
    np.testing.assert_array_equal(load_file(tmp_path / "x")["w"].numpy(), values)


@pytest.mark.parametrize("offset", [-1, 8 + 2**20, 20])
def test_a_write_beyond_the_end_is_a_bug_and_changes_nothing(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * 24)
    with PartWriter(path) as writer, pytest.raises(ValueError, match="do not fit"):
        writer.write(offset, b"12345")
    assert path.read_bytes() == b"a" * 24


def test_wrong_sizes_are_bugs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are no float32"):
        write_safetensors(tmp_path / "x", {"w": ("float32", (2,), bytes(7))})
    assert not (tmp_path / "x").exists()


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("here")
    with pytest.raises(LoratoolsError, match="cannot create: File exists"):
        SafetensorsLayout.of([]).create(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "here"


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "check the disk"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permissions"),
    ],
)
def test_an_error_of_the_disk_is_one_line_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, hint: str
) -> None:
    def failing(handle: int, data: memoryview, offset: int) -> int:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "x"
    path.write_bytes(bytes(8))
    monkeypatch.setattr(system.calls, "write_at", failing)
    with PartWriter(path) as writer, pytest.raises(LoratoolsError) as caught:
        writer.write(0, b"1")
    line = str(caught.value)
    assert line.startswith(f"cannot write: {os.strerror(code)} ({path}); ") and hint in line


def test_a_file_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LoratoolsError, match="cannot open: No such file"):
        PartWriter(tmp_path / "x")


def test_what_the_disk_does_not_take_early_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def failing(handle: int, offset: int, size: int) -> None:
        asked.append((offset, size))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "x"
    path.write_bytes(bytes(8))
    monkeypatch.setattr(system.calls, "write_back", failing)
    with PartWriter(path) as writer:
        writer.write(2, b"123")
        writer.begin_flush(2, 3)
    assert asked == [(2, 3)]
    assert path.read_bytes() == bytes(2) + b"123" + bytes(3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's own call")
def test_the_disk_is_told_early_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(2**20))
    handle = os.open(path, os.O_RDWR)
    try:
        system.calls.write_back(handle, 0, 2**20)
        with pytest.raises(OSError, match="Invalid"):
            system.calls.write_back(handle, -1, 1)
    finally:
        os.close(handle)
