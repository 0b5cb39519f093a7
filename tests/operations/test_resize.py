"""`resize` against dense decompositions, and what it keeps, refuses and writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fixtures.adapter_updates import folder_bytes, updates_of
from fixtures.lora_files import Factors, decoder, lora_factors, write_adapter, write_decoder
from loratools import sample
from loratools.checkpoints.provenance import read_provenance
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.arithmetic.factored import open_factored
from loratools.operations.arithmetic.resized import ResizedAdapter
from loratools.operations.extract import extract
from loratools.operations.merge import merge
from loratools.operations.resize import resize
from loratools.operations.resize_options import ResizeOptions

WEIGHTS = "adapter_model.safetensors"
MODULE = "model.layers.0.self_attn.q_proj"


def random_factors(
    shapes: dict[str, tuple[int, int, int]], *, dtype: Any = torch.float32, seed: int = 0
) -> Factors:
    """lora_A and lora_B by module, of shapes (out, in, rank), with a falling spectrum."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, (out, into, rank) in shapes.items():
        fall = 0.8 ** torch.arange(rank)
        A = torch.randn((rank, into), generator=generator) * fall[:, None]
        made[name] = A.to(dtype), torch.randn((out, rank), generator=generator).to(dtype)
    return made


def truncated(update: np.ndarray, rank: int) -> np.ndarray:
    U, S, Vh = np.linalg.svd(update, full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sides=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    rank=st.integers(1, 8),
    alpha=st.sampled_from([1, 3, 16, -2]),
    rslora=st.booleans(),
    wanted=st.integers(1, 10),
    seed=st.integers(0, 99),
)
def test_every_rank_is_the_best_of_its_rank(
    tmp_path_factory: pytest.TempPathFactory,
    sides: tuple[int, int],
    rank: int,
    alpha: int,
    rslora: bool,
    wanted: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("resize")
    factors = random_factors({MODULE: (*sides, rank)}, seed=seed)
    given = write_adapter(folder / "in", factors, alpha=alpha, use_rslora=rslora)
    report = resize(given, folder / "out", rank=wanted)
    (before,), (after,) = updates_of(given).values(), updates_of(folder / "out").values()
    size = np.linalg.norm(before)
    assert np.linalg.norm(after - truncated(before, wanted)) <= 1e-6 * size
    (row,) = report.modules or ()
    assert (row.rank_before, row.rank) == (rank, min(rank, wanted))
    assert row.norm == pytest.approx(size, rel=1e-9)
    assert row.residual == pytest.approx(np.linalg.norm(after - before) / size, rel=1e-4, abs=1e-9)
    if wanted >= rank:
        kept = load_file(folder / "out" / WEIGHTS)
        assert all(torch.equal(value, kept[key]) for key, value in load_file(given / WEIGHTS).items())


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_residual_is_that_of_what_is_stored(dtype: str, tmp_path: Path) -> None:
    factors = random_factors({MODULE: (40, 30, 6)}, dtype=getattr(torch, dtype))
    adapter = write_adapter(tmp_path / "in", factors, alpha=9)
    report = resize(adapter, tmp_path / "out", rank=5)
    (before,), (after,) = updates_of(adapter).values(), updates_of(tmp_path / "out").values()
    (row,) = report.modules or ()
    assert row.dtype == dtype
    assert row.residual == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-5)
    optimum = np.linalg.norm(before - truncated(before, 5)) / np.linalg.norm(before)
    rounding = {"float64": 1e-12, "float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    assert optimum - 1e-12 <= row.residual <= np.hypot(optimum, rounding)


def test_energy_takes_the_least_rank(tmp_path: Path) -> None:
    adapter = write_adapter(
        tmp_path / "in", random_factors({f"model.layers.{at}.fc": (30, 20, 8) for at in range(4)})
    )
    report = resize(adapter, tmp_path / "out", energy=0.9)
    ranks = set()
    for row in report.modules or ():
        squares = np.square(np.linalg.svd(updates_of(adapter)[row.name], compute_uv=False))
        shares = np.cumsum(squares) / squares.sum()
        assert shares[row.rank - 1] >= 0.9 and (row.rank == 1 or shares[row.rank - 2] < 0.9)
        assert row.energy == pytest.approx(shares[row.rank - 1], abs=1e-6)
        ranks.add(row.rank)
    resize(adapter, tmp_path / "whole", energy=1.0)
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()


SMALL = {
    "model.layers.0.self_attn.q_proj": (300, 200, 3),
    "model.layers.0.self_attn.k_proj": (100, 200, 3),
    "model.layers.0.mlp.up_proj": (500, 200, 3),
}


@pytest.mark.parametrize("budget", [12_000, 15_000, 19_000, 24_000, 28_500])
def test_a_budget_is_spent_as_well_as_any_ranks_do(budget: int, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "in", random_factors(SMALL))
    report = resize(adapter, tmp_path / "out", budget=budget)
    assert folder_bytes(tmp_path / "out") == report.details["output_bytes"] <= budget
    opened = open_factored(str(adapter))
    energies = {
        name: np.square(np.linalg.svd(update, compute_uv=False))[:3]
        for name, update in updates_of(adapter).items()
    }

    def kept(ranks: dict[str, int]) -> float:
        return float(sum(energies[name][:rank].sum() for name, rank in ranks.items()))

    def takes(ranks: dict[str, int]) -> int:
        return ResizedAdapter(opened, ResizeOptions(budget=budget), ranks, report.version).most_bytes()

    every = (dict(zip(energies, ranks, strict=True)) for ranks in product(range(4), repeat=3) if any(ranks))
    best = max(kept(ranks) for ranks in every if takes(ranks) <= budget)
    found = {row.name: row.rank for row in report.modules or ()}
    left = [energies[name][rank] for name, rank in found.items() if rank < 3]
    assert kept(found) <= best + 1e-9
    assert best <= kept(found) + max(left, default=0.0), "no more than one triplet is lost"
    larger = resize(adapter, tmp_path / "more", budget=budget + 4000)
    assert larger.details["energy"] >= report.details["energy"] - 1e-12


def test_a_budget_counts_every_file_and_says_what_the_least_is(tmp_path: Path) -> None:
    adapter = write_adapter(
        tmp_path / "in",
        random_factors(SMALL),
        more={"lm_head.weight": torch.ones(10, 10)},
        modules_to_save=["lm_head"],
    )
    (adapter / "tokenizer.json").write_text("x" * 3000)
    (adapter / "tokenizer_config.json").write_text("{}")
    with pytest.raises(
        LoratoolsError, match=r"holds no factors: the smallest output takes ([\d,]+)"
    ) as caught:
        resize(adapter, tmp_path / "out", budget=5_000)
    least = int(str(caught.value).split("takes ")[1].split(";")[0].replace(",", ""))
    report = resize(adapter, tmp_path / "out", budget=least)
    assert folder_bytes(tmp_path / "out") <= least
    assert sorted(row.rank for row in report.modules or ()) == [0, 0, 1]
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "x" * 3000
    with pytest.raises(LoratoolsError, match="holds no factors"):
        resize(adapter, tmp_path / "other", budget=least - 1000)


def test_a_budget_for_all_of_it_changes_nothing(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "in", random_factors(SMALL), alpha=7)
    report = resize(adapter, tmp_path / "out", budget="1MB")
    assert "nothing was cut: the factors are as they were" in report.warnings
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["lora_alpha"] == 7


def test_modules_that_a_budget_leaves_out_are_no_targets_any_more(tmp_path: Path) -> None:
    factors = random_factors(SMALL)
    A, B = factors["model.layers.0.mlp.up_proj"]
    factors["model.layers.0.mlp.up_proj"] = 1e-3 * A, B
    adapter = write_adapter(tmp_path / "in", factors)
    report = resize(adapter, tmp_path / "out", budget=16_500)
    assert any("up_proj: no factors, since the budget" in line for line in report.warnings)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(name for name in SMALL if "up_proj" not in name)
    fates = {row.tensor: row.action.value for row in report.coverage or ()}
    assert fates["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"] == "dropped"


def test_a_convolution_is_a_matrix(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    kernels = {"conv1": (3,), "conv2": (3, 2), "point": (1, 1), "conv3": (2, 2, 2)}
    factors = {
        f"net.{name}": (
            torch.randn((4, 5, *kernel), generator=generator),
            torch.randn((6, 4, *[1] * len(kernel)), generator=generator),
        )
        for name, kernel in kernels.items()
    }
    adapter = write_adapter(tmp_path / "in", factors, alpha=2)
    resize(adapter, tmp_path / "out", rank=2)
    before, after = updates_of(adapter), updates_of(tmp_path / "out")
    held = load_file(tmp_path / "out" / WEIGHTS)
    for name, kernel in kernels.items():
        wanted = truncated(before[f"net.{name}"], 2)
        assert np.linalg.norm(after[f"net.{name}"] - wanted) < 1e-6 * np.linalg.norm(wanted)
        assert held[f"base_model.model.net.{name}.lora_A.weight"].shape == (2, 5, *kernel)
        assert held[f"base_model.model.net.{name}.lora_B.weight"].shape == (6, 2, *[1] * len(kernel))


def test_what_is_no_pair_goes_along_and_is_named(tmp_path: Path) -> None:
    more = {
        "lm_head.weight": torch.randn(12, 8),
        "model.norm.weight": torch.randn(8),
        f"{MODULE}.base_layer.bias": torch.randn(8),
        "model.embed_tokens.token_adapter.trainable_tokens_delta": torch.randn(2, 8),
    }
    adapter = write_adapter(
        tmp_path / "in",
        random_factors({MODULE: (8, 8, 4)}),
        more=more,
        modules_to_save=["lm_head", "norm"],
        trainable_token_indices=[3, 1],
        bias="lora_only",
    )
    report = resize(adapter, tmp_path / "out", rank=2)
    held = load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(held[f"base_model.model.{key}"], value) for key, value in more.items())
    saved = {
        row.tensor.removeprefix("base_model.model.")
        for row in report.coverage or ()
        if row.action.value == "saved"
    }
    assert saved == set(more)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["bias"], config["trainable_token_indices"]) == ("lora_only", [3, 1])
    assert config["modules_to_save"] == ["lm_head", "norm"]


def test_a_bias_beside_b_takes_the_scaling_that_the_factors_lose(tmp_path: Path) -> None:
    bias = torch.randn(8)
    adapter = write_adapter(
        tmp_path / "in",
        random_factors({MODULE: (8, 8, 4)}),
        alpha=6,
        more={f"{MODULE}.lora_B.bias": bias},
        lora_bias=True,
    )
    key = f"base_model.model.{MODULE}.lora_B.bias"
    resize(adapter, tmp_path / "cut", rank=2)
    assert torch.equal(load_file(tmp_path / "cut" / WEIGHTS)[key], 1.5 * bias)
    resize(adapter, tmp_path / "kept", rank=4)
    assert torch.equal(load_file(tmp_path / "kept" / WEIGHTS)[key], bias)


def test_dora_is_kept_whole_or_refused(tmp_path: Path) -> None:
    adapter = write_adapter(
        tmp_path / "in",
        random_factors({MODULE: (8, 8, 4)}),
        more={f"{MODULE}.lora_magnitude_vector": torch.rand(8) + 1},
        use_dora=True,
    )
    with pytest.raises(
        LoratoolsError, match="DoRA cannot be cut from rank 4 to 2: its magnitudes go with the norm"
    ):
        resize(adapter, tmp_path / "out", rank=2)
    assert not (tmp_path / "out").exists()
    resize(adapter, tmp_path / "out", rank=4)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["use_dora"] is True


def test_the_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    adapter = sample.path("lora-r8")
    for how in ({"rank": 3}, {"energy": 0.8}, {"budget": 90_000}):
        for workers in (1, 3):
            resize(adapter, tmp_path / str(workers), workers=workers, force=True, **how)
        one, three = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "13")
        assert one == three


def test_the_provenance_names_the_input_and_keeps_what_is_known_of_the_base(tmp_path: Path) -> None:
    tensors = decoder()
    base = write_decoder(tmp_path / "base", tensors)
    tuned = write_decoder(
        tmp_path / "tuned",
        {
            name: value + 0.1 * torch.randn_like(value) if "proj" in name else value
            for name, value in tensors.items()
        },
    )
    extract(base, tuned, tmp_path / "adapter", rank=4)
    resize(tmp_path / "adapter", tmp_path / "out", rank=2)
    record, before = read_provenance(tmp_path / "out"), read_provenance(tmp_path / "adapter")
    assert record is not None and before is not None
    assert [one.role for one in record.inputs] == ["base", "adapter"]
    assert record.inputs[0] == before.inputs[0]
    assert record.inputs[1].tensors == before.tensors
    assert record.options == {"rank": 2, "energy": None, "budget": None}
    other = write_decoder(tmp_path / "other", decoder(seed=5))
    with pytest.raises(LoratoolsError, match=r"another base|other base"):
        merge(other, [tmp_path / "out"], tmp_path / "merged")


def test_a_rank_above_what_is_there_is_said(tmp_path: Path) -> None:
    adapter = write_adapter(
        tmp_path / "in", random_factors({MODULE: (8, 8, 4), "model.layers.0.fc": (8, 8, 4)})
    )
    report = resize(adapter, tmp_path / "out", rank=9)
    assert any(
        "q_proj" in line or "fc and 1 more: rank 9 is more than the factors have" in line
        for line in report.warnings
    )


SQUARE = {MODULE: (8, 8, 4)}
HUGE = torch.full((4, 4), 6e4).half()


def holding(*, alpha: float | None = None, **parts: Any) -> Callable[[Path], Path]:
    """Writes an adapter of factors (by default good ones), further keys and config fields."""
    factors = parts.pop("factors", random_factors(SQUARE))
    return lambda folder: write_adapter(folder, factors, alpha=alpha, **parts)


SAVED = {"more": {"lm_head.weight": torch.ones(4, 4)}, "modules_to_save": ["lm_head"]}
REFUSED = {
    "not finite": (
        holding(factors={MODULE: (torch.full((2, 4), torch.nan), torch.ones(4, 2))}),
        "values are NaN or infinite",
    ),
    "half a pair": (holding(factors={}, more={f"{MODULE}.lora_A.weight": torch.ones(4, 4)}), "has no lora_B"),
    "pissa": (holding(init_lora_weights="pissa"), "PiSSA .* cannot be resized or combined"),
    "loha": (holding(peft_type="LOHA"), "LoHa cannot be resized or combined"),
    "no factors": (holding(factors={}, **SAVED), "no low-rank factors"),
    "groups": (
        holding(factors={MODULE: (torch.ones(4, 2, 3), torch.ones(8, 2, 1))}),
        "a convolution with groups",
    ),
    "too large": (holding(factors={MODULE: (HUGE, HUGE.clone())}, alpha=4e6), "do not fit into float16"),
}


@pytest.mark.parametrize(("make", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(make: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(LoratoolsError, match=says):
        resize(make(tmp_path / "in"), tmp_path / "out", rank=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "how",
    [{}, {"rank": 2, "energy": 0.5}, {"rank": 0}, {"energy": 0.0}, {"energy": 1.5}, {"budget": "much"}],
    ids=str,
)
def test_how_much_is_said_once(how: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        resize("loratools-sample/lora-r4", tmp_path / "out", **how)


def test_a_cut_adapter_merges_as_its_update(tmp_path: Path) -> None:
    tensors = decoder()
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "in", lora_factors(tensors, rank=6), alpha=12)
    resize(adapter, tmp_path / "out", rank=3)
    merge(base, [tmp_path / "out"], tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, update in updates_of(adapter).items():
        wanted = tensors[f"{name}.weight"].double().numpy() + truncated(update, 3)
        assert np.abs(merged[f"{name}.weight"].double().numpy() - wanted).max() < 1e-6


def test_no_budget_is_exceeded_however_long_the_figures_are(tmp_path: Path) -> None:
    shapes = {f"model.layers.{at}.self_attn.q_proj": (7, 6, 6) for at in range(24)}
    adapter = write_adapter(tmp_path / "in", random_factors(shapes))
    resize(adapter, tmp_path / "whole", rank=6)
    whole = folder_bytes(tmp_path / "whole")
    for budget in range(whole - 7500, whole + 800, 331):
        resize(adapter, tmp_path / "out", budget=budget, force=True)
        assert budget - 2500 < folder_bytes(tmp_path / "out") <= budget
