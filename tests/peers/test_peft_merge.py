"""Merges of adapters that real PEFT trained and saved, against PEFT's own merge computed in float64.

The oracle is PEFT in float64, rounded once by numpy: PEFT's arithmetic in the base's dtype is none (it rounds
more than once). What is held against it is what stands in the file that was written.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.peft_models import CASES, Case, make_adapter, save_base, tiny_llama
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from loratools.linalg.rounding import ulp
from loratools.operations.merge import merge

Tensors = dict[str, torch.Tensor]
DTYPES = ("float32", "bfloat16", "float16")
EPSILON = {"float32": 2.0**-52, "bfloat16": 2.0**-23, "float16": 2.0**-23}
"""Of the arithmetic that the design promises for each stored dtype."""


@dataclass(frozen=True)
class Built:
    base: Path
    adapter: Path


def build(case: Case, folder: Path, dtype: str) -> Built:
    base = save_base(case.model(), folder / "base", dtype=getattr(torch, dtype))
    make_adapter(case.model(), folder / "adapter", **case.options)
    return Built(base, folder / "adapter")


def merged_by_peft(built: Built, folder: Path, *, adapters: Mapping[str, float] | None = None) -> Tensors:
    """All tensors of PEFT's own merge in float64, as transformers saves them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = _auto(built.base).from_pretrained(built.base, dtype=torch.float64)
        adapted = PeftModel.from_pretrained(base, built.adapter, autocast_adapter_dtype=False)
        adapted.merge_and_unload().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def _auto(base: Path) -> type:
    name = json.loads((base / "config.json").read_text())["architectures"][0]
    endings = {
        "ForSequenceClassification": AutoModelForSequenceClassification,
        "ForMaskedLM": AutoModelForMaskedLM,
    }
    return next((cls for ending, cls in endings.items() if name.endswith(ending)), AutoModelForCausalLM)


def rounded_once(exact: torch.Tensor, dtype: str) -> np.ndarray:
    """Float64 to `dtype`, by numpy alone, and back: nearest even on the grid of the dtype."""
    values = exact.numpy()
    grid = ulp(values, dtype)
    with np.errstate(invalid="ignore"):
        near = np.rint(values / grid) * grid  # exact: the grid is a power of two
    return np.where(np.isfinite(values), near, values)


def room(built: Built, name: str, weight: torch.Tensor, epsilon: float) -> np.ndarray:
    """(r + 2) eps (|W| + |s||B||A|), from the adapter's file alone; zero for what has no factors."""
    held = load_file(built.adapter / "adapter_model.safetensors")
    for key, A in held.items():
        module = key.removeprefix("base_model.model.").partition(".lora_")[0]
        if ".lora_A." not in key and ".lora_embedding_A" not in key or not _is_of(name, module):
            continue
        B = held[key.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
        product = B.double().abs() @ A.double().abs()  # (out, in)
        if product.shape != weight.shape or "embedding" in key or "h." in name:
            product = product.T
        scale = _largest_scaling(built) * product
        return ((len(A) + 2) * epsilon * (weight.double().abs() + scale)).numpy()
    return np.zeros(tuple(weight.shape))


def _is_of(name: str, module: str) -> bool:
    stem = name.removesuffix(".weight")
    return stem == module or module.endswith(f".{stem}") or stem.endswith(f".{module}")


def _largest_scaling(built: Built) -> float:
    config = json.loads((built.adapter / "adapter_config.json").read_text())
    ranks = [config["r"], *config["rank_pattern"].values()]
    alphas = [config["lora_alpha"], *config["alpha_pattern"].values()]
    return max(alphas) / min(ranks) ** (0.5 if config["use_rslora"] else 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_merge_is_that_of_peft_in_float64_with_one_rounding(case: Case, dtype: str, tmp_path: Path) -> None:
    built = build(case, tmp_path, dtype)
    report = merge(built.base, [built.adapter], tmp_path / "merged")
    exact = merged_by_peft(built, tmp_path / "exact")
    base = load_file(built.base / "model.safetensors")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert written.keys() == exact.keys()
    changed = {row.name for row in report.modules or ()}
    assert changed
    equal = total = 0
    for name, tensor in written.items():
        assert tensor.dtype == getattr(torch, dtype)
        if name not in changed:
            assert torch.equal(tensor, base[name]), name
            assert torch.equal(exact[name].to(tensor.dtype), tensor), name
            continue
        values, want = tensor.double().numpy(), exact[name].numpy()
        bound = room(built, name, base[name], EPSILON[dtype])
        if case.options.get("use_dora"):
            bound = _with_magnitudes(bound, base[name].double().numpy(), want)
        off = np.abs(values - want) - ulp(want, dtype) / 2 - bound
        assert off.max() <= 0, f"{name}: {off.max()}"
        equal += int((values == rounded_once(exact[name], dtype)).sum())
        total += values.size
    assert equal >= 0.999 * total, f"{total - equal} of {total} elements differ from one rounding"


def _with_magnitudes(bound: np.ndarray, base: np.ndarray, want: np.ndarray) -> np.ndarray:
    """DoRA scales what was summed by m / norm, of which each rounds once more."""
    largest = np.abs(want).max() / np.abs(base).mean()
    return 4 * bound * max(1.0, largest)
