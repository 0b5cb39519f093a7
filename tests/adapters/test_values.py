"""An adapter's tensor: read once, checked, converted once; and comparisons of stored tensors."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loratools.adapters.values import Values, finite_float64, same_values
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.reference import open_checkpoint
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError


def stored(folder: Path, **tensors: torch.Tensor) -> dict[str, TensorSpec]:
    save_file(tensors, folder / "x.safetensors")
    return dict(open_checkpoint(folder / "x.safetensors").tensors)


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wanted", [torch.float64, torch.float32], ids=str)
def test_values_are_converted_once_and_exactly(
    dtype: torch.dtype, wanted: torch.dtype, tmp_path: Path
) -> None:
    tensor = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    values = Values(stored(tmp_path, a=tensor)["a"])
    assert torch.equal(values.tensor(wanted), tensor.to(wanted))
    assert values.tensor(wanted) is values.tensor(wanted)
    assert values.array() is values.array()
    assert torch.equal(values.rows_like(torch.empty(3, dtype=wanted), 1), tensor[1:4].to(wanted))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_float64_is_exact_and_finite(dtype: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype)
    broken = torch.tensor([1.0, float("inf"), -float("inf")]).to(dtype)
    largest = torch.full(
        (3,), torch.finfo(dtype).max, dtype=dtype
    )  # whose sum is too large for float64 itself
    specs = stored(tmp_path, good=tensor, broken=broken, largest=largest)

    def read(name: str) -> torch.Tensor:
        with TensorReader(specs[name]) as reader:
            return torch.from_numpy(finite_float64(reader.read(0, specs[name].rows)))

    assert torch.equal(read("good"), tensor.double())
    assert torch.equal(read("largest"), largest.double())
    with pytest.raises(LoratoolsError, match="2 of 3 values are NaN or infinite"):
        read("broken")


def test_pickled_values_read_again(tmp_path: Path) -> None:
    values = Values(stored(tmp_path, a=torch.ones(3))["a"])
    values.tensor(torch.float32)
    again = pickle.loads(pickle.dumps(values))
    assert again == values and hash(again) == hash(values)
    (tmp_path / "x.safetensors").unlink()
    assert values.array().sum() == 3
    with pytest.raises(LoratoolsError, match="cannot open"):
        again.array()


def test_threads_share_one_reading(tmp_path: Path) -> None:
    values = Values(stored(tmp_path, a=torch.ones(1000))["a"])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: values.tensor(torch.float64), range(32)))
    assert all(one is found[0] for one in found)


def test_blocks_of_rows_are_checked_too(tmp_path: Path) -> None:
    tensor = torch.ones(4, 2)
    tensor[2, 1] = float("inf")
    values = Values(stored(tmp_path, a=tensor)["a"])
    assert values.rows_like(torch.empty(2, dtype=torch.float32), 0).shape == (2, 2)
    with pytest.raises(LoratoolsError, match="1 of 2 values are NaN or infinite"):
        values.rows_like(torch.empty(1, dtype=torch.float32), 2)


def test_same_values(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(9, 4, generator=generator).bfloat16()
    tensors = {"a": a, "same": a.clone(), "wide": a.float(), "wider": a.double(), "flat": a.flatten().clone()}
    counts = torch.arange(36).view(9, 4)
    near = a.float() * (1 + 2**-20)
    specs = stored(tmp_path, **tensors, near=near, counts=counts, numbers=counts.float())
    assert all(same_values(specs["a"], specs[name]) for name in ("a", "same", "wide", "wider"))
    assert not any(same_values(specs["a"], specs[name]) for name in ("near", "flat", "counts"))
    assert not same_values(specs["counts"], specs["numbers"])
