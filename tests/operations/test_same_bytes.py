"""What is written depends on inputs and options alone: not on folders, on workers, or on when it was run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from loratools import extract, merge, unmerge


def contents(output: Path) -> dict[str, bytes]:
    if output.is_file():
        return {"": output.read_bytes()}
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def inputs(folder: Path) -> Path:
    tensors = decoder(dtype=torch.bfloat16)
    changed = {
        name: value + (0.01 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3))).bfloat16()
        for name, value in tensors.items()
    }
    write_decoder(folder / "base", tensors, shards=2)
    write_decoder(folder / "one file", tensors)
    write_decoder(folder / "tuned", changed)
    write_adapter(folder / "adapter", lora_factors(tensors), alpha=8)
    merge(folder / "base", [folder / "adapter"], folder / "merged", undo=True, workers=1)
    merge(folder / "base", [folder / "adapter"], folder / "plain", workers=1)
    return folder


RUNS: dict[str, Callable[[Path, Path, int], object]] = {
    "extract": lambda at, to, n: extract(at / "base", at / "tuned", to, rank=4, workers=n),
    "merge": lambda at, to, n: merge(at / "base", [at / "adapter"], to, workers=n),
    "merge with a record": lambda at, to, n: merge(
        at / "base", [at / "adapter"], to, undo=True, shard_size="20kB", workers=n
    ),
    "merge into one file": lambda at, to, n: merge(
        at / "one file", [at / "adapter"], to.with_suffix(".safetensors"), workers=n
    ),
    "unmerge": lambda at, to, n: unmerge(at / "plain", [at / "adapter"], to, workers=n),
    "unmerge by the record": lambda at, to, n: unmerge(at / "merged", output=to, workers=n),
}


@pytest.mark.parametrize("verb", RUNS)
def test_two_runs_in_two_places_write_the_same_bytes(verb: str, tmp_path: Path) -> None:
    here = inputs(tmp_path / "here")
    there = tmp_path / "there, and deeper" / "down"
    shutil.copytree(here, there)
    RUNS[verb](here, tmp_path / "first", 1)
    RUNS[verb](there, tmp_path / "elsewhere" / "another name", 3)
    first, second = (
        contents(next(path for path in (to, to.with_suffix(".safetensors")) if path.exists()))
        for to in (tmp_path / "first", tmp_path / "elsewhere" / "another name")
    )
    assert first.keys() == second.keys() and first
    assert [name for name in first if first[name] != second[name]] == []
    for said in (str(tmp_path), "there, and deeper", "another name"):
        assert not any(said.encode() in data for data in first.values())
