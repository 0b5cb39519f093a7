"""Subspace similarity of adapters on disk: grids against numpy, and everything that is told beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import loratools
from fixtures.lora_files import decoder, lora_factors, write_adapter
from fixtures.peft_models import ATTENTION, MLP, make_adapter, tiny_bert_classifier, tiny_gpt2, tiny_llama
from loratools import sample
from loratools.engine.coverage import Action
from loratools.errors import LoratoolsError, UsageError
from loratools.linalg.control import random_control
from loratools.reports.analysis import Similarity
from loratools.reports.report import Report

SAMPLE = "loratools-sample/"


def dense(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """lora_A (r, n) and lora_B (m, r) of each module, in float64, by the keys that PEFT wrote."""
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key, A in tensors.items():
        for part_A, part_B in (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")):
            if key.endswith(f".{part_A}"):
                stem = key.removesuffix(part_A)
                pair = A.double().numpy(), tensors[stem + part_B].double().numpy()
                found[stem.removeprefix("base_model.model.").removesuffix(".")] = pair
    return found


def vectors(factors: tuple[np.ndarray, np.ndarray], side: str, directions: str) -> np.ndarray:
    A, B = factors
    matrix = {"factor": {"A": A, "B": B}[side], "product": B @ A}[directions]
    U, _, Vh = np.linalg.svd(matrix, full_matrices=False)
    rank = A.shape[0]
    return Vh[:rank].T if side == "A" else U[:, :rank]


def phi(U1: np.ndarray, U2: np.ndarray) -> np.ndarray:
    return np.array(
        [
            [np.linalg.norm(U1[:, :i].T @ U2[:, :j]) ** 2 / min(i, j) for j in range(1, U2.shape[1] + 1)]
            for i in range(1, U1.shape[1] + 1)
        ]
    )


def rows(report: Report) -> tuple[Similarity, ...]:
    found: tuple[Similarity, ...] = report.details["similarity"]
    return found


def hold_against_numpy(report: Report, folders: dict[str, Path], directions: str) -> None:
    factors = {name: dense(folder) for name, folder in folders.items()}
    shared = set.intersection(*map(set, factors.values()))
    assert {(row.module, row.side) for row in rows(report)} == {(m, s) for m in shared for s in "AB"}
    for row in rows(report):
        first, second = (
            vectors(factors[name][row.module], row.side, directions) for name in (row.first, row.second)
        )
        assert row.dimension == len(first)
        np.testing.assert_allclose(np.array(row.grid), phi(first, second), atol=1e-6)


MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (tiny_llama, {"target_modules": ATTENTION + MLP}),
    "gpt2": (tiny_gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "bert": (tiny_bert_classifier, {"target_modules": ["query", "dense", "word_embeddings"]}),
    "dora": (tiny_llama, {"target_modules": ATTENTION, "use_dora": True}),
    "patterns": (tiny_llama, {"target_modules": ATTENTION, "rank_pattern": {"v_proj": 2}}),
}


@pytest.mark.parametrize("directions", ["factor", "product"])
@pytest.mark.parametrize("name", MODELS)
def test_grids_of_adapters_that_peft_wrote_are_numpys(name: str, directions: str, tmp_path: Path) -> None:
    model, options = MODELS[name]
    for folder, rank, seed in (("one", 4, 1), ("two", 8, 2)):
        make_adapter(model(), tmp_path / folder, seed=seed, r=rank, **options)
    folders = {str(tmp_path / one): tmp_path / one for one in ("one", "two")}
    hold_against_numpy(loratools.analyze(list(folders), directions=directions), folders, directions)


@pytest.mark.parametrize("directions", ["factor", "product"])
@pytest.mark.parametrize("ranks", [(4, 8), (8, 64), (8, 8)], ids=str)
def test_grids_of_the_sample_are_numpys(ranks: tuple[int, int], directions: str) -> None:
    """Trained with PEFT, stored in bfloat16; `8 8` are two seeds."""
    report = loratools.analyze(ranks=ranks, directions=directions)
    names = {name for row in rows(report) for name in (row.first, row.second)}
    assert len(names) == 2
    folders = {name: sample.path(name.removeprefix(SAMPLE)) for name in names}
    hold_against_numpy(report, folders, directions)
    assert {np.shape(row.grid) for row in rows(report)} == {ranks}


def test_nothing_named_are_the_samples_ranks_4_and_8() -> None:
    report = loratools.analyze()
    json.dumps(report.to_json(), allow_nan=False)
    assert {(row.first, row.second) for row in rows(report)} == {(f"{SAMPLE}lora-r4", f"{SAMPLE}lora-r8")}


@pytest.mark.parametrize("directions", ["factor", "product"])
def test_an_adapter_beside_itself_has_ones_on_the_diagonal(directions: str) -> None:
    report = loratools.analyze([f"{SAMPLE}lora-r8", f"{SAMPLE}lora-r8"], directions=directions)
    for row in rows(report):
        np.testing.assert_allclose(np.diag(row.grid), 1.0, atol=1e-9)


def test_the_control_stands_beside_each_grid() -> None:
    report = loratools.analyze(ranks=(4, 8), seed=5)
    for row in rows(report):
        control = random_control(4, 8, row.dimension, 5)
        np.testing.assert_array_equal(row.control, control.mean)
        np.testing.assert_array_equal(np.array(row.band), np.stack([control.low, control.high], axis=-1))
    assert loratools.analyze(ranks=(4, 8), seed=6).details["similarity"][0].control != rows(report)[0].control


def test_independent_adapters_lie_in_the_band_and_related_ones_do_not(tmp_path: Path) -> None:
    weights = decoder(layers=6)
    first, second = (lora_factors(weights, seed=seed) for seed in (1, 2))
    near = {name: (A + 0.1 * A.std() * second[name][0], B) for name, (A, B) in first.items()}
    for name, factors in (("one", first), ("two", second), ("near", near)):
        write_adapter(tmp_path / name, factors)
    apart = [_inside(row) for row in rows(loratools.analyze([tmp_path / "one", tmp_path / "two"]))]
    assert len(apart) == 60 and sum(apart) >= 56
    related = rows(loratools.analyze([tmp_path / "one", tmp_path / "near"]))
    assert not any(_inside(row) for row in related)


def _inside(row: Similarity) -> bool:
    grid, band = np.array(row.grid), np.array(row.band)
    return bool(np.all((grid >= band[..., 0]) & (grid <= band[..., 1])))


def test_ranks_cut_to_the_leading_directions_of_the_whole_factor() -> None:
    names = [f"{SAMPLE}lora-r16", f"{SAMPLE}lora-r64"]
    whole, cut = (rows(loratools.analyze(names, ranks=ranks)) for ranks in (None, (3, 20)))
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_allclose(np.array(one.grid)[:3, :20], other.grid, atol=1e-12)


def test_all_pairs_of_several_adapters_in_their_order() -> None:
    names = [f"{SAMPLE}lora-r{rank}" for rank in ("16", "4", "8-seed2")]
    report = loratools.analyze(names)
    pairs = [(0, 1), (0, 2), (1, 2)]
    of_one = [(row.first, row.second) for row in rows(report) if row.module == rows(report)[0].module]
    assert of_one == [(names[i], names[j]) for i, j in pairs for _ in "AB"]
    alone = {(row.module, row.side): row.grid for row in rows(loratools.analyze([names[0], names[2]]))}
    for row in rows(report):
        if (row.first, row.second) == (names[0], names[2]):
            assert row.grid == alone[row.module, row.side]


def test_means_over_all_by_kind_and_by_layer() -> None:
    report = loratools.analyze(ranks=(4, 8))
    means = {(one.over, one.name, one.side): one for one in report.details["similarity_means"]}
    kinds = {row.kind for row in rows(report)}
    layers = {str(row.layer) for row in rows(report)}
    assert set(means) == {
        (over, name, side)
        for over, names in (("all", {"all"}), ("kind", kinds), ("layer", layers))
        for name in names
        for side in "AB"
    }
    assert layers == {"0", "1", "2", "3"} and "q_proj" in kinds
    for (over, name, side), mean in means.items():
        members = [
            row
            for row in rows(report)
            if row.side == side and name in {"all": "all", "kind": row.kind, "layer": str(row.layer)}[over]
        ]
        members = [row for row in members if over != "kind" or row.kind == name]
        assert mean.modules == len(members)
        np.testing.assert_allclose(mean.grid, np.mean([row.grid for row in members], axis=0), atol=1e-12)
        np.testing.assert_allclose(mean.control, np.mean([row.control for row in members], axis=0))


def test_means_are_over_the_ranks_that_all_modules_have(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two"), start=1):
        options = {"r": 4, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2 + seed}}
        make_adapter(tiny_llama(), tmp_path / name, seed=seed, **options)
    report = loratools.analyze([tmp_path / "one", tmp_path / "two"])
    shapes = {(one.over, one.name): np.shape(one.grid) for one in report.details["similarity_means"]}
    assert shapes["all", "all"] == (3, 4)
    assert shapes["kind", "q_proj"] == (4, 4) and shapes["kind", "v_proj"] == (3, 4)


def test_a_factor_that_is_zero_has_no_directions_and_that_is_said(tmp_path: Path) -> None:
    """PEFT starts with lora_B = 0."""
    for seed, name in enumerate(("fresh", "trained"), start=1):
        size = 0.1 * (name == "trained")
        make_adapter(tiny_llama(), tmp_path / name, seed=seed, size=size, r=4, target_modules=["q_proj"])
    names = [str(tmp_path / "fresh"), str(tmp_path / "trained")]
    report = loratools.analyze(names)
    assert [row.side for row in rows(report)] == ["A", "A"]
    (line,) = report.warnings
    assert "lora_B of model.layers.0.self_attn.q_proj and 1 more module" in line
    assert names[0] in line and "is zero" in line
    report = loratools.analyze(names, directions="product")
    assert rows(report) == () and "BA of" in report.warnings[0]


def test_directions_that_do_not_exist_end_the_grid(tmp_path: Path) -> None:
    factors = lora_factors(decoder(layers=1), rank=6)
    broken = {name: (A, B.clone()) for name, (A, B) in factors.items()}
    name = "model.layers.0.self_attn.q_proj"
    broken[name][1][:, 4:] = 0.0
    write_adapter(tmp_path / "whole", factors)
    write_adapter(tmp_path / "broken", broken)
    report = loratools.analyze([tmp_path / "whole", tmp_path / "broken"])
    shapes = {(row.module, row.side): np.shape(row.grid) for row in rows(report)}
    assert shapes.pop((name, "B")) == (6, 4)
    assert set(shapes.values()) == {(6, 6)}
    assert any("fewer directions" in line and f"lora_B of {name} " in line for line in report.warnings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_singular_values_that_coincide_are_said_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    """Orthonormal rows: the order of the directions is an accident of their rounding."""
    factors = {
        name: (torch.linalg.qr(A.double().T)[0].T.to(dtype), B.to(dtype))
        for name, (A, B) in lora_factors(decoder(layers=1)).items()
    }
    for name in ("one", "two"):
        write_adapter(tmp_path / name, factors)
    told = loratools.analyze([tmp_path / "one", tmp_path / "two"]).warnings
    assert len(told) == 2  # lora_A of either; lora_B has values of its own
    assert all("lora_A of model.layers.0.mlp.down_proj and 4 more modules" in line for line in told)
    assert all("and the next coincide" in line for line in told)


@pytest.mark.parametrize("directions", ["factor", "product"])
def test_directions_that_are_rounding_are_said_by_name(directions: str, tmp_path: Path) -> None:
    """A rank-3 factor, rounded: values from 4 on are what bfloat16 made."""
    factors = lora_factors(decoder(layers=1), rank=6, modules=["q_proj"])
    mixed = {
        name: ((torch.randn(6, 3, generator=torch.Generator().manual_seed(1)) @ A[:3]).bfloat16(), B)
        for name, (A, B) in factors.items()
    }
    write_adapter(tmp_path / "whole", factors)
    write_adapter(tmp_path / "rounded", mixed)
    report = loratools.analyze([tmp_path / "whole", tmp_path / "rounded"], directions=directions)
    lines = [line for line in report.warnings if "no larger than the rounding" in line]
    assert len(lines) == 1 and str(tmp_path / "rounded") in lines[0] and "values from 4 on" in lines[0]
    assert {np.shape(row.grid) for row in rows(report)} == {(6, 6)}


def test_modules_that_only_one_adapter_has_are_named_and_covered(tmp_path: Path) -> None:
    factors = lora_factors(decoder(layers=2))
    fewer = {name: pair for name, pair in factors.items() if "layers.1.mlp" not in name}
    write_adapter(tmp_path / "more", factors)
    write_adapter(tmp_path / "fewer", fewer)
    report = loratools.analyze([tmp_path / "more", tmp_path / "fewer"])
    assert len(rows(report)) == 2 * len(fewer)
    assert report.warnings == (
        f"model.layers.1.mlp.down_proj and 1 more module only in {tmp_path / 'more'}: not compared",
    )
    assert report.coverage is not None
    left = [row for row in report.coverage if row.action is Action.DROPPED]
    assert {row.input for row in left} == {"adapter 1"} and len(left) == 4
    assert len(report.coverage) == 2 * (len(factors) + len(fewer))


def test_what_has_no_factors_is_covered_with_the_reason(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "target_modules": ["q_proj"],
        "r": 4,
        "bias": "all",
        "use_dora": True,
        "modules_to_save": ["lm_head"],
        "trainable_token_indices": [2, 40],
    }
    for seed, name in enumerate(("one", "two"), start=1):
        make_adapter(tiny_llama(bias=True), tmp_path / name, seed=seed, **options)
    report = loratools.analyze([tmp_path / "one", tmp_path / "two"])
    assert report.coverage is not None
    keys = load_file(tmp_path / "one" / "adapter_model.safetensors")
    for label in ("adapter 1", "adapter 2"):
        assert {row.tensor for row in report.coverage if row.input == label} == set(keys)
    reasons = {row.tensor: row.reason for row in report.coverage if row.action is not Action.COMPARED}
    assert any("magnitudes" in reason for reason in reasons.values())
    assert sum("in full" in reason for reason in reasons.values()) > 0
    assert any("rows of an embedding" in reason for reason in reasons.values())
    assert any("DoRA in 2 modules" in line for line in report.warnings)


def test_widths_that_differ_are_compared_on_the_other_side(tmp_path: Path) -> None:
    for name, vocab in (("small", 40), ("grown", 44)):
        factors = lora_factors(decoder(vocab=vocab), modules=["lm_head"], seed=vocab)
        write_adapter(tmp_path / name, factors)
    report = loratools.analyze([tmp_path / "small", tmp_path / "grown"])
    assert [row.side for row in rows(report)] == ["A"]
    assert any("another width" in line and "lora_B of lm_head" in line for line in report.warnings)


def test_adapters_of_other_bases_are_compared_with_a_warning(tmp_path: Path) -> None:
    for seed, base in enumerate(("org/llama", "somewhere/Llama", "org/mistral"), start=1):
        write_adapter(tmp_path / str(seed), lora_factors(decoder(layers=1), seed=seed), base=base)
    assert loratools.analyze([tmp_path / "1", tmp_path / "2"]).warnings == ()
    (line,) = loratools.analyze([tmp_path / "1", tmp_path / "3"]).warnings
    assert "org/mistral" in line and "org/llama" in line


def test_adapters_that_share_nothing_are_refused(tmp_path: Path) -> None:
    weights = decoder(layers=1)
    write_adapter(tmp_path / "one", lora_factors(weights, modules=["q_proj"]))
    write_adapter(tmp_path / "two", lora_factors(weights, modules=["up_proj"]))
    with pytest.raises(LoratoolsError, match="share no module"):
        loratools.analyze([tmp_path / "one", tmp_path / "two"])


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    factors = lora_factors(decoder(layers=1))
    write_adapter(tmp_path / "one", factors)
    next(iter(factors.values()))[0][1, 1] = torch.nan
    write_adapter(tmp_path / "two", factors)
    with pytest.raises(LoratoolsError, match="NaN or infinite"):
        loratools.analyze([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize(
    ("ranks", "message"),
    [((4,), "1 ranks for 2 adapters"), ((4, 8, 8), "3 ranks"), ((5, 8), "rank 5 is above"), ((0, 8), "less")],
    ids=str,
)
def test_ranks_that_cannot_be_meant(ranks: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        loratools.analyze([f"{SAMPLE}lora-r4", f"{SAMPLE}lora-r8"], ranks=ranks)
    assert refused.value.exit_code == 2


def test_the_number_of_workers_changes_nothing() -> None:
    one, many = (loratools.analyze(ranks=(8, 64), workers=workers) for workers in (1, 5))
    assert one.details == many.details and one.warnings == many.warnings


def test_a_dry_run_covers_every_tensor_and_reads_none(tmp_path: Path) -> None:
    factors = lora_factors(decoder(layers=1))
    next(iter(factors.values()))[0][1, 1] = torch.nan  # would be an error if it were read
    for name in ("one", "two"):
        write_adapter(tmp_path / name, factors)
    report = loratools.analyze([tmp_path / "one", tmp_path / "two"], dry_run=True)
    assert report.dry_run and report.coverage is not None and len(report.coverage) == 4 * len(factors)
    assert report.details["plan"].jobs == len(factors)


def test_adapters_alone_import_no_torch() -> None:
    code = (
        "import sys, loratools;"
        "loratools.analyze(ranks=[4, 8]); loratools.analyze(ranks=[8]);"
        "loratools.analyze(ranks=[4, 8], directions='product', dry_run=True);"
        "assert not {'torch', 'scipy', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
