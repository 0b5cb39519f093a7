"""Streams of one tensor: what is read, written and hashed, block by block."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fixtures.roots import root_of
from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.parts import SafetensorsLayout
from loratools.checkpoints.reference import open_checkpoint
from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.operations.streaming import CopyJob, Rows, Source, Target, blocks


def spec_of(shape: tuple[int, ...], dtype: str = "float32") -> TensorSpec:
    return TensorSpec("t", dtype, shape, ITEM_BYTES[dtype] * math.prod(shape), Path("t.safetensors"), 0)


@given(st.lists(st.integers(0, 3000), max_size=3))
def test_blocks_cover_every_row_once(shape: list[int]) -> None:
    spec = spec_of(tuple(shape))
    rows = [row for first, count in blocks(spec) for row in range(first, first + count)]
    assert rows == (list(range(spec.rows)) if spec.elements else [])


def test_blocks_depend_on_the_shape_alone() -> None:
    assert list(blocks(spec_of((5000, 2048)))) == list(blocks(spec_of((5000, 2048), "bfloat16")))
    assert len(list(blocks(spec_of((5000, 2048))))) > 10


@pytest.fixture
def stored(tmp_path: Path) -> torch.Tensor:
    tensor = torch.randn(700, 1500)
    save_file({"t": tensor}, tmp_path / "in.safetensors")
    return tensor


def place(tmp_path: Path, spec: TensorSpec) -> TensorSpec:
    """A file for the tensor, at its full size, and its place in it."""
    layout = SafetensorsLayout.of([("t", spec.dtype, spec.shape)])
    layout.create(tmp_path / "out.safetensors")
    return TensorSpec("t", spec.dtype, spec.shape, spec.bytes, Path("out.safetensors"), layout.offset("t"))


def test_a_copy_is_the_same_bytes_and_hash(stored: torch.Tensor, tmp_path: Path) -> None:
    source = open_checkpoint(tmp_path / "in.safetensors")["t"]
    figures = CopyJob(source, place(tmp_path, source)).run(tmp_path)
    assert torch.equal(load_file(tmp_path / "out.safetensors")["t"], stored)
    assert figures.root == figures.source_root == root_of(stored.numpy().tobytes())
    assert figures.changed == 0


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (1, 1)], ids=str)
def test_a_copy_of_a_scalar_or_of_nothing(shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = torch.full(shape, 2.5)
    save_file({"t": tensor}, tmp_path / "in.safetensors")
    source = open_checkpoint(tmp_path / "in.safetensors")["t"]
    figures = CopyJob(source, place(tmp_path, source)).run(tmp_path)
    assert torch.equal(load_file(tmp_path / "out.safetensors")["t"], tensor)
    assert figures.root == root_of(tensor.numpy().tobytes())


def test_a_copy_reads_and_hashes_each_byte_once(
    stored: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_checkpoint(tmp_path / "in.safetensors")["t"]
    hashed = []
    update = TensorHasher.update
    monkeypatch.setattr(
        TensorHasher, "update", lambda self, data: (hashed.append(data.nbytes), update(self, data))[1]
    )
    CopyJob(source, place(tmp_path, source)).run(tmp_path)
    assert sum(hashed) == stored.nbytes


def test_a_transposed_tensor_of_a_torch_file_is_copied_row_by_row(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(3, 4).T
    torch.save({"t": tensor}, tmp_path / "pytorch_model.bin")
    source = open_checkpoint(tmp_path / "pytorch_model.bin")["t"]
    assert source.strides is not None
    figures = CopyJob(source, place(tmp_path, source)).run(tmp_path)
    assert torch.equal(load_file(tmp_path / "out.safetensors")["t"], tensor)
    assert figures.root == figures.source_root == root_of(tensor.contiguous().numpy().tobytes())


def test_rows_come_in_order_and_the_rest_is_hashed_all_the_same(stored: torch.Tensor, tmp_path: Path) -> None:
    spec = open_checkpoint(tmp_path / "in.safetensors")["t"]
    with Source(spec) as source:
        source.read(0, 100)
        with pytest.raises(ValueError, match="row 200"):
            source.read(200, 100)
        assert source.root() == root_of(stored.numpy().tobytes())


def test_a_tensor_that_was_not_written_whole_has_no_hash(tmp_path: Path) -> None:
    with Target(place(tmp_path, spec_of((4, 2))), tmp_path) as target:
        target.write(bytes(24))
        with pytest.raises(ValueError, match="24 of 32 bytes"):
            target.root()


def test_rows_that_the_input_lacks_are_zeros(stored: torch.Tensor, tmp_path: Path) -> None:
    spec = open_checkpoint(tmp_path / "in.safetensors")["t"]
    rows_held = stored.numpy()
    nothing = np.zeros((3, 1500))
    with Source(spec) as source:
        rows = Rows(source, spec_of((703, 1500)), "float64")
        _, block = rows.next(0, 698)
        assert np.array_equal(block, rows_held[:698])
        known, block = rows.next(698, 5)
        assert np.array_equal(known, rows_held[698:])
        assert np.array_equal(block, np.concatenate([rows_held[698:], nothing]))
        block += 1
        assert np.array_equal(rows.reader(())(699, 2), np.concatenate([rows_held[699:], nothing[:1]]))
    nowhere = Rows(None, spec_of((4, 2)), "float32")
    known, block = nowhere.next(1, 3)
    assert (known.shape, block.tolist()) == ((0, 2), [[0.0, 0.0]] * 3)
