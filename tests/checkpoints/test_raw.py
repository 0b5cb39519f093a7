"""Blocks of rows, row-major whatever the storage is, into buffers that are used again."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from loratools.checkpoints import raw, system
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.reference import open_checkpoint
from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.errors import LoratoolsError

READABLE = [getattr(torch, name) for name in ITEM_BYTES]


def values(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(0, 100, shape, generator=generator)
    return (numbers % 2 == 0) if dtype is torch.bool else numbers.to(dtype)


@pytest.mark.parametrize("container", ["safetensors", "torch"])
@pytest.mark.parametrize("dtype", READABLE, ids=str)
def test_every_dtype_is_read_as_it_was_written(dtype: torch.dtype, container: str, tmp_path: Path) -> None:
    tensors = {"matrix": values(dtype, 7, 3), "scalar": values(dtype)}
    path = tmp_path / "weights"
    (save_file if container == "safetensors" else torch.save)(tensors, path)
    opened = open_checkpoint(path)
    for name, tensor in tensors.items():
        read = opened.read(name)
        assert read.torch().dtype == dtype
        assert torch.equal(read.torch(), tensor)
        np.testing.assert_array_equal(read.float32(), tensor.float().numpy())
    assert torch.equal(opened.read("matrix", slice(2, 5)).torch(), tensors["matrix"][2:5])


def test_one_buffer_serves_all_blocks(tmp_path: Path) -> None:
    tensor = torch.arange(20.0).reshape(10, 2)
    save_file({"first": torch.zeros(3), "x": tensor}, tmp_path / "x.safetensors")
    buffer = bytearray(4 * 2 * 4)
    with TensorReader(open_checkpoint(tmp_path / "x.safetensors")["x"]) as reader:
        for first in range(0, 10, 4):
            count = min(4, 10 - first)
            block = reader.read(first, count, into=buffer)
            assert block.buffer.obj is buffer
            assert torch.equal(block.torch(), tensor[first : first + count])


def test_empty_blocks_and_empty_tensors(tmp_path: Path) -> None:
    save_file(
        {"x": torch.ones(4, 2), "none": torch.ones(0, 3), "thin": torch.ones(3, 0)},
        tmp_path / "a.safetensors",
    )
    opened = open_checkpoint(tmp_path / "a.safetensors")
    assert opened.read("x", slice(4, 9)).torch().shape == (0, 2)
    assert opened.read("none").torch().shape == (0, 3)
    assert opened.read("thin", slice(1, 3)).torch().shape == (2, 0)


def test_rows_outside_and_small_buffers_are_programming_errors(tmp_path: Path) -> None:
    save_file({"x": torch.ones(4, 2)}, tmp_path / "a.safetensors")
    with TensorReader(open_checkpoint(tmp_path / "a.safetensors")["x"]) as reader:
        for first, count in ((-1, 2), (3, 2), (0, -1)):
            with pytest.raises(ValueError, match="rows"):
                reader.read(first, count)
        with pytest.raises(ValueError, match="cannot hold"):
            reader.read(0, 4, into=bytearray(31))
    with pytest.raises(ValueError, match="steps of 2"):
        open_checkpoint(tmp_path / "a.safetensors").read("x", slice(0, 4, 2))


def test_without_preadv_the_same_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(6, 5)
    save_file({"x": tensor}, tmp_path / "a.safetensors")
    opened = open_checkpoint(tmp_path / "a.safetensors")
    monkeypatch.setattr(system, "_POSITIONED", False)
    assert torch.equal(opened.read("x", slice(1, 4)).torch(), tensor[1:4])


def test_a_file_that_shrinks_is_an_error_with_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(4000)}, path)
    opened = open_checkpoint(path)
    with TensorReader(opened["x"]) as reader:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(LoratoolsError, match=r"ends before the tensor does .*a\.safetensors, x"):
            reader.read(0, 4000)
    path.unlink()
    with pytest.raises(LoratoolsError, match="cannot open: No such file"):
        opened.read("x")


def test_a_dtype_without_arithmetic_is_listed_but_not_read(tmp_path: Path) -> None:
    save_file({"x": torch.ones(4, 4).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    opened = open_checkpoint(tmp_path / "a.safetensors")
    assert (opened["x"].dtype, opened["x"].bytes) == ("F8_E4M3", 16)
    with pytest.raises(LoratoolsError, match="F8_E4M3 values cannot be read"):
        opened.read("x")


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """A view that torch can make of a 3D tensor: permuted, sliced with steps, an axis dropped or repeated."""
    shape = draw(st.lists(st.integers(1, 5), min_size=3, max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int8]))
    view = torch.arange(shape[0] * shape[1] * shape[2]).reshape(shape).to(dtype)
    view = view.permute(draw(st.permutations(range(3))))
    for axis in range(3):
        start = draw(st.integers(0, view.shape[axis] - 1))
        view = view.narrow(axis, start, view.shape[axis] - start)
        if draw(st.booleans()):
            view = view[(slice(None),) * axis + (slice(None, None, 2),)]
    if draw(st.booleans()):
        view = view.select(draw(st.integers(0, 2)), 0)
    return view


@given(view=views(), data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_view_comes_back_row_major(view: torch.Tensor, data: st.DataObject, tmp_path: Path) -> None:
    """torch.save keeps a view's whole storage; blocks of rows of it must equal torch's own."""
    torch.save({"x": view}, tmp_path / "x.bin")
    opened = open_checkpoint(tmp_path / "x.bin")
    assert (opened["x"].strides is None) == view.is_contiguous()
    first = data.draw(st.integers(0, view.shape[0]))
    stop = data.draw(st.integers(first, view.shape[0]))
    with TensorReader(opened["x"]) as reader:
        assert torch.equal(reader.read(first, stop - first).torch(), view[first:stop])
        assert torch.equal(reader.read(0, view.shape[0]).torch(), view)


def test_repeated_elements_are_read_where_the_record_has_as_many(tmp_path: Path) -> None:
    torch.save({"x": torch.arange(6.0)[1:2].expand(3, 2)}, tmp_path / "x.bin")
    assert open_checkpoint(tmp_path / "x.bin").read("x", slice(1, 3)).numpy().tolist() == [[1, 1], [1, 1]]


def test_a_transposed_tensor_is_read_from_the_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = torch.randn(64, 32).t()
    torch.save({"x": tensor}, tmp_path / "x.bin")
    spec = open_checkpoint(tmp_path / "x.bin")["x"]
    read: list[int] = []
    original = TensorReader._fill

    def counting(self: TensorReader, buffer: memoryview, offset: int) -> None:
        read.append(len(buffer))
        original(self, buffer, offset)

    with TensorReader(spec) as reader:
        monkeypatch.setattr(TensorReader, "_fill", counting)
        for first in range(0, 32, 8):
            assert torch.equal(reader.read(first, 8).torch(), tensor[first : first + 8])
    assert read == [tensor.numel() * 4]


def test_the_checksum_is_checked_once_and_again_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.bin"
    torch.save({"x": torch.ones(1000), "y": torch.ones(3)}, path)
    opened = open_checkpoint(path)
    checked: list[int] = []
    crc32 = raw.zlib.crc32
    monkeypatch.setattr(
        raw.zlib, "crc32", lambda data, start: checked.append(len(data)) or crc32(data, start)
    )
    for _ in range(3):
        opened.read("x", slice(0, 10))
    assert checked == [4000]
    content = bytearray(path.read_bytes())
    content[opened["x"].offset + 3999] ^= 1
    path.write_bytes(content)
    with pytest.raises(LoratoolsError, match=r"checksum.*x\.bin, x"):
        opened.read("x", slice(0, 10))
    assert opened.read("y").torch().tolist() == [1, 1, 1]


def test_a_spec_is_small_and_travels(tmp_path: Path) -> None:
    import pickle

    torch.save({"x": torch.ones(3, 2).t()}, tmp_path / "x.bin")
    spec = open_checkpoint(tmp_path / "x.bin")["x"]
    travelled = pickle.loads(pickle.dumps(spec))
    assert isinstance(travelled, TensorSpec) and travelled == spec
