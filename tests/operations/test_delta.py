"""Two tensors side by side, in blocks: difference, changed rows, hashes, and what is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.reference import open_checkpoint
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError
from loratools.operations import delta
from loratools.operations.delta import compare, difference, hash_tensor


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of a few rows, so that small tensors have several, and a shorter last one."""
    monkeypatch.setattr(delta, "_BLOCK_BYTES", 64)
    yield


def stored(folder: Path, name: str, tensor: torch.Tensor) -> TensorSpec:
    save_file({"w": tensor.contiguous()}, folder / f"{name}.safetensors")
    return open_checkpoint(folder / f"{name}.safetensors")["w"]


def root(tensor: torch.Tensor) -> str:
    hasher = TensorHasher()
    hasher.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return hasher.root()


@pytest.mark.parametrize(
    ("first", "second", "wide"),
    [
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float32, torch.float32, torch.float64),
        (torch.float32, torch.bfloat16, torch.float64),
        (torch.float64, torch.float64, torch.float64),
    ],
)
def test_the_difference_in_twice_the_precision(
    tmp_path: Path, first: torch.dtype, second: torch.dtype, wide: torch.dtype
) -> None:
    base, tuned = torch.randn(11, 7).to(first), torch.randn(11, 7).to(second)
    read = difference(stored(tmp_path, "base", base), stored(tmp_path, "tuned", tuned))
    assert read.delta.dtype == wide
    assert torch.equal(read.delta, tuned.to(wide) - base.to(wide))
    assert read.base_norm == pytest.approx(float(base.double().norm()), rel=1e-6)
    assert (read.base_root, read.tuned_root) == (root(base), root(tuned))
    assert not read.only_rounded


def test_a_tensor_that_is_only_rounded(tmp_path: Path) -> None:
    base = torch.randn(11, 7)
    specs = stored(tmp_path, "base", base), stored(tmp_path, "tuned", base.bfloat16())
    assert difference(*specs).only_rounded
    assert compare(*specs).changed == 0
    assert compare(*reversed(specs)).changed == 11
    other = base.bfloat16()
    other[10, 6] += 1
    specs = specs[0], stored(tmp_path, "other", other)
    assert not difference(*specs).only_rounded
    assert compare(*specs).changed_rows == (10,)


def test_rows_that_differ(tmp_path: Path) -> None:
    base = torch.randn(20, 5)
    tuned = base.clone()
    tuned[[2, 19]] += 1
    read = compare(stored(tmp_path, "base", base), stored(tmp_path, "tuned", tuned))
    assert (read.changed, read.changed_rows) == (2, (2, 19))
    assert (read.base_root, read.tuned_root) == (root(base), root(tuned))
    many = compare(stored(tmp_path, "base", base), stored(tmp_path, "many", base + 1))
    assert (many.changed, many.changed_rows) == (20, None)


@pytest.mark.parametrize("rows", [(20, 23), (23, 20)])
def test_rows_that_one_side_lacks_are_read_but_not_compared(tmp_path: Path, rows: tuple[int, int]) -> None:
    whole = torch.randn(23, 5)
    base, tuned = whole[: rows[0]], whole[: rows[1]].clone()
    tuned[3] += 1
    read = compare(stored(tmp_path, "base", base), stored(tmp_path, "tuned", tuned))
    assert read.changed_rows == (3,)
    assert (read.base_root, read.tuned_root) == (root(base), root(tuned))


def test_scalars_and_integers(tmp_path: Path) -> None:
    one, two = stored(tmp_path, "one", torch.tensor(1.0)), stored(tmp_path, "two", torch.tensor(2.0))
    assert compare(one, two).changed == 1
    assert compare(one, one).changed == 0
    numbers = stored(tmp_path, "numbers", torch.arange(9))
    assert compare(numbers, numbers).changed == 0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_counted(tmp_path: Path, wrong: float) -> None:
    good, bad = torch.randn(11, 7), torch.randn(11, 7)
    bad[[0, 5, 10], 3] = wrong
    specs = stored(tmp_path, "good", good), stored(tmp_path, "bad", bad)
    for read in (difference, compare):
        for pair in (specs, specs[::-1]):
            with pytest.raises(LoratoolsError, match="3 of 77 values are NaN or infinite") as caught:
                read(*pair)
            assert caught.value.file == str(specs[1].file)
    with pytest.raises(LoratoolsError, match="3 of 77"):
        hash_tensor(specs[1], finite=True)
    assert hash_tensor(specs[1], finite=False) == root(bad)


def test_squares_that_overflow_are_no_failure(tmp_path: Path) -> None:
    base = torch.full((4, 4), 1e30, dtype=torch.bfloat16)
    read = difference(stored(tmp_path, "base", base), stored(tmp_path, "tuned", base * 2))
    assert read.base_norm == pytest.approx(4 * float(base[0, 0]), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_nor_are_squares_that_vanish(tmp_path: Path, dtype: torch.dtype) -> None:
    base = torch.full((4, 4), 1e-30, dtype=dtype)
    read = difference(stored(tmp_path, "base", base), stored(tmp_path, "tuned", base * 2))
    assert read.base_norm == pytest.approx(4 * float(base[0, 0]), rel=1e-6)


def test_the_norm_comes_along(tmp_path: Path) -> None:
    base, tuned = torch.randn(11, 7).bfloat16(), torch.randn(11, 7).bfloat16()
    read = difference(stored(tmp_path, "base", base), stored(tmp_path, "tuned", tuned))
    assert read.norm_squared == pytest.approx(float(read.delta.double().norm()) ** 2, rel=1e-6)


@pytest.mark.parametrize(("broken", "count"), [("base", 2), ("tuned", 3)])
def test_values_that_are_not_finite_on_either_side(tmp_path: Path, broken: str, count: int) -> None:
    sides = {name: torch.randn(11, 7).bfloat16() for name in ("base", "tuned")}
    sides[broken].view(-1)[:count] = torch.tensor([math.inf, math.nan, -math.inf])[:count].bfloat16()
    specs = [stored(tmp_path, name, tensor) for name, tensor in sides.items()]
    for look in (difference, compare):
        with pytest.raises(LoratoolsError, match=f"^{count} of 77 values") as told:
            look(*specs)
        assert told.value.file == str(specs[list(sides).index(broken)].file)


def test_finite_values_whose_difference_is_too_large(tmp_path: Path) -> None:
    base = torch.full((4, 3), 3e38).bfloat16()
    read = difference(stored(tmp_path, "base", base), stored(tmp_path, "tuned", -base))
    assert read.norm_squared is not None and not math.isfinite(read.norm_squared)


def test_memory_is_used_again_by_the_same_thread_alone(tmp_path: Path) -> None:
    specs = [stored(tmp_path, name, torch.randn(11, 7)) for name in ("one", "two", "three")]
    first = difference(specs[0], specs[1], reuse=True).delta
    kept = first.clone()
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(difference, specs[0], specs[2], reuse=True).result().delta
    assert torch.equal(first, kept) and not torch.equal(elsewhere, kept)
    again = difference(specs[0], specs[2], reuse=True).delta
    assert again.data_ptr() == first.data_ptr() and torch.equal(first, elsewhere)
    fresh = difference(specs[0], specs[1]).delta
    assert torch.equal(fresh, kept) and torch.equal(first, elsewhere)
