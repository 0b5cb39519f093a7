"""What adapters amplify in their base, against dense products and real PEFT."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

import loratools
from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from fixtures.pairs import tiny
from fixtures.peft_models import TIED_CASES, TiedCase, make_adapter, save_base, tiny_llama
from loratools.engine.coverage import Action
from loratools.errors import LoratoolsError
from loratools.reports.analysis import Amplification
from loratools.reports.report import Report


def rows_of(report: Report) -> dict[tuple[str, str, int], Amplification]:
    return {(row.module, row.reference, row.rank): row for row in report.details["amplification"]}


def dense_projection(W: np.ndarray, delta: np.ndarray, rank: int) -> float:
    U, _, Vh = np.linalg.svd(delta, full_matrices=False)
    return float(np.linalg.norm(U[:, :rank].T @ W @ Vh[:rank].T))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_adapters_on_one_base(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = decoder(dtype=dtype)
    base = write_decoder(tmp_path / "base", tensors)
    adapters = {}
    for name, rank, modules in (("small", 2, ["q_proj"]), ("large", 5, ["q_proj", "up_proj"])):
        factors = lora_factors(tensors, rank=rank, seed=rank, modules=modules)
        adapters[str(write_adapter(tmp_path / name, factors, alpha=3.0 * rank))] = factors
    report = loratools.analyze([base, *adapters], ranks=[1, 2, 4])
    rows = rows_of(report)
    assert len(rows) == 3 * sum(len(factors) for factors in adapters.values())
    for (module, reference, rank), row in rows.items():
        W = tensors[f"{module}.weight"].double().numpy()
        A, B = (factor.double().numpy() for factor in adapters[reference][module])
        delta = 3.0 * B @ A
        assert row.norm_delta == pytest.approx(np.linalg.norm(delta))
        assert row.norm_W == pytest.approx(np.linalg.norm(W))
        own = np.linalg.norm(np.linalg.svd(W, compute_uv=False)[:rank])
        assert row.projected["weight"] == pytest.approx(own, rel=0.01)
        assert row.projected["random"] == pytest.approx(rank * row.norm_W / math.sqrt(W.size))
        if rank > len(A):
            assert (row.factor, row.reason) == (None, "the delta has only 2 directions")
        else:
            projected = dense_projection(W, delta, rank)
            assert row.projected["delta"] == pytest.approx(projected, rel=1e-5)
            assert row.factor == pytest.approx(row.norm_delta / projected, rel=1e-5)
    json.dumps(report.to_json(), allow_nan=False)


def test_a_base_large_enough_for_a_krylov_space(tmp_path: Path) -> None:
    tensors = decoder(layers=1, hidden=700, ffn=900, dtype=torch.bfloat16)
    kept = ("up_proj", "embed_tokens", "lm_head")
    tensors = {name: value for name, value in tensors.items() if any(part in name for part in kept)}
    factors = lora_factors(tensors, rank=3, modules=["up_proj"])
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", factors)
    ((key, (A, B)),) = factors.items()
    W = tensors[f"{key}.weight"].double().numpy()
    values = np.linalg.svd(W, compute_uv=False)
    for rank, row in enumerate(
        loratools.analyze([base, adapter], ranks=[1, 2, 3]).details["amplification"], 1
    ):
        truth = dense_projection(W, B.double().numpy() @ A.double().numpy(), rank)
        assert row.projected["delta"] == pytest.approx(truth, rel=0.01)
        assert row.projected["weight"] == pytest.approx(np.linalg.norm(values[:rank]), rel=0.01)
        assert row.projected["weight"] != pytest.approx(np.linalg.norm(values[:rank]), rel=1e-9)


def test_equal_singular_values_of_a_product_are_a_cluster(tmp_path: Path) -> None:
    tensors = decoder(layers=1, hidden=32)
    generator = torch.Generator().manual_seed(0)
    module = "model.layers.0.self_attn.q_proj"
    A, B = (torch.linalg.qr(torch.randn(32, 3, generator=generator))[0] for _ in range(2))
    adapter = write_adapter(tmp_path / "adapter", {module: (A.T.contiguous(), B)})
    report = loratools.analyze([write_decoder(tmp_path / "base", tensors), adapter], ranks=[1, 2, 3])
    one, two, three = report.details["amplification"]
    assert one.factor is two.factor is None
    assert "singular values 1 and 2 (1 and 1)" in one.reason
    assert three.reason is None and three.factor is not None


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora", "conv1d", "embedding"])
def test_what_peft_adds(kind: str, tmp_path: Path) -> None:
    """The difference that PEFT's own merge makes."""
    family = "gpt2" if kind == "conv1d" else "llama"
    targets = {"conv1d": ["c_attn", "c_proj"], "embedding": ["embed_tokens"]}.get(
        kind, ["q_proj", "down_proj"]
    )
    settings = {"dora": {"use_dora": True}, "rslora": {"use_rslora": True}}.get(kind, {})
    model = tiny(family)
    model.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    tuned = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=3, lora_alpha=6, target_modules=targets, fan_in_fan_out=kind == "conv1d", **settings
        ),
    )
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    tuned.save_pretrained(tmp_path / "adapter")
    tuned.merge_and_unload().save_pretrained(tmp_path / "merged")
    report = loratools.analyze([tmp_path / "base", tmp_path / "adapter"], ranks=[1, 2])
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    rows = rows_of(report)
    assert {module for module, _, _ in rows} == {name.removesuffix(".weight") for name in changed}
    for (module, _, rank), row in rows.items():
        W = before[f"{module}.weight"].double().numpy()
        delta = after[f"{module}.weight"].double().numpy() - W
        assert row.norm_delta == pytest.approx(np.linalg.norm(delta), rel=1e-4)
        assert row.projected["delta"] == pytest.approx(dense_projection(W, delta, rank), rel=1e-3)
    assert report.coverage is not None
    dropped = [row for row in report.coverage if row.action is Action.DROPPED]
    assert not dropped


def test_every_tensor_of_every_input_is_covered(tmp_path: Path) -> None:
    tensors = decoder(tied=True)
    base = write_decoder(tmp_path / "base", tensors)
    factors = lora_factors(tensors, modules=["q_proj"])
    more = {"model.norm.weight": torch.ones(32)}
    adapter = write_adapter(tmp_path / "adapter", factors, more=more, modules_to_save=["norm"])
    for dry in (False, True):
        report = loratools.analyze([base, adapter], dry_run=dry)
        assert report.coverage is not None
        fates = {(row.input, row.tensor): (row.action, row.reason) for row in report.coverage}
        keys = load_file(adapter / "adapter_model.safetensors")
        assert fates.keys() == {("base", name) for name in tensors} | {("adapter", key) for key in keys}
        assert fates["base", "model.layers.0.self_attn.q_proj.weight"][0] is Action.COMPARED
        assert fates["base", "model.norm.weight"][0] is Action.UNCHANGED
        saved = next(key for key in keys if "norm" in key)
        assert fates["adapter", saved] == (Action.DROPPED, "held in full: it has no factors")


def test_a_base_that_is_not_finite_and_an_adapter_of_another(tmp_path: Path) -> None:
    tensors = decoder()
    factors = lora_factors(tensors, modules=["q_proj"])
    adapter = write_adapter(tmp_path / "adapter", factors)
    name = "model.layers.1.self_attn.q_proj.weight"
    broken = {**tensors, name: tensors[name].clone().fill_(float("inf"))}
    with pytest.raises(LoratoolsError, match="1024 of 1024 values are NaN or infinite"):
        loratools.analyze([write_decoder(tmp_path / "broken", broken), adapter])
    with pytest.raises(LoratoolsError, match="find no tensor in the base"):
        loratools.analyze([write_decoder(tmp_path / "shallow", decoder(layers=1)), adapter])


def stored_factors(adapter: Path, module: str) -> tuple[np.ndarray, np.ndarray]:
    """(A, B) of a module's low-rank update as (rank, in) and (out, rank), times nothing."""
    held = {
        key.removeprefix("base_model.model."): value.double().numpy()
        for key, value in load_file(adapter / "adapter_model.safetensors").items()
    }
    if f"{module}.lora_embedding_A" in held:
        return held[f"{module}.lora_embedding_B"].T, held[f"{module}.lora_embedding_A"].T
    return held[f"{module}.lora_A.weight"], held[f"{module}.lora_B.weight"]


@pytest.mark.parametrize("case", TIED_CASES, ids=lambda case: case.name)
def test_every_kind_of_adapter_on_a_tied_model(case: TiedCase, tmp_path: Path) -> None:
    base = save_base(tiny_llama(tied=True), tmp_path / "base")
    make_adapter(tiny_llama(tied=True), tmp_path / "adapter", save=case.save, **case.options)
    report = loratools.analyze([base, tmp_path / "adapter"], ranks=[1, 2])
    modules = {row.module for row in report.details["amplification"]}
    assert {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"} <= modules
    on_the_tie = {"embedding": "model.embed_tokens", "head": "lm_head", "kept tied": "model.embed_tokens"}
    if case.name in on_the_tie:
        assert on_the_tie[case.name] in modules
    fates = {row.tensor: row for row in report.coverage if row.input == "base"}
    touched = bool({"lm_head", "model.embed_tokens"} & modules)
    assert (fates["model.embed_tokens.weight"].action is Action.COMPARED) == touched


def test_a_tied_heads_update_is_held_against_the_shared_tensor(tmp_path: Path) -> None:
    """Of an adapter on both sides each has its own update, of the one tensor that the base holds."""
    case = next(case for case in TIED_CASES if case.name == "both")
    base = save_base(tiny_llama(tied=True), tmp_path / "base")
    make_adapter(tiny_llama(tied=True), tmp_path / "adapter", **case.options)
    W = load_file(base / "model.safetensors")["model.embed_tokens.weight"].double().numpy()
    rows = rows_of(loratools.analyze([base, tmp_path / "adapter"], ranks=[1, 2]))
    for module in ("lm_head", "model.embed_tokens"):
        A, B = stored_factors(tmp_path / "adapter", module)
        delta = 2.0 * B @ A  # alpha 8, r 4
        for rank in (1, 2):
            row = rows[module, str(tmp_path / "adapter"), rank]
            assert row.norm_W == pytest.approx(np.linalg.norm(W))
            assert row.norm_delta == pytest.approx(np.linalg.norm(delta))
            assert row.projected["delta"] == pytest.approx(dense_projection(W, delta, rank), rel=1e-4)
