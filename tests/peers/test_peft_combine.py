"""`combine` beside PEFT's `add_weighted_adapter`: equal where PEFT is right, else by the definition.

Both are loaded by PEFT and asked for what they add to each weight, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fixtures.conv_model import convolutions
from fixtures.peft_deltas import COMBINED, combined_by_peft, distances, load_adapters, updates
from fixtures.peft_models import make_adapter, tiny_gpt2, tiny_llama
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.arithmetic.combine_job import CombineJob
from loratools.operations.combine import combine

QUERY = {"target_modules": ["q_proj"], "r": 4, "lora_alpha": 8}
STORED = 1e-6
"""Both sides' factors are float32."""


def untied() -> nn.Module:
    return tiny_llama(tied=False)


@dataclass(frozen=True)
class Pair:
    """Two adapters of one model: LoraConfig's options of each, and their weights."""

    name: str
    model: Callable[[], nn.Module]
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    weights: tuple[float, float] = (0.7, -0.4)
    ranks: str = "equal"
    options: Mapping[str, Any] = field(default_factory=dict)


LINEAR = {"target_modules": ["q_proj", "k_proj", "down_proj"], "r": 4, "lora_alpha": 8}
PATTERNS = {**LINEAR, "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"down_proj": 5}}


def _targeting(*names: str) -> dict[str, Any]:
    return {**LINEAR, "target_modules": list(names)}


PAIRS = (
    Pair("alphas", tiny_llama, LINEAR, {**LINEAR, "lora_alpha": 2}),
    Pair("targets", tiny_llama, LINEAR, {**LINEAR, "target_modules": ["q_proj", "up_proj"]}),
    Pair(
        "regular expressions",
        tiny_llama,
        {**LINEAR, "target_modules": r".*\.q_proj"},
        {**LINEAR, "target_modules": r".*layers\.1\.mlp\.up_proj"},
    ),
    Pair("narrowed", tiny_llama, LINEAR, {**LINEAR, "layers_to_transform": [1]}),
    Pair("conv1d", tiny_gpt2, _targeting("c_attn", "c_proj"), _targeting("c_attn")),
    Pair("embeddings", untied, _targeting("embed_tokens", "lm_head"), _targeting("embed_tokens")),
    Pair("ranks", tiny_llama, LINEAR, {**LINEAR, "r": 6}, ranks="mixed"),
    Pair("patterns", tiny_llama, PATTERNS, {**LINEAR, "r": 3}, ranks="mixed"),
)  # fmt: skip
EQUAL = [pair for pair in PAIRS if pair.ranks == "equal"]

pairs = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
equal_pairs = pytest.mark.parametrize("pair", EQUAL, ids=lambda pair: pair.name)


@pytest.fixture
def built(pair: Pair, tmp_path: Path) -> list[Path]:
    made = [tmp_path / "one", tmp_path / "two"]
    for seed, (folder, options) in enumerate(zip(made, (pair.first, pair.second), strict=True)):
        make_adapter(pair.model(), folder, seed=seed + 1, **options)
    return made


def ours(pair: Pair, built: list[Path], folder: Path, method: str, **options: Any) -> dict[str, torch.Tensor]:
    """What our combination adds, as PEFT loads it."""
    combine(built, folder, weights=pair.weights, method=method, **options)
    return updates(load_adapters(pair.model(), [folder]))


def exact(pair: Pair, built: list[Path]) -> dict[str, torch.Tensor]:
    """sum w s B A over the adapters that have the module, from what PEFT says each adds."""
    held = load_adapters(pair.model(), built)
    total: dict[str, torch.Tensor] = {}
    for name, weight in zip("ab", pair.weights, strict=True):
        for module, update in updates(held, name).items():
            total[module] = total.get(module, 0.0) + weight * update
    return total


@pairs
@pytest.mark.parametrize("rank", [None, 3], ids=["default rank", "rank 3"])
def test_svd_is_pefts(pair: Pair, built: list[Path], tmp_path: Path, rank: int | None) -> None:
    theirs = updates(combined_by_peft(pair.model, built, pair.weights, "svd", svd_rank=rank), COMBINED)
    found = ours(pair, built, tmp_path / "out", "svd", rank=rank)
    assert max(distances(found, theirs).values()) < STORED


@pairs
def test_cat_is_pefts_and_the_weighted_sum(pair: Pair, built: list[Path], tmp_path: Path) -> None:
    found = ours(pair, built, tmp_path / "out", "cat")
    theirs = updates(combined_by_peft(pair.model, built, pair.weights, "cat"), COMBINED)
    assert max(distances(found, theirs).values()) < STORED
    assert max(distances(found, exact(pair, built)).values()) < STORED


@equal_pairs
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("linear", {}),
        ("ties", {"density": 0.6}),
        ("ties", {"density": 0.6, "majority_sign_method": "frequency"}),
        ("ties", {"density": 1.0}),
        ("magnitude_prune", {"density": 0.3}),
        ("dare_linear", {"density": 1.0}),
        ("dare_ties", {"density": 1.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(map(str, value.values())),
)
def test_sums_of_factors_are_pefts(
    pair: Pair, built: list[Path], tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    theirs = updates(combined_by_peft(pair.model, built, pair.weights, method, **options), COMBINED)
    found = ours(pair, built, tmp_path / "out", method, **options)
    assert max(distances(found, theirs).values()) < STORED


@pytest.mark.parametrize("pair", [PAIRS[0], PAIRS[4], PAIRS[5]], ids=lambda pair: pair.name)
@pytest.mark.parametrize("sign", ["total", "frequency"])
def test_ties_of_dense_updates_are_pefts(pair: Pair, built: list[Path], tmp_path: Path, sign: str) -> None:
    options = {"density": 0.4, "majority_sign_method": sign}
    theirs = updates(combined_by_peft(pair.model, built, pair.weights, "ties_svd", **options), COMBINED)
    found = ours(pair, built, tmp_path / "out", "ties_svd", **options)
    assert max(distances(found, theirs).values()) < STORED


class _SameDraws:
    """Uniform numbers that depend on the shape alone, for both libraries."""

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(len(shape) * 1000 + shape[0] * 7 + shape[-1]).random(shape)


@pytest.mark.parametrize("pair", EQUAL[:2], ids=lambda pair: pair.name)
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_is_pefts_where_the_same_values_are_dropped(
    pair: Pair, built: list[Path], tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = _SameDraws()
    monkeypatch.setattr(CombineJob, "generator", lambda job, place, side: draws)
    monkeypatch.setattr(
        "torch.bernoulli",
        lambda chance: (torch.from_numpy(draws.random(tuple(chance.shape))) < chance).to(chance.dtype),
    )
    theirs = updates(combined_by_peft(pair.model, built, pair.weights, method, density=0.5), COMBINED)
    found = ours(pair, built, tmp_path / "out", method, density=0.5)
    assert max(distances(found, theirs).values()) < STORED


def adapters(
    folder: Path, *options: Mapping[str, Any], model: Callable[[], nn.Module] = tiny_llama
) -> list[Path]:
    made = []
    for seed, one in enumerate(options):
        make_adapter(model(), folder / f"adapter {seed}", seed=seed + 1, **one)
        made.append(folder / f"adapter {seed}")
    return made


def weighted(made: list[Path], weights: tuple[float, ...]) -> dict[str, torch.Tensor]:
    held = load_adapters(tiny_llama(), made)
    each = [updates(held, name) for name in "abc"[: len(made)]]
    return {name: sum(w * one[name] for w, one in zip(weights, each, strict=True)) for name in each[0]}


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_peft_scales_the_sum_of_rslora_adapters_up(tmp_path: Path, method: str) -> None:
    made = adapters(tmp_path, {**QUERY, "use_rslora": True}, QUERY)
    wanted = weighted(made, (1.0, 1.0))
    rank = {"svd_rank": 8} if method == "svd" else {}
    theirs = updates(combined_by_peft(tiny_llama, made, (1.0, 1.0), method, **rank), COMBINED)
    for name, update in wanted.items():
        assert float(theirs[name].norm() / update.norm()) == pytest.approx(8**0.5)
    combine(made, tmp_path / "out", method=method, rank=8 if method == "svd" else None)
    found = updates(load_adapters(tiny_llama(), [tmp_path / "out"]))
    assert max(distances(found, wanted).values()) < STORED


def test_peft_loses_layers_that_the_first_adapter_does_not_have(tmp_path: Path) -> None:
    made = adapters(tmp_path, {**QUERY, "layers_to_transform": [1]}, QUERY)
    theirs = updates(combined_by_peft(tiny_llama, made, (1.0, 1.0), "cat"), COMBINED)
    assert list(theirs) == ["model.layers.1.self_attn.q_proj"]
    combine(made, tmp_path / "out")
    found = updates(load_adapters(tiny_llama(), [tmp_path / "out"]))
    alone = updates(load_adapters(tiny_llama(), made[1:]))
    name = "model.layers.0.self_attn.q_proj"
    assert distances({name: found[name]}, {name: alone[name]})[name] < STORED


def test_peft_writes_a_linear_combination_of_mixed_ranks_that_it_cannot_load(tmp_path: Path) -> None:
    mixed = {**QUERY, "target_modules": ["q_proj", "k_proj"], "rank_pattern": {"k_proj": 2}}
    made = adapters(tmp_path, mixed, mixed)
    held = combined_by_peft(tiny_llama, made, (1.0, 0.5), "linear")
    held.save_pretrained(tmp_path / "theirs", selected_adapters=[COMBINED])
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_adapters(tiny_llama(), [tmp_path / "theirs" / COMBINED])
    combine(made, tmp_path / "out", method="linear", weights=(1.0, 0.5))
    found = updates(load_adapters(tiny_llama(), [tmp_path / "out"]))
    assert max(distances(found, updates(held, COMBINED)).values()) < STORED


def test_peft_writes_an_svd_of_more_rank_than_there_is_that_it_cannot_load(tmp_path: Path) -> None:
    made = adapters(tmp_path, *[{**QUERY, "target_modules": ["k_proj"]}] * 2)
    held = combined_by_peft(tiny_llama, made, (1.0, 1.0), "svd", svd_rank=24)
    held.save_pretrained(tmp_path / "theirs", selected_adapters=[COMBINED])
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_adapters(tiny_llama(), [tmp_path / "theirs" / COMBINED])
    report = combine(made, tmp_path / "out", method="svd", rank=24)
    assert {row.rank for row in report.modules or ()} == {8}
    found = updates(load_adapters(tiny_llama(), [tmp_path / "out"]))
    assert max(distances(found, weighted(made, (1.0, 1.0))).values()) < STORED


def test_peft_ignores_the_method_of_a_single_adapter(tmp_path: Path) -> None:
    made = adapters(tmp_path, QUERY)
    theirs = updates(combined_by_peft(tiny_llama, made, (1.0,), "svd", svd_rank=2), COMBINED)
    assert all(np.linalg.matrix_rank(update.numpy(), 1e-4) == 4 for update in theirs.values())
    combine(made, tmp_path / "out", method="svd", rank=2)
    found = updates(load_adapters(tiny_llama(), [tmp_path / "out"]))
    assert all(np.linalg.matrix_rank(update.numpy(), 1e-4) == 2 for update in found.values())


def test_peft_combines_dora_to_something_else(tmp_path: Path) -> None:
    made = adapters(tmp_path, {**QUERY, "use_dora": True})
    held = combined_by_peft(tiny_llama, made, (1.0,), "linear")
    tokens = torch.tensor([[1, 5, 7, 2]])
    found = []
    for name in ("a", COMBINED):
        held.set_adapter(name)
        found.append(held(tokens).logits.detach())
    assert float((found[0] - found[1]).norm()) > 0.05, "the one adapter, with weight 1"
    with pytest.raises(LoratoolsError, match="DoRA cannot be combined: its magnitudes"):
        combine(made, tmp_path / "out")


def test_peft_loses_the_module_that_one_adapter_saves(tmp_path: Path) -> None:
    made = adapters(tmp_path, {**QUERY, "modules_to_save": ["lm_head"]}, QUERY)
    head = combined_by_peft(tiny_llama, made, (1.0, 1.0), "cat").base_model.model.lm_head
    assert torch.equal(head.modules_to_save[COMBINED].weight, head.original_module.weight)
    assert not torch.equal(head.modules_to_save["a"].weight, head.original_module.weight)
    combine(made, tmp_path / "out")
    ours = load_adapters(tiny_llama(), [tmp_path / "out"]).base_model.model.lm_head
    assert torch.equal(ours.modules_to_save["a"].weight, head.modules_to_save["a"].weight)


def test_peft_loses_the_biases_beside_the_factors(tmp_path: Path) -> None:
    def model() -> nn.Module:
        return tiny_llama(bias=True)

    made = adapters(tmp_path, {**QUERY, "lora_bias": True}, {**QUERY, "lora_bias": True}, model=model)
    held = combined_by_peft(model, made, (0.5, -1.0), "cat")
    layers = "base_model.model.model.layers.{}.self_attn.q_proj.lora_B"
    combine(made, tmp_path / "out", weights=(0.5, -1.0))
    ours = load_adapters(model(), [tmp_path / "out"])
    for number in range(2):
        theirs = held.get_submodule(layers.format(number))
        wanted = 2.0 * (0.5 * theirs["a"].bias - theirs["b"].bias)
        assert not theirs[COMBINED].bias.any()
        assert torch.allclose(ours.get_submodule(layers.format(number))["a"].bias, wanted, atol=1e-7)


def test_peft_cannot_combine_trained_tokens(tmp_path: Path) -> None:
    made = adapters(tmp_path, {**QUERY, "trainable_token_indices": [3, 9]}, QUERY)
    with pytest.raises(KeyError):
        combined_by_peft(tiny_llama, made, (1.0, 1.0), "cat")
    combine(made, tmp_path / "out")
    held = [load_adapters(tiny_llama(), [folder]) for folder in (made[0], tmp_path / "out")]
    rows = [one.base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta["a"] for one in held]
    assert torch.equal(*rows)


def test_peft_divides_by_a_density_of_zero(tmp_path: Path) -> None:
    made = adapters(tmp_path, QUERY, QUERY)
    held = combined_by_peft(tiny_llama, made, (1.0, 1.0), "dare_linear", density=0.0)
    assert all(update.isnan().all() for update in updates(held, COMBINED).values())
    with pytest.raises(UsageError, match="--density is a share above 0 and at most 1, not 0"):
        combine(made, tmp_path / "out", method="dare_linear", density=0.0)


def two_convolutions(folder: Path, targets: list[str]) -> list[Path]:
    options = [{"target_modules": targets, "r": 2 + more, "lora_alpha": 4} for more in range(2)]
    return adapters(folder, *options, model=convolutions)


def convolution_sum(made: list[Path], weights: tuple[float, float]) -> dict[str, torch.Tensor]:
    held = load_adapters(convolutions(), made)
    first, second = (updates(held, name) for name in "ab")
    return {name: weights[0] * first[name] + weights[1] * second[name] for name in first}


def test_convolutions_of_every_kind_add_up_as_in_peft(tmp_path: Path) -> None:
    made = two_convolutions(tmp_path, ["line", "plane", "point", "space"])
    combine(made, tmp_path / "out", weights=(0.3, -2.0))
    found = updates(load_adapters(convolutions(), [tmp_path / "out"]))
    theirs = updates(combined_by_peft(convolutions, made, (0.3, -2.0), "cat"), COMBINED)
    assert max(distances(found, theirs).values()) < STORED
    assert max(distances(found, convolution_sum(made, (0.3, -2.0))).values()) < STORED


def test_svd_of_convolutions_over_two_axes_is_pefts(tmp_path: Path) -> None:
    made = two_convolutions(tmp_path, ["plane", "point"])
    combine(made, tmp_path / "out", method="svd", rank=2)
    found = updates(load_adapters(convolutions(), [tmp_path / "out"]))
    theirs = updates(combined_by_peft(convolutions, made, (1.0, 1.0), "svd", svd_rank=2), COMBINED)
    assert max(distances(found, theirs).values()) < STORED


@pytest.mark.parametrize("target", ["line", "space"])
def test_peft_cannot_decompose_convolutions_over_one_or_three_axes(target: str, tmp_path: Path) -> None:
    made = two_convolutions(tmp_path, [target])
    with pytest.raises(RuntimeError):
        combined_by_peft(convolutions, made, (1.0, 1.0), "svd", svd_rank=5)
    combine(made, tmp_path / "out", method="svd", rank=5)
    found = updates(load_adapters(convolutions(), [tmp_path / "out"]))
    assert max(distances(found, convolution_sum(made, (1.0, 1.0))).values()) < STORED
