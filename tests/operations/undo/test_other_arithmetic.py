"""A record is read by other machines: sums in another order, in other precision, in blocks of other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from loratools.linalg.predecessors import Maps
from loratools.operations.merge import merge
from loratools.operations.undo import restorer
from loratools.operations.undo.steps import Product
from loratools.operations.unmerge import unmerge


def single(self: Product, maps: Maps, rows: Any, columns: Any) -> Maps:
    """Term by term, backwards, each product rounded for itself and the scaling applied last."""
    added = np.zeros(len(rows))
    for term in reversed(range(self.terms)):
        added = added + self.right[term, columns].astype(np.float64) * self.left[rows, term].astype(
            np.float64
        )
    size = self._bounds[rows, 0] * (1 + 1e-12)
    return Maps(maps.scale, maps.shift + added * self.scaling, maps.size + size, maps.terms + self.terms)


def dense(self: Product, block: Any, first: int) -> Any:
    """In double precision and rounded into the block's: as unlike one pass in float32 as can be right."""
    left = self.left[first : first + len(block)].astype(np.float64)
    block += ((left @ self.right.astype(np.float64)) * self.scaling).astype(block.dtype)
    return block


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_another_computation_gives_the_same_base(
    dtype: str, size: float, rounding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = decoder(dtype=getattr(torch, dtype), layers=1, hidden=192, ffn=256)
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors, size=size, rank=12), alpha=5)
    merge(base, [adapter], tmp_path / "merged", undo=True, rounding=rounding, seed=11)
    monkeypatch.setattr(Product, "then", single)
    monkeypatch.setattr(Product, "apply", dense)
    monkeypatch.setattr(restorer, "PART_BYTES", 3000)
    monkeypatch.setattr(restorer, "AT_ONCE", 700)
    unmerge(tmp_path / "merged", (), tmp_path / "back")  # refuses unless every hash is the base's
    file = "model.safetensors"
    assert (tmp_path / "back" / file).read_bytes() == (base / file).read_bytes()
