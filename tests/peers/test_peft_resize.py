"""`resize` of adapters that real PEFT saved, loaded by PEFT again: each update is the best of its rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fixtures.conv_model import convolutions
from fixtures.peft_deltas import distances, load_adapters, updates
from fixtures.peft_models import ATTENTION, MLP, make_adapter, tiny_gpt2, tiny_llama
from loratools.operations.resize import resize

QUERY = {"target_modules": ["q_proj"], "r": 6, "lora_alpha": 9}


@dataclass(frozen=True)
class Case:
    """A kind of adapter: the model it is on, and LoraConfig's options."""

    name: str
    model: Callable[[], nn.Module]
    options: Mapping[str, Any]


CASES = (
    Case("linear", tiny_llama, {**QUERY, "target_modules": ATTENTION + MLP}),
    Case("rslora", tiny_llama, {**QUERY, "use_rslora": True}),
    Case(
        "patterns",
        tiny_llama,
        {
            **QUERY,
            "target_modules": ATTENTION,
            "rank_pattern": {"k_proj": 2, r"layers\.1\.self_attn\.q_proj": 8},
            "alpha_pattern": {"v_proj": 5},
            "use_rslora": True,
        },
    ),
    Case("one pattern", tiny_llama, {**QUERY, "target_modules": r".*layers\.1.*(q|up)_proj"}),
    Case("narrowed", tiny_llama, {**QUERY, "layers_to_transform": [1]}),
    Case("conv1d", tiny_gpt2, {**QUERY, "target_modules": ["c_attn", "c_proj"]}),
    Case("embeddings", tiny_llama, {**QUERY, "target_modules": ["embed_tokens", "lm_head"]}),
    Case("convolutions", convolutions, {**QUERY, "target_modules": ["line", "plane", "point", "space"]}),
    Case("beside a saved module", tiny_llama, {**QUERY, "modules_to_save": ["lm_head"]}),
    Case("beside tokens", tiny_llama, {**QUERY, "trainable_token_indices": [2, 7]}),
)  # fmt: skip


def truncated(update: torch.Tensor, rank: int) -> torch.Tensor:
    U, S, Vh = torch.linalg.svd(update.reshape(update.shape[0], -1), full_matrices=False)
    return ((U[:, :rank] * S[:rank]) @ Vh[:rank]).reshape(update.shape)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("rank", [3, 6], ids=["cut", "some kept"])
def test_peft_finds_the_best_update_of_the_rank(case: Case, rank: int, tmp_path: Path) -> None:
    make_adapter(case.model(), tmp_path / "in", **case.options)
    resize(tmp_path / "in", tmp_path / "out", rank=rank)
    before = updates(load_adapters(case.model(), [tmp_path / "in"]))
    after = updates(load_adapters(case.model(), [tmp_path / "out"]))
    wanted = {name: truncated(update, rank) for name, update in before.items()}
    assert max(distances(after, wanted).values()) < 1e-6


@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
def test_a_rank_that_all_have_changes_nothing_that_peft_computes(case: Case, tmp_path: Path) -> None:
    make_adapter(case.model(), tmp_path / "in", **case.options)
    resize(tmp_path / "in", tmp_path / "out", rank=99)
    before, after = (updates(load_adapters(case.model(), [tmp_path / name])) for name in ("in", "out"))
    assert before.keys() == after.keys()
    assert all(float((after[name] - before[name]).norm() / before[name].norm()) < 1e-15 for name in before)


@pytest.mark.parametrize("budget", [20_000, 12_000])
def test_peft_loads_just_the_modules_that_a_budget_keeps(budget: int, tmp_path: Path) -> None:
    case = CASES[0]
    make_adapter(case.model(), tmp_path / "in", **case.options)
    report = resize(tmp_path / "in", tmp_path / "out", budget=budget)
    kept = {row.name: row.rank for row in report.modules or () if row.rank}
    assert 0 < len(kept) < len(report.modules or ())
    before = updates(load_adapters(case.model(), [tmp_path / "in"]))
    after = updates(load_adapters(case.model(), [tmp_path / "out"]))
    wanted = {name: truncated(before[name], rank) for name, rank in kept.items()}
    assert max(distances(after, wanted).values()) < 1e-6


def test_a_bias_beside_b_stays_what_it_was(tmp_path: Path) -> None:
    def model() -> nn.Module:
        return tiny_llama(bias=True)

    make_adapter(model(), tmp_path / "in", **QUERY, lora_bias=True)
    resize(tmp_path / "in", tmp_path / "out", rank=2)
    tokens = torch.tensor([[1, 5, 7, 2]])
    found = []
    for folder in ("in", "out"):
        held = load_adapters(model(), [tmp_path / folder])
        for layer in held.modules():  # without the factors, what is left of the update is the bias
            if hasattr(layer, "lora_A") and "a" in layer.lora_A:
                layer.lora_A["a"].weight.data.zero_()
        found.append(held(tokens).logits.detach().numpy())
    assert np.abs(found[0] - found[1]).max() < 1e-6
    with_factors = load_adapters(model(), [tmp_path / "out"])(tokens).logits.detach().numpy()
    assert np.abs(found[1] - with_factors).max() > 1e-3
