"""A base beside its fine-tune, against dense float64 computations."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from fixtures.lora_files import decoder, exact_sum, lora_factors, write_adapter, write_decoder
from fixtures.pairs import SavedPair, add_low_rank, save_pair, tiny, write_checkpoint
from fixtures.spectra import matrix_of
from loratools.engine.coverage import Action
from loratools.errors import LoratoolsError
from loratools.reports.analysis import Amplification
from loratools.reports.report import Report

RANKS = (1, 2, 3, 4, 6, 7, 8)
SIDE = 480
MODULE = "model.layers.0.self_attn.q_proj"
NOISE = [0.004 * (1 - k / SIDE) for k in range(SIDE - 12)]
SPECTRA = {
    "powers": [1 / k for k in range(1, SIDE + 1)],
    "slow powers": [k**-0.3 for k in range(1, SIDE + 1)],
    "equal": [9.0, 8.0, 5.0, 5.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.2, *NOISE],
    "nearly equal": [9.0, 8.98, 7.0, 6.98, 5.0, 4.99, 4.0, 3.999, 2.0, 1.0, 0.5, 0.2, *NOISE],
    "rank 4": [4.0, 3.0, 2.0, 1.0],
}
UNDEFINED = {"equal": {3, 4}, "rank 4": {6, 7, 8}}


def write_pair(
    folder: Path, delta: torch.Tensor, dtype: torch.dtype = torch.float32, *, name: str = MODULE
) -> SavedPair:
    """One linear layer, W and W + delta."""
    generator = torch.Generator().manual_seed(9)
    weight = 0.02 * torch.randn(delta.shape, generator=generator, dtype=torch.float64)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    pair = SavedPair(folder / "base", folder / "tuned")
    write_checkpoint(pair.base, {f"{name}.weight": weight.to(dtype)}, config)
    write_checkpoint(pair.tuned, {f"{name}.weight": (weight + delta).to(dtype)}, config)
    return pair


def dense(pair: SavedPair, name: str = f"{MODULE}.weight") -> tuple[np.ndarray, np.ndarray]:
    """(W, tuned - W) in float64, as stored."""
    base, tuned = (load_file(side / "model.safetensors")[name].double() for side in (pair.base, pair.tuned))
    return base.numpy(), (tuned - base).numpy()


def exact_amplification(W: np.ndarray, delta: np.ndarray, rank: int) -> dict[str, float]:
    found = {}
    for key, matrix in (("delta", delta), ("weight", W)):
        U, _, Vh = np.linalg.svd(matrix, full_matrices=False)
        found[key] = float(np.linalg.norm(U[:, :rank].T @ W @ Vh[:rank].T))
    return found


def amplification(report: Report) -> dict[int, Amplification]:
    return {row.rank: row for row in report.details["amplification"]}


def check_amplification(pair: SavedPair, ranks: Sequence[int], undefined: set[int]) -> None:
    W, delta = dense(pair)
    rows = amplification(loratools.analyze([pair.base, pair.tuned], ranks=ranks))
    assert list(rows) == list(ranks)
    for rank, row in rows.items():
        truth = exact_amplification(W, delta, rank)
        assert row.norm_W == pytest.approx(np.linalg.norm(W), rel=1e-5)
        assert row.norm_delta == pytest.approx(np.linalg.norm(delta), rel=1e-5)
        assert row.projected["weight"] == pytest.approx(truth["weight"], rel=0.01)
        assert row.projected["random"] == pytest.approx(rank * row.norm_W / math.sqrt(W.size))
        if rank in undefined:
            assert row.projected["delta"] is None and row.factor is None
            assert row.reason is not None
        else:
            assert row.reason is None, row
            assert row.projected["delta"] == pytest.approx(truth["delta"], rel=0.01)
            assert row.factor == pytest.approx(np.linalg.norm(delta) / truth["delta"], rel=0.01)


@pytest.mark.parametrize("shape", [(SIDE + 200, SIDE), (SIDE, SIDE + 200)], ids=["tall", "wide"])
@pytest.mark.parametrize("name", SPECTRA)
def test_amplification_by_truncated_decompositions(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    """In float32, where rounding reaches no further than to make equal values differ a little."""
    pair = write_pair(tmp_path, matrix_of(SPECTRA[name], shape))
    check_amplification(pair, RANKS, UNDEFINED.get(name, set()))


@pytest.mark.parametrize("name", ["powers", "equal"])
def test_amplification_in_bfloat16(name: str, tmp_path: Path) -> None:
    """Rounding of W is noise of 0.003 an entry here, so that what is nearer than that is not told apart."""
    pair = write_pair(tmp_path, 10.0 * matrix_of(SPECTRA[name], (600, SIDE)), torch.bfloat16)
    check_amplification(pair, RANKS, UNDEFINED.get(name, set()))


@pytest.mark.parametrize("side", [40, 150])
def test_amplification_of_small_matrices(side: int, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, matrix_of([8.0, 3.0, 3.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3], (side + 20, side)))
    check_amplification(pair, RANKS, {2, 3})


def test_amplification_of_figures_that_are_small_beside_the_weight(tmp_path: Path) -> None:
    """A delta in directions that W hardly has: U'WV is 1e-6 of what random directions give."""
    pair = write_pair(tmp_path, torch.zeros(500, SIDE, dtype=torch.float64))
    file = pair.base / "model.safetensors"
    weight = load_file(file)[f"{MODULE}.weight"].double()
    weight[:, :2] *= 1e-7
    delta = torch.zeros_like(weight)
    delta[0, 0], delta[1, 1] = 2.0, 1.0
    for folder, value in ((pair.base, weight), (pair.tuned, weight + delta)):
        save_file({f"{MODULE}.weight": value.float()}, folder / "model.safetensors")
    check_amplification(pair, (1, 2), set())


def test_weights_stored_transposed_have_the_same_figures(tmp_path: Path) -> None:
    """GPT-2's Conv1D: a square weight, (in, out); the sides of the overlap tell which is which."""
    model = tiny("gpt2", n_embd=32)
    pair = save_pair(tmp_path, model, add_low_rank)
    report = loratools.analyze([pair.base, pair.tuned], ranks=[2, 4])
    name = next(name for name in load_file(pair.base / "model.safetensors") if "0.attn.c_attn.weight" in name)
    W, delta = dense(pair, name)
    rows = [row for row in report.details["amplification"] if row.module.endswith("h.0.attn.c_attn")]
    for row in rows:
        assert row.projected["delta"] == pytest.approx(
            exact_amplification(W, delta, row.rank)["delta"], rel=0.01
        )
    assert [row.rank for row in rows] == [2, 4]


def test_spectra_and_the_share_of_energy(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, matrix_of(SPECTRA["slow powers"], (600, SIDE)))
    _, delta = dense(pair)
    values = np.linalg.svd(delta, compute_uv=False)
    energy = np.cumsum(values**2) / np.sum(values**2)
    for spectrum, complete in (("leading", False), ("full", True)):
        report = loratools.analyze(
            [pair.base, pair.tuned], ranks=RANKS, spectrum=spectrum, amplification=False
        )
        (row,) = report.details["spectra"]
        assert report.details.get("amplification", ()) == ()
        assert row.complete is complete and row.smaller_side == SIDE
        assert row.reference == str(pair.tuned) and row.module == MODULE
        np.testing.assert_allclose(row.singular_values[:8], values[:8], rtol=1e-3)
        np.testing.assert_allclose(row.singular_values[8:], values[8 : len(row.singular_values)], rtol=0.01)
        given = np.square(row.singular_values)
        missed = (np.sum(values[: given.size] ** 2) - np.sum(given)) / np.sum(values**2)
        assert missed <= row.energy_error + 1e-7 and np.all(given <= values[: given.size] ** 2 * (1 + 1e-5))
        assert (0.0 < row.energy_error < 1e-3) if not complete else row.energy_error < 1e-7
        assert row.energy_at_rank == pytest.approx({str(rank): energy[rank - 1] for rank in RANKS}, rel=2e-3)
    shares = values / values.sum()
    assert row.effective_rank == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-5)
    assert row.rank_at_energy["0.9"] == int(np.argmax(energy >= 0.9)) + 1


def test_workers_and_other_modules_change_nothing(tmp_path: Path) -> None:
    pair = save_pair(tmp_path, tiny("llama", hidden_size=64), add_low_rank)
    one, two = (loratools.analyze([pair.base, pair.tuned], workers=count) for count in (1, 3))
    assert one.details == two.details
    assert one.details["spectra"]


def small_pair(folder: Path, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    before = decoder(tied=tied, dtype=dtype)
    after = {name: value.clone() for name, value in before.items()}
    for module, (A, B) in lora_factors(before).items():
        after[f"{module}.weight"] = (before[f"{module}.weight"].double() + B.double() @ A.double()).to(dtype)
    return before, after


def analyzed(folder: Path, before: Any, after: Any, *more: Path, **options: Any) -> Report:
    base, tuned = write_decoder(folder / "base", before), write_decoder(folder / "tuned", after)
    return loratools.analyze([base, tuned, *more], **options)


def test_movement_of_every_tensor(tmp_path: Path) -> None:
    before, after = small_pair(tmp_path)
    after["model.norm.weight"] = before["model.norm.weight"] + 0.5
    report = analyzed(tmp_path, before, after)
    rows = {row.module: row for row in report.details["movement"]}
    assert rows.keys() == {name.removesuffix(".weight") for name in before}
    for name, value in before.items():
        row = rows[name.removesuffix(".weight")]
        moved = float((after[name].double() - value.double()).norm())
        assert row.norm_delta == pytest.approx(moved, rel=1e-6, abs=1e-12)
        assert row.norm_base == pytest.approx(float(value.double().norm()), rel=1e-6)
        assert row.relative == pytest.approx(moved / float(value.double().norm()), rel=1e-6, abs=1e-12)
        assert row.shape == tuple(value.shape)
    assert rows["model.layers.1.self_attn.q_proj"].layer == 1


def test_tokens_that_moved_most(tmp_path: Path) -> None:
    before, after = small_pair(tmp_path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        after[name] = before[name].clone()
    after["model.embed_tokens.weight"][7] += 0.5
    after["model.embed_tokens.weight"][3] -= 1.0
    after["lm_head.weight"][5] += 0.25
    report = analyzed(tmp_path, before, after)
    rows = report.details["tokens"]
    assert [(row.module, row.index, row.text) for row in rows] == [
        ("lm_head", 5, None),
        ("model.embed_tokens", 3, None),
        ("model.embed_tokens", 7, None),
    ]
    assert rows[1].norm == pytest.approx(32**0.5)
    assert rows[1].relative == pytest.approx(32**0.5 / float(before["model.embed_tokens.weight"][3].norm()))


def test_grown_shrunken_and_one_sided_tensors_are_named(tmp_path: Path) -> None:
    before, after = small_pair(tmp_path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        after[name] = torch.cat([before[name], torch.ones(5, 32)])
    after["lm_head.weight"] = before["lm_head.weight"][:-3].clone()
    after["score.weight"] = torch.randn(2, 32)
    before["model.layers.0.extra.weight"] = torch.randn(8)
    after["model.layers.0.input_layernorm.weight"] = torch.randn(16)
    report = analyzed(tmp_path, before, after)
    assert report.coverage is not None
    fates = {(row.input, row.tensor): (row.action, row.reason) for row in report.coverage}
    assert fates.keys() == {("base", name) for name in before} | {("tuned", name) for name in after}
    assert fates["tuned", "model.embed_tokens.weight"][0] is Action.COMPARED
    assert "rows that both have" in fates["tuned", "model.embed_tokens.weight"][1]
    assert fates["base", "lm_head.weight"][0] is Action.COMPARED
    assert fates["tuned", "score.weight"] == (Action.DROPPED, "a head that only tuned has")
    assert fates["base", "model.layers.0.extra.weight"] == (Action.DROPPED, "only base has it")
    assert "shapes differ" in fates["tuned", "model.layers.0.input_layernorm.weight"][1]
    assert fates["tuned", f"{MODULE}.weight"][0] is Action.FACTORED
    rows = {row.module: row for row in report.details["movement"]}
    assert rows["model.embed_tokens"].norm_delta == 0.0
    planned = loratools.analyze([tmp_path / "base", tmp_path / "tuned"], dry_run=True)
    assert planned.coverage == report.coverage


def test_nothing_changed(tmp_path: Path) -> None:
    before, _ = small_pair(tmp_path)
    report = analyzed(tmp_path, before, before, ranks=[2])
    for row in report.details["amplification"]:
        assert (row.norm_delta, row.factor, row.projected["delta"]) == (0.0, None, None)
        assert row.reason == "the delta is zero" and row.projected["weight"] is not None
    for spectrum in report.details["spectra"]:
        assert (spectrum.norm, spectrum.noise_rank) == (0.0, 0)
        assert set(spectrum.singular_values) == {0.0}
    assert report.details["tokens"] == ()
    json.dumps(report.to_json(), allow_nan=False)


def test_a_fine_tune_that_is_only_base_rounded(tmp_path: Path) -> None:
    before, _ = small_pair(tmp_path)
    report = analyzed(tmp_path, before, {name: value.bfloat16() for name, value in before.items()})
    assert any("tuned is base rounded to its dtype" in line for line in report.warnings)
    assert all(row.norm > 0.0 and not row.noise_rank for row in report.details["spectra"])
    assert all(row.reason == "tuned is base rounded to bfloat16" for row in report.details["amplification"])


def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    before, after = small_pair(tmp_path)
    for name in (f"{MODULE}.weight", "model.norm.weight"):
        broken = {key: value.clone() for key, value in after.items()}
        broken[name].view(-1)[3] = float("nan")
        with pytest.raises(LoratoolsError, match=r"1 of .* values are NaN or infinite") as caught:
            analyzed(tmp_path / name, before, broken)
        assert caught.value.tensor == name


def test_buffers_may_be_infinite(tmp_path: Path) -> None:
    pair = save_pair(tmp_path, tiny("gpt2"), add_low_rank)
    for folder in (pair.base, pair.tuned):
        tensors = load_file(folder / "model.safetensors")
        prefix = next(name for name in tensors if "c_attn" in name).partition("h.")[0]
        tensors[f"{prefix}h.0.attn.masked_bias"] = torch.tensor(float("-inf"))
        save_file(tensors, folder / "model.safetensors")
    report = loratools.analyze([pair.base, pair.tuned])
    assert report.coverage is not None
    (reason, *_) = [row.reason for row in report.coverage if row.tensor.endswith("masked_bias")]
    assert "recomputed" in reason


def test_adapters_beside_the_change(tmp_path: Path) -> None:
    """Shares, cosines and residuals, against projectors made dense."""
    before, after = small_pair(tmp_path)
    generator = torch.Generator().manual_seed(4)
    for name in after:
        if name.endswith("proj.weight"):
            after[name] = after[name] + 0.01 * torch.randn(after[name].shape, generator=generator)
    factors = lora_factors(before, rank=3, seed=1)
    adapter = write_adapter(tmp_path / "adapter", factors, alpha=6.0)
    report = analyzed(tmp_path, before, after, adapter, ranks=[2, 5])
    rows = {row.module: row for row in report.details["overlap"]}
    assert rows.keys() == factors.keys()
    for module, row in rows.items():
        A, B = (factor.double().numpy() for factor in factors[module])
        delta = (after[f"{module}.weight"].double() - before[f"{module}.weight"].double()).numpy()
        update = 2.0 * B @ A
        U, values, Vh = np.linalg.svd(delta)
        norm = np.linalg.norm(delta)
        spans = {"A": (np.linalg.qr(A.T)[0], Vh.T), "B": (np.linalg.qr(B)[0], U)}
        for side, (basis, directions) in spans.items():
            held = [
                np.linalg.norm(basis.T @ directions[:, :i]) ** 2 / i
                for i in range(1, len(row.held[side]) + 1)
            ]
            assert row.held[side] == pytest.approx(held, abs=1e-6)
        assert len(row.held["A"]) == 5 and row.rank == 3
        assert row.cosine == pytest.approx(np.sum(delta * update) / norm / np.linalg.norm(update), abs=1e-9)
        u, s, vh = np.linalg.svd(update)
        assert list(row.residual) == list(row.extracted) == ["2", "3", "5"]
        for rank in (2, 3):
            cut = (u[:, :rank] * s[:rank]) @ vh[:rank]
            assert row.residual[str(rank)] == pytest.approx(np.linalg.norm(delta - cut) / norm, rel=1e-9)
        assert row.residual["5"] is None
        for rank in (2, 3, 5):
            best = math.sqrt(np.sum(values[rank:] ** 2)) / norm
            assert row.extracted[str(rank)] == pytest.approx(best, rel=1e-6)
    assert report.coverage is not None
    fates = [row for row in report.coverage if row.input == "adapter"]
    assert len(fates) == 2 * len(factors) and {row.action for row in fates} == {Action.APPLIED}


def test_an_adapter_beside_a_truncated_decomposition(tmp_path: Path) -> None:
    """Where i cuts a cluster no share is told; elsewhere it is right to 0.01."""
    delta = matrix_of(SPECTRA["equal"], (600, SIDE))
    pair = write_pair(tmp_path, delta)
    generator = torch.Generator().manual_seed(2)
    A, B = torch.randn(6, SIDE, generator=generator), torch.randn(600, 6, generator=generator)
    _, _, Vh = np.linalg.svd(dense(pair)[1], full_matrices=False)
    A[:2] += 60.0 * torch.from_numpy(Vh[:2]).float()
    adapter = write_adapter(tmp_path / "adapter", {MODULE: (A, B)})
    report = loratools.analyze([pair.base, pair.tuned, adapter], ranks=[8], amplification=False)
    (row,) = report.details["overlap"]
    basis = np.linalg.qr(A.double().numpy().T)[0]
    held = [np.linalg.norm(basis.T @ Vh[:i].T) ** 2 / i for i in range(1, 9)]
    for i in (1, 2, 6, 7, 8):
        assert row.held["A"][i - 1] == pytest.approx(held[i - 1], abs=0.01)
    assert held[0] > 0.3
    assert row.cosine is not None and abs(row.cosine) < 0.1


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    before, after = small_pair(tmp_path)
    adapter = write_adapter(
        tmp_path / "adapter", {"model.layers.7.self_attn.q_proj": (torch.ones(2, 32), torch.ones(32, 2))}
    )
    with pytest.raises(LoratoolsError, match="find no tensor in the base"):
        analyzed(tmp_path, before, after, adapter)


def test_an_adapter_beside_what_merging_it_makes(tmp_path: Path) -> None:
    """An adapter beside the checkpoint that it was merged into: it holds all of the change."""
    before = decoder(dtype=torch.float64)
    factors = lora_factors(before, rank=4)
    after = exact_sum(before, (factors, 1.0))
    adapter = write_adapter(tmp_path / "adapter", factors)
    report = analyzed(tmp_path, before, after, adapter, ranks=[4])
    for row in report.details["overlap"]:
        assert row.cosine == pytest.approx(1.0)
        assert row.residual["4"] == pytest.approx(0.0, abs=1e-6)
        assert row.held["A"][3] == pytest.approx(1.0) and row.held["B"][3] == pytest.approx(1.0)
