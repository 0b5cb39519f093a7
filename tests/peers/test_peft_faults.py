"""Where PEFT itself is wrong, and what is done here instead: the table of docs/formats.md, line by line."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from fixtures.peft_models import make_adapter, save_base, tiny_llama
from loratools.errors import LoratoolsError
from loratools.linalg.rounding_torch import round_once
from loratools.operations.merge import merge
from loratools.operations.unmerge import unmerge

WEIGHT = "model.layers.0.mlp.down_proj.weight"
MODULE = "base_model.model.model.layers.0.mlp.down_proj"
OPTIONS = {"target_modules": ["down_proj"], "r": 8, "lora_alpha": 8}
BF16 = torch.bfloat16


def by_peft(base: Path, adapter: Path) -> PeftModel:
    """Base in bfloat16 and adapter in float32, as PEFT loads them by default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=BF16), adapter)


def weight_of(model: PeftModel) -> torch.Tensor:
    return model.get_submodule(f"{MODULE}.base_layer").weight.detach().clone()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tiny_llama(), tmp_path / "base", dtype=BF16)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    make_adapter(tiny_llama(), tmp_path / "adapter", **OPTIONS)
    return tmp_path / "adapter"


def test_a_merge_in_bfloat16_rounds_more_than_once(base: Path, adapter: Path, tmp_path: Path) -> None:
    model = by_peft(base, adapter)
    before = weight_of(model)
    held = load_file(adapter / "adapter_model.safetensors")
    A, B = (held[f"{MODULE}.lora_{letter}.weight"].double() for letter in "AB")
    exact = round_once(before.double() + B @ A, BF16)
    model.merge_adapter(safe_merge=True)
    assert (weight_of(model) != exact).double().mean() > 0.01
    merge(base, [adapter], tmp_path / "merged")
    assert (load_file(tmp_path / "merged" / "model.safetensors")[WEIGHT] != exact).double().mean() <= 0.001


def test_unmerging_in_bfloat16_does_not_restore_and_is_not_said(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    model = by_peft(base, adapter)
    before = weight_of(model)
    model.merge_adapter(safe_merge=True)
    model.unmerge_adapter()
    theirs = float((weight_of(model) != before).double().mean())
    assert theirs > 0.01
    merge(base, [adapter], tmp_path / "merged")
    report = unmerge(tmp_path / "merged", [adapter], tmp_path / "back")
    ours = float((load_file(tmp_path / "back" / "model.safetensors")[WEIGHT] != before).double().mean())
    assert ours <= theirs
    assert any("may be off from the base" in line for line in report.warnings)


def test_values_that_are_not_finite_are_loaded_in_silence(base: Path, adapter: Path, tmp_path: Path) -> None:
    held = load_file(adapter / "adapter_model.safetensors")
    held[f"{MODULE}.lora_A.weight"][1, 2] = float("nan")
    save_file(held, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    model = by_peft(base, adapter)
    model.merge_adapter()
    assert not weight_of(model).isfinite().all()
    with pytest.raises(LoratoolsError, match="1 of 320 values are NaN or infinite"):
        merge(base, [adapter], tmp_path / "merged")


def test_half_a_pair_is_loaded_as_no_change(base: Path, adapter: Path, tmp_path: Path) -> None:
    held = load_file(adapter / "adapter_model.safetensors")
    del held[f"{MODULE}.lora_B.weight"]
    save_file(held, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    model = by_peft(base, adapter)
    before = weight_of(model)
    model.merge_adapter()
    assert torch.equal(weight_of(model), before)
    with pytest.raises(LoratoolsError, match="has no lora_B"):
        merge(base, [adapter], tmp_path / "merged")


def test_a_tie_that_is_to_be_kept_is_lost_in_bfloat16(tmp_path: Path) -> None:
    """PEFT turns each side's factors to float32, by which they stop being one."""
    base = save_base(tiny_llama(tied=True), tmp_path / "base", dtype=BF16)
    options = {"target_modules": ["embed_tokens"], "ensure_weight_tying": True, "r": 4}
    make_adapter(tiny_llama(tied=True).to(BF16), tmp_path / "adapter", **options)
    held = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    sides = (
        held["base_model.model.model.embed_tokens.lora_embedding_A"].numpy(),
        held["base_model.model.lm_head.lora_B.weight"].numpy().T,
    )
    assert not np.array_equal(*sides)
    report = merge(base, [tmp_path / "adapter"], tmp_path / "apart")
    assert any("are written apart, as the adapter was trained" in line for line in report.warnings)
    written = load_file(tmp_path / "apart" / "model.safetensors")
    weight = load_file(base / "model.safetensors")["model.embed_tokens.weight"].double()
    scaling = 8 / 4  # PEFT's default alpha
    for name, A, B in (
        ("model.embed_tokens", "lora_embedding_A", "lora_embedding_B"),
        ("lm_head", "lora_A.weight", "lora_B.weight"),
    ):
        A, B = (held[f"base_model.model.{name}.{key}"].double() for key in (A, B))
        product = B @ A if name == "lm_head" else (B @ A).T
        exact = round_once(weight + scaling * product, BF16)
        assert (written[f"{name}.weight"] != exact).double().mean() <= 0.001, name
