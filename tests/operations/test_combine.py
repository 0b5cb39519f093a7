"""`combine`: cat is the sum of the parts, everything says how far it is from it, and what goes along."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fixtures.adapter_updates import updates_of
from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from loratools import sample
from loratools.adapters.peft_write import WEIGHTS
from loratools.checkpoints.provenance import read_provenance
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.arithmetic.combine_job import CombineJob
from loratools.operations.arithmetic.side_texts import SideTexts
from loratools.operations.arithmetic.stored_factors import Slot
from loratools.operations.combine import combine
from loratools.operations.combine_options import CombineOptions
from loratools.operations.merge import merge
from loratools.operations.resize import resize
from loratools.operations.unmerge import unmerge
from loratools.reports.report import PlannedWork

MODULE = "model.layers.0.self_attn.q_proj"
OTHER = "model.layers.1.self_attn.q_proj"
METHODS: Mapping[str, dict[str, Any]] = {
    "cat": {},
    "svd": {},
    "linear": {},
    "ties": {"density": 0.5},
    "ties_svd": {"density": 0.5},
    "dare_linear": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "magnitude_prune": {"density": 0.5},
}


def write_parts(
    folder: Path, tensors: dict[str, torch.Tensor], *, ranks: tuple[int, ...] = (4, 4)
) -> list[Path]:
    """Adapters of one base, of these ranks, with different alphas; the first lacks a kind of module."""
    return [
        write_adapter(
            folder / f"part {seed}",
            lora_factors(
                tensors, rank=rank, seed=seed, modules=("q_proj", "up_proj") if seed else ("q_proj",)
            ),
            alpha=2 * rank + seed,
        )
        for seed, rank in enumerate(ranks)
    ]


def exact_sum(parts: list[Path], weights: list[float]) -> dict[str, np.ndarray]:
    total: dict[str, np.ndarray] = {}
    for part, weight in zip(parts, weights, strict=True):
        for name, update in updates_of(part).items():
            total[name] = total.get(name, 0.0) + weight * update
    return total


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    weights=st.lists(
        st.floats(-3, 3).filter(lambda weight: not 0 < abs(weight) < 1e-6), min_size=4, max_size=4
    ),
    alphas=st.lists(st.sampled_from([1, 4, -3, 16]), min_size=4, max_size=4),
    rslora=st.booleans(),
)
def test_cat_is_the_weighted_sum(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    ranks: list[int],
    weights: list[float],
    alphas: list[int],
    rslora: bool,
) -> None:
    folder = tmp_path_factory.mktemp("cat")
    generator = torch.Generator().manual_seed(sum(ranks))
    parts = [
        write_adapter(
            folder / str(at),
            {
                MODULE: (
                    torch.randn((rank, shape[1]), generator=generator),
                    torch.randn((shape[0], rank), generator=generator),
                )
            },
            alpha=alpha,
            use_rslora=rslora,
        )
        for at, (rank, alpha) in enumerate(zip(ranks, alphas, strict=False))
    ]
    given = weights[: len(parts)]
    combine(parts, folder / "out", weights=given)
    (found,), (wanted,) = updates_of(folder / "out").values(), exact_sum(parts, given).values()
    size = sum(
        abs(weight) * np.linalg.norm(updates_of(part)[MODULE])
        for part, weight in zip(parts, given, strict=True)
    )
    assert np.linalg.norm(found - wanted) <= 1e-7 * size


def test_all_that_is_written_was_foretold_at_most(tmp_path: Path) -> None:
    factors = lora_factors(decoder())
    both = [write_adapter(tmp_path / name, factors, alpha=8) for name in ("one", "two")]
    told = combine(both, tmp_path / "out", weights=[0.7, -1.3], dry_run=True).details["plan"]
    assert isinstance(told, PlannedWork)
    combine(both, tmp_path / "out", weights=[0.7, -1.3])
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert written <= told.write_bytes <= written + 100 * len(factors)


def test_powers_of_two_leave_the_bits_as_they_are(tmp_path: Path) -> None:
    tensors = decoder()
    bf16 = {name: (A.bfloat16(), B.bfloat16()) for name, (A, B) in lora_factors(tensors).items()}
    one, two = (write_adapter(tmp_path / name, bf16, alpha=alpha) for name, alpha in (("one", 8), ("two", 2)))
    report = combine([one, two], tmp_path / "out", weights=[-0.5, 4.0])
    assert all((row.dtype, row.residual) == ("bfloat16", 0.0) for row in report.modules or ())
    held = load_file(tmp_path / "out" / WEIGHTS)
    A, B = bf16[MODULE]
    assert torch.equal(held[f"base_model.model.{MODULE}.lora_A.weight"], torch.cat([-A, 2 * A]))
    assert torch.equal(held[f"base_model.model.{MODULE}.lora_B.weight"], torch.cat([B, B], dim=1))
    report = combine([one, two], tmp_path / "inexact", weights=[0.7, 0.3])
    assert all(row.dtype == "float32" and 0.0 < row.residual < 1e-7 for row in report.modules or ())


def merged_both_ways(
    folder: Path, dtype: torch.dtype, weights: list[float], alpha: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Each changed weight merged from the parts and from their combination, and what was added to it."""
    tensors = decoder(dtype=dtype)
    base = write_decoder(folder / "base", tensors)
    parts = [
        write_adapter(folder / str(rank), lora_factors(tensors, rank=rank, seed=rank), alpha=alpha * rank)
        for rank in (3, 5, 2)
    ]
    combine(parts, folder / "out", weights=weights)
    merge(base, parts, folder / "apart", weights=weights)
    merge(base, [folder / "out"], folder / "together")
    apart, together = (load_file(folder / name / "model.safetensors") for name in ("apart", "together"))
    assert apart.keys() == together.keys()
    for name, update in exact_sum(parts, weights).items():
        yield apart[f"{name}.weight"].double().numpy(), together[f"{name}.weight"].double().numpy(), update


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_merging_the_combined_adapter_is_merging_the_parts(dtype: torch.dtype, tmp_path: Path) -> None:
    for apart, together, _ in merged_both_ways(tmp_path, dtype, [0.5, -2.0, 1.0], alpha=2):
        assert np.mean(apart != together) <= (1.0 if dtype is torch.float64 else 1e-3)
        unit = 4e-16 if dtype is torch.float64 else 2 * torch.finfo(dtype).eps
        assert np.abs(apart - together).max() <= unit * np.abs(apart).max()


def test_weights_that_are_no_powers_of_two_are_rounded_once(tmp_path: Path) -> None:
    for apart, together, update in merged_both_ways(tmp_path, torch.float64, [0.7, -1.3, 2.1], alpha=3):
        assert 0.0 < np.linalg.norm(apart - together) < 1e-7 * np.linalg.norm(update)


@pytest.mark.parametrize("method", METHODS)
def test_the_distance_from_the_weighted_sum_is_measured(method: str, tmp_path: Path) -> None:
    parts = write_parts(tmp_path, decoder())
    report = combine(parts, tmp_path / "out", method=method, weights=[0.6, -0.9], **METHODS[method])
    found, wanted = updates_of(tmp_path / "out"), exact_sum(parts, [0.6, -0.9])
    assert found.keys() == wanted.keys() == {row.name for row in report.modules or ()}
    for row in report.modules or ():
        distance = np.linalg.norm(found[row.name] - wanted[row.name])
        assert row.norm == pytest.approx(np.linalg.norm(wanted[row.name]), rel=1e-6)
        assert row.residual == pytest.approx(distance / row.norm, rel=1e-3, abs=1e-9)
    missing = sum(np.linalg.norm(found[name] - wanted[name]) ** 2 for name in wanted)
    assert report.details["residual"] ** 2 == pytest.approx(
        missing / sum(np.linalg.norm(update) ** 2 for update in wanted.values()), rel=1e-3, abs=1e-14
    )


def test_svd_is_the_best_of_its_rank_and_full_rank_is_the_sum(tmp_path: Path) -> None:
    parts = write_parts(tmp_path, decoder(), ranks=(3, 6))
    for rank in (2, 9):
        combine(parts, tmp_path / "out", method="svd", rank=rank, weights=[1.5, -0.5], force=True)
        for name, update in exact_sum(parts, [1.5, -0.5]).items():
            U, S, Vh = np.linalg.svd(update, full_matrices=False)
            wanted = (U[:, :rank] * S[:rank]) @ Vh[:rank]
            assert np.linalg.norm(updates_of(tmp_path / "out")[name] - wanted) < 1e-6 * np.linalg.norm(update)


def test_what_cancels_is_said_to_be_zero(tmp_path: Path) -> None:
    part = sample.path("lora-r8")
    report = combine([part, part], tmp_path / "out", weights=[1.0, -1.0])
    assert all(row.residual is None and row.norm == 0.0 for row in report.modules or ())
    assert report.details["residual"] is None
    assert any(line.endswith("the weighted sum is zero") for line in report.warnings)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_what_is_dropped_depends_on_seed_and_module_alone(method: str, tmp_path: Path) -> None:
    tensors = decoder()
    parts = write_parts(tmp_path, tensors)
    fewer = []
    for seed, modules in enumerate((("q_proj",), ("q_proj", "up_proj"))):
        factors = {MODULE: lora_factors(tensors, rank=4, seed=seed, modules=modules)[MODULE]}
        fewer.append(write_adapter(tmp_path / f"fewer {seed}", factors, alpha=8 + seed))

    def held(name: str, adapters: list[Path], **options: Any) -> dict[str, bytes]:
        combine(adapters, tmp_path / name, method=method, density=0.5, **options)
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    one = held("one", parts, workers=1)
    assert one == held("three", parts, workers=3)
    assert one[WEIGHTS] != held("seed", parts, seed=1)[WEIGHTS]
    held("fewer", fewer)
    key = f"base_model.model.{MODULE}.lora_A.weight"
    alone, among = (load_file(tmp_path / name / WEIGHTS)[key] for name in ("fewer", "one"))
    assert torch.equal(alone, among)


def test_every_draw_is_its_own(tmp_path: Path) -> None:
    def drawn(module: str, place: int, side: str, seed: int) -> float:
        options = CombineOptions.of(
            method="dare_linear", density=0.5, rank=None, majority_sign_method="total", seed=seed
        )
        slot = Slot("", "float32", (1, 1), 0)
        return CombineJob(module, (), options, 1, slot, slot).generator(place, side).random()

    every = product((MODULE, OTHER), (0, 1), "AB", (0, 1))
    assert len({drawn(*one) for one in every}) == 16


SAVED = {"more": {"lm_head.weight": torch.arange(12.0).reshape(4, 3)}, "modules_to_save": ["lm_head"]}
CHANGED = {**SAVED, "more": {"lm_head.weight": torch.ones(4, 3)}}
WIDER = {**SAVED, "more": {"lm_head.weight": torch.ones(5, 3)}}
ROWS = {
    "more": {"model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 3)},
    "trainable_token_indices": [1, 5],
}
DORA = {"use_dora": True, "more": {f"{MODULE}.lora_magnitude_vector": torch.ones(4)}}


def small(folder: Path, *, module: str = MODULE, **held: Any) -> Path:
    generator = torch.Generator().manual_seed(len(module))
    factors = {module: (torch.randn((2, 3), generator=generator), torch.randn((4, 2), generator=generator))}
    return write_adapter(folder, factors, **held)


@pytest.mark.parametrize(
    ("first", "second", "weights"),
    [
        (SAVED, {}, [1.0, 0.3]),
        ({}, SAVED, [0.3, 1.0]),
        (SAVED, SAVED, [1.0, 1.0]),
        (SAVED, SAVED, [0.25, 0.75]),
        (ROWS, {}, [1.0, -2.0]),
        (ROWS, ROWS, [1.0, 1.0]),
    ],
    ids=["first", "second", "both", "shares of it", "rows", "rows of both"],
)
def test_what_is_saved_goes_along(
    first: dict[str, Any], second: dict[str, Any], weights: list[float], tmp_path: Path
) -> None:
    report = combine(
        [small(tmp_path / "one", **first), small(tmp_path / "two", **second)],
        tmp_path / "out",
        weights=weights,
    )
    (key, value), *_ = (first or second)["more"].items()
    assert torch.equal(load_file(tmp_path / "out" / WEIGHTS)[f"base_model.model.{key}"], value)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == (first or second).get("modules_to_save")
    assert config.get("trainable_token_indices") == (first or second).get("trainable_token_indices")
    assert {row.action.value for row in report.coverage or () if key in row.tensor} == {"saved"}


@pytest.mark.parametrize(
    ("first", "second", "weights", "says"),
    [
        (SAVED, {}, [0.5, 1.0], "held in full, which cannot be given the weight 0.5"),
        (SAVED, SAVED, [0.5, 0.6], "cannot be given the weight 0.5, 0.6"),
        (SAVED, CHANGED, [1.0, 1.0], "hold it in full with different values"),
        (SAVED, WIDER, [1.0, 1.0], "another adapter holds it with another shape"),
        (ROWS, {**ROWS, "trainable_token_indices": [1, 6]}, [1.0, 1.0], "holds it with other rows"),
        (
            SAVED,
            {"module": "lm_head"},
            [1.0, 1.0],
            "saves lm_head in full, so that PEFT would load no factors",
        ),
        (DORA, {}, [1.0, 1.0], "DoRA cannot be combined"),
        ({"ensure_weight_tying": True}, {}, [1.0, 1.0], "some without"),
    ],
    ids=["weight", "weights", "values", "shape", "indices", "targeted", "dora", "ties"],
)
def test_what_does_not_add_up_is_refused(
    first: dict[str, Any], second: dict[str, Any], weights: list[float], says: str, tmp_path: Path
) -> None:
    parts = [small(tmp_path / "one", **first), small(tmp_path / "two", **second)]
    with pytest.raises(LoratoolsError, match=says):
        combine(parts, tmp_path / "out", weights=weights)
    assert not (tmp_path / "out").exists()


def test_adapters_of_two_bases_are_refused_and_doubts_are_told(tmp_path: Path) -> None:
    one = small(tmp_path / "one", base="a/base", task_type="CAUSAL_LM")
    wide = write_adapter(tmp_path / "wide", {MODULE: (torch.ones(2, 9), torch.ones(4, 2))})
    with pytest.raises(LoratoolsError, match="the adapters are not of one base"):
        combine([one, wide], tmp_path / "out")
    other = small(tmp_path / "two", base="b/base", task_type="SEQ_CLS")
    report = combine([one, other], tmp_path / "out")
    assert "the adapters name different bases, a/base and b/base; the first is written" in report.warnings
    assert (
        "the adapters are of different tasks, CAUSAL_LM and SEQ_CLS; the first is written" in report.warnings
    )


def test_factors_of_different_ranks_cannot_be_added(tmp_path: Path) -> None:
    parts = write_parts(tmp_path, decoder(), ranks=(4, 6))
    with pytest.raises(LoratoolsError, match=r"needs equal ranks: .* has 4, 6"):
        combine(parts, tmp_path / "out", method="linear")


@pytest.mark.parametrize(
    "options",
    [
        {"method": "mean"},
        {"density": 0.5},
        {"method": "ties"},
        {"method": "ties", "density": 1.5},
        {"rank": 4},
        {"method": "svd", "rank": 0},
        {"majority_sign_method": "loudest"},
        {"weights": [1.0]},
        {"weights": [1.0, float("nan")]},
    ],
    ids=str,
)
def test_options_that_mean_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        combine(["loratools-sample/lora-r4", "loratools-sample/lora-r8"], tmp_path / "out", **options)


def test_the_provenance_has_every_input_and_weight(tmp_path: Path) -> None:
    combine(["loratools-sample/lora-r8=0.5", "loratools-sample/lora-r4"], tmp_path / "out")
    record = read_provenance(tmp_path / "out")
    assert record is not None
    assert [(one.role, one.name) for one in record.inputs] == [
        ("adapter 1", "lora-r8"),
        ("adapter 2", "lora-r4"),
    ]
    assert record.options == {
        **dict.fromkeys(("density", "rank", "majority_sign_method", "seed")),
        "method": "cat",
        "weights": [0.5, 1.0],
    }


def test_a_combination_comes_off_as_one_adapter(tmp_path: Path) -> None:
    tensors = decoder()
    base = write_decoder(tmp_path / "base", tensors)
    combine(write_parts(tmp_path, tensors), tmp_path / "out", weights=[0.5, -0.25])
    merge(base, [tmp_path / "out"], tmp_path / "merged", undo=True)
    unmerge(tmp_path / "merged", output=tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_convolutions_add_up(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        write_adapter(
            tmp_path / str(rank),
            {
                "net.conv": (
                    torch.randn((rank, 5, 3, 3), generator=generator),
                    torch.randn((6, rank, 1, 1), generator=generator),
                )
            },
        )
        for rank in (2, 3)
    ]
    for method in ("cat", "svd"):
        combine(parts, tmp_path / method, method=method, rank=5 if method == "svd" else None)
        (found,), (wanted,) = updates_of(tmp_path / method).values(), exact_sum(parts, [1.0, 1.0]).values()
        assert np.linalg.norm(found - wanted) < 1e-6 * np.linalg.norm(wanted)
    assert load_file(tmp_path / "cat" / WEIGHTS)["base_model.model.net.conv.lora_A.weight"].shape == (
        5,
        5,
        3,
        3,
    )


@pytest.mark.parametrize("verb", ["resize", "combine"])
def test_an_adapter_that_is_written_meanwhile_is_found(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [small(tmp_path / "one"), small(tmp_path / "two")]
    write = SideTexts.write

    def late(texts: SideTexts, folder: Path) -> None:
        write(texts, folder)
        os.utime(paths[0] / "adapter_model.safetensors", (1, 1))

    monkeypatch.setattr(SideTexts, "write", late)
    with pytest.raises(LoratoolsError, match="changed while it was read") as refusal:
        if verb == "resize":
            resize(paths[0], tmp_path / "out", rank=1)
        else:
            combine(paths, tmp_path / "out")
    assert refusal.value.file == str(paths[0] / "adapter_model.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["resize", "combine"])
def test_a_tokenizer_behind_a_link_that_leads_out_stays_behind(verb: str, tmp_path: Path) -> None:
    path = small(tmp_path / "one")
    (tmp_path / "secret.txt").write_text("secret")
    (path / "vocab.txt").symlink_to(tmp_path / "secret.txt")
    (path / "tokenizer_config.json").write_text("{}")
    if verb == "resize":
        resize(path, tmp_path / "out", rank=1)
    else:
        combine([path, small(tmp_path / "two")], tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer_config.json").exists()
    assert not (tmp_path / "out" / "vocab.txt").exists()
