"""What changed comes back whole through extract and merge, and every tensor of every input has one fate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fixtures.lora_files import Tensors, decoder, exact_sum, lora_factors, write_decoder
from loratools.operations.extract import extract
from loratools.operations.merge import merge
from loratools.reports.report import Report

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def tuned(base: Tensors, *, tied: bool, grown: int, dtype: torch.dtype) -> Tensors:
    """Linear layers, a norm, an embedding row, the head where there is one, and new rows of both."""
    changed = exact_sum(base, (lora_factors(base), 1.0))
    changed[NORM] = changed[NORM] + 0.5
    changed[EMBEDDING][7] += 0.25
    if not tied:
        changed[HEAD][3:9] -= 0.5
    for name in (EMBEDDING,) if tied else (EMBEDDING, HEAD):
        changed[name] = torch.cat([changed[name], torch.randn(grown, 32, dtype=torch.float64)])
    return {name: value.to(dtype) for name, value in changed.items()}


def fates(report: Report) -> list[tuple[str, str]]:
    assert report.coverage is not None
    return sorted((row.input, row.tensor) for row in report.coverage)


@pytest.mark.parametrize("grown", [0, 5], ids=["same vocabulary", "grown vocabulary"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_all_that_changed_comes_back(dtype: torch.dtype, tied: bool, grown: int, tmp_path: Path) -> None:
    before = decoder(dtype=dtype, tied=tied)
    after = tuned(before, tied=tied, grown=grown, dtype=dtype)
    base, other = write_decoder(tmp_path / "base", before), write_decoder(tmp_path / "tuned", after)
    both = sorted([*(("base", name) for name in before), *(("tuned", name) for name in after)])
    for dry in (True, False):
        assert fates(extract(base, other, tmp_path / "adapter", rank=32, dry_run=dry)) == both
    keys = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    all_in = sorted([*(("base", name) for name in before), *(("adapter", key) for key in keys)])
    for dry in (True, False):
        assert fates(merge(base, [tmp_path / "adapter"], tmp_path / "merged", dry_run=dry)) == all_in
    back = load_file(tmp_path / "merged" / "model.safetensors")
    assert back.keys() == after.keys()
    for name in (NORM, EMBEDDING, *(() if tied else (HEAD,))):
        assert torch.equal(back[name], after[name]), name
    for name, value in after.items():
        torch.testing.assert_close(back[name], value, msg=name)
    if dtype is not torch.float32:  # float32 factors have no digits to spare for a float32 tensor
        equal = sum(int((back[name] == value).sum()) for name, value in after.items())
        assert equal >= 0.999 * sum(value.numel() for value in after.values())
