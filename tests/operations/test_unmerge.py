"""`unmerge` by subtraction: what comes back, and whether what is said of it is true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fixtures.lora_files import (
    Factors,
    Tensors,
    decoder,
    exact_sum,
    lora_factors,
    write_adapter,
    write_decoder,
)
from loratools.checkpoints.provenance import read_provenance
from loratools.errors import LoratoolsError, UsageError
from loratools.linalg.rounding_torch import round_once
from loratools.operations.merge import merge
from loratools.operations.unmerge import unmerge
from loratools.reports.report import Report

SIZES = (1e-3, 1e-2, 0.1, 1.0, 30.0)
DTYPES = ("float32", "bfloat16", "float16")


def written(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def forget(folder: Path) -> None:
    """Takes away what a merge left on record."""
    (folder / "loratools.json").unlink()


@pytest.fixture
def tensors() -> Tensors:
    return decoder(dtype=torch.bfloat16)


@pytest.fixture
def factors(tensors: Tensors) -> Factors:
    return lora_factors(tensors)


@pytest.fixture
def base(tmp_path: Path, tensors: Tensors) -> Path:
    return write_decoder(tmp_path / "base", tensors)


@pytest.fixture
def adapter(tmp_path: Path, factors: Factors) -> Path:
    return write_adapter(tmp_path / "adapter", factors, base="base")


@pytest.fixture
def merged(base: Path, adapter: Path, tmp_path: Path) -> Path:
    merge(base, [adapter], tmp_path / "merged")
    return tmp_path / "merged"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_figures_are_true_bounds(size: float, dtype: str, tmp_path: Path) -> None:
    tensors = decoder(dtype=getattr(torch, dtype), layers=1, hidden=64, ffn=96)
    base = write_decoder(tmp_path / "base", tensors)
    adapters = [
        write_adapter(tmp_path / "one", lora_factors(tensors, size=size)),
        write_adapter(tmp_path / "two", lora_factors(tensors, size=size / 3, rank=9, seed=4), alpha=5),
    ]
    merge(base, adapters, tmp_path / "merged", weights=[1.0, -0.7])
    unknown = unmerge_without_record(tmp_path, adapters, [1.0, -0.7])
    back = written(tmp_path / "back")
    for row in unknown.modules or ():
        off = back[row.name].double() - tensors[row.name].double()
        share = float((off != 0).double().mean())
        claimed = 0.0 if row.exact is True else row.exact
        assert claimed is not None
        assert share <= claimed, (row.name, share, claimed)
        assert row.largest_difference is not None
        assert float(off.abs().max()) <= row.largest_difference
        if dtype != "float32" and size <= 0.1:
            assert claimed <= 10 * share + 0.01, "the bound is not worth its name"
    assert any("may be off" in line for line in unknown.warnings) == any(
        row.exact is not True for row in unknown.modules or ()
    )


def unmerge_without_record(tmp_path: Path, adapters: list[Path], weights: list[float]) -> Report:
    forget(tmp_path / "merged")
    report = unmerge(tmp_path / "merged", adapters, tmp_path / "back", weights=weights)
    assert any("no record of a merge" in line for line in report.warnings)
    return report


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    size=st.floats(-4, 1.5).map(lambda exponent: 10.0**exponent),
    rank=st.integers(1, 8),
    dtype=st.sampled_from(DTYPES),
)
def test_unmerge_undoes_merge_but_for_what_it_says(
    seed: int, size: float, rank: int, dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("law")
    tensors = decoder(dtype=getattr(torch, dtype), layers=1, hidden=16, ffn=24, seed=seed)
    base = write_decoder(folder / "base", tensors)
    adapter = write_adapter(folder / "adapter", lora_factors(tensors, rank=rank, size=size, seed=seed + 1))
    merge(base, [adapter], folder / "merged")
    forget(folder / "merged")
    report = unmerge(folder / "merged", [adapter], folder / "back")
    back = written(folder / "back")
    rows = {row.name: row for row in report.modules or ()}
    for name, tensor in tensors.items():
        different = back[name] != tensor
        if name not in rows or rows[name].exact is True:
            assert not different.any(), name
        else:
            assert float(different.double().mean()) <= float(rows[name].exact or 0), name
            worst = float((back[name].double() - tensor.double()).abs().max())
            assert worst <= (rows[name].largest_difference or 0), name


def test_the_result_is_the_difference_rounded_once(
    merged: Path, adapter: Path, factors: Factors, tmp_path: Path
) -> None:
    unmerge(merged, [adapter], tmp_path / "back")
    exact = exact_sum(written(merged), (factors, -1.0))
    for name, tensor in written(tmp_path / "back").items():
        assert (tensor == round_once(exact[name], torch.bfloat16)).double().mean() >= 0.999, name


def test_a_tensor_with_the_base_s_hash_is_the_base(tensors: Tensors, tmp_path: Path) -> None:
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(
        tmp_path / "adapter", lora_factors(tensors, size=1e-4, modules=["q_proj", "k_proj"])
    )
    merge(base, [adapter], tmp_path / "merged")
    known = unmerge(tmp_path / "merged", [adapter], tmp_path / "back")
    back = written(tmp_path / "back")
    exact = {row.name for row in known.modules or () if row.exact is True}
    same = {row.name for row in known.modules or () if torch.equal(back[row.name], tensors[row.name])}
    assert exact == same
    assert exact
    assert {row.largest_difference for row in known.modules or () if row.exact is True} == {0.0}


def test_the_weight_is_the_one_on_record(base: Path, adapter: Path, tensors: Tensors, tmp_path: Path) -> None:
    merge(base, [f"{adapter}=0.25"], tmp_path / "merged")
    unmerge(tmp_path / "merged", [adapter], tmp_path / "back")
    unmerge(tmp_path / "merged", [f"{adapter}=0.25"], tmp_path / "said")
    assert written(tmp_path / "back").keys() == tensors.keys()
    for name, tensor in written(tmp_path / "back").items():
        assert torch.equal(tensor, written(tmp_path / "said")[name])
        assert torch.allclose(tensor.float(), tensors[name].float(), atol=2e-3)
    other = unmerge(tmp_path / "merged", [f"{adapter}=1.0"], tmp_path / "wrong")
    assert any("weight 0.25" in line for line in other.warnings)


def test_adapters_that_were_not_merged_here_are_warned_about(
    merged: Path, tensors: Tensors, tmp_path: Path
) -> None:
    other = write_adapter(tmp_path / "other", lora_factors(tensors, seed=9))
    report = unmerge(merged, [other], tmp_path / "back")
    assert any(
        line.startswith("other is none of the adapters that the last merge into") for line in report.warnings
    )
    assert any(line.startswith("adapter was merged into merged too") for line in report.warnings)


def test_tensors_that_were_changed_since_are_said_to_be_unknown(
    merged: Path, adapter: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    name = "model.layers.0.self_attn.q_proj.weight"
    changed = written(merged)
    changed[name][3, 3] += 1
    save_file(changed, merged / "model.safetensors", metadata={"format": "pt"})
    report = unmerge(merged, [adapter], tmp_path / "back")
    row = next(row for row in report.modules or () if row.name == name)
    assert (row.exact, row.largest_difference) == (1.0, None)
    assert any("changed since the merge" in line and name in line for line in report.warnings)


def test_what_no_merge_can_have_given_is_noticed(tensors: Tensors, tmp_path: Path) -> None:
    """The base itself, from which an adapter of the same size as the weights' units is 'taken off'."""
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors, size=1e-2))
    report = unmerge(base, [adapter], tmp_path / "back")
    assert any("not what merging these adapters can have given" in line for line in report.warnings)


def test_replacements_rows_and_dora_are_refused_by_name(
    base: Path, factors: Factors, tensors: Tensors, tmp_path: Path
) -> None:
    norm = "model.norm.weight"
    magnitudes = {
        f"{module}.lora_magnitude_vector": tensors[f"{module}.weight"].float().norm(dim=1)
        for module in factors
    }
    cases = {
        "saved": (norm, {"more": {norm: torch.randn(32)}, "modules_to_save": ["norm"]}),
        "dora": ("q_proj.weight", {"more": magnitudes, "use_dora": True}),
        "rows": (
            "model.embed_tokens.weight",
            {
                "more": {"model.embed_tokens.token_adapter.trainable_tokens_delta": torch.randn(2, 32)},
                "trainable_token_indices": {"embed_tokens": [3, 5]},
            },
        ),
    }
    for name, (tensor, options) in cases.items():
        adapter = write_adapter(tmp_path / name, factors, **options)  # type: ignore[arg-type]
        merge(base, [adapter], tmp_path / f"merged-{name}")
        with pytest.raises(LoratoolsError, match="cannot be subtracted") as refused:
            unmerge(tmp_path / f"merged-{name}", [adapter], tmp_path / "back")
        assert (refused.value.tensor or "").endswith(tensor) or name == "dora"
        assert not (tmp_path / "back").exists()


def test_a_tied_pair_comes_back_tied_or_is_refused(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16, tied=True)
    base = write_decoder(tmp_path / "base", tensors)
    A, B = 0.1 * torch.randn(4, 40), 0.1 * torch.randn(32, 4)
    embedding = {"model.embed_tokens.lora_embedding_A": A, "model.embed_tokens.lora_embedding_B": B}
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors), more=embedding)
    merge(base, [adapter], tmp_path / "tied", tied="tie")
    unmerge(tmp_path / "tied", [adapter], tmp_path / "back")
    back = written(tmp_path / "back")
    assert back.keys() == tensors.keys()
    assert (back["model.embed_tokens.weight"] == tensors["model.embed_tokens.weight"]).double().mean() > 0.5
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"]
    report = merge(base, [adapter], tmp_path / "apart", tied="untie")
    assert any("written apart" in line for line in report.warnings)
    assert "lm_head.weight" in written(tmp_path / "apart")
    with pytest.raises(LoratoolsError, match=r"apart from model\.embed_tokens\.weight") as refused:
        unmerge(tmp_path / "apart", [adapter], tmp_path / "other")
    assert refused.value.tensor == "lm_head.weight"


def test_what_was_rounded_to_fewer_digits_is_refused(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.float32)
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    merge(base, [adapter], tmp_path / "narrow", dtype="bfloat16")
    with pytest.raises(LoratoolsError, match="rounded this tensor from float32 to bfloat16"):
        unmerge(tmp_path / "narrow", [adapter], tmp_path / "back")


def test_a_wider_dtype_brings_the_base_s_values_back(
    base: Path, adapter: Path, tensors: Tensors, tmp_path: Path
) -> None:
    merge(base, [adapter], tmp_path / "wide", dtype="float32")
    report = unmerge(tmp_path / "wide", [adapter], tmp_path / "back")
    assert any("float32" in line for line in report.warnings)
    for name, tensor in written(tmp_path / "back").items():
        assert torch.allclose(tensor, tensors[name].float(), atol=1e-7)


def test_coverage_figures_and_record(merged: Path, adapter: Path, tensors: Tensors, tmp_path: Path) -> None:
    report = unmerge(merged, [adapter], tmp_path / "back")
    assert report.command == "unmerge"
    assert report.coverage is not None
    assert {row.tensor for row in report.coverage if row.input == "merged"} == set(tensors)
    assert len(report.modules or ()) == 10
    record = read_provenance(tmp_path / "back")
    assert record is not None
    assert [one.role for one in record.inputs] == ["merged", "adapter"]
    assert all(row["off"] is not None for row in record.modules)


def test_one_file_and_dry_run(merged: Path, adapter: Path, tmp_path: Path) -> None:
    report = unmerge(merged, [adapter], tmp_path / "back.safetensors", dry_run=True)
    assert report.dry_run
    assert report.coverage is not None
    fates = [(row.input, row.tensor) for row in report.coverage]
    keys = load_file(adapter / "adapter_model.safetensors")
    assert sorted(fates) == sorted(
        [*(("merged", name) for name in written(merged)), *(("adapter", key) for key in keys)]
    )
    assert not (tmp_path / "back.safetensors").exists()
    unmerge(merged, [adapter], tmp_path / "back.safetensors")
    unmerge(merged, [adapter], tmp_path / "back")
    one, other = load_file(tmp_path / "back.safetensors"), written(tmp_path / "back")
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    alone, beside = (read_provenance(tmp_path / name) for name in ("back.safetensors", "back"))
    assert alone is not None and beside is not None
    assert alone == replace(beside, headers={}, files={}), "one file is all that there is"


def test_wrong_usage(merged: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(LoratoolsError, match="no merge kept an undo record here, and no adapter was named"):
        unmerge(merged, [], tmp_path / "back")
    with pytest.raises(UsageError, match="an adapter stands where the checkpoint"):
        unmerge(adapter, [adapter], tmp_path / "back")


@pytest.mark.parametrize("weights", [["x"], [None], [10**400], [True], "1", [1.0, 2.0]], ids=str)
def test_weights_of_a_record_that_are_none_are_not_believed(weights: object, tmp_path: Path) -> None:
    """The record is a stranger's: what cannot be weights is taken as if nothing were said of them."""
    tensors = decoder(dtype=torch.bfloat16, layers=1)
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    merge(base, [adapter], tmp_path / "merged")
    path = tmp_path / "merged" / "loratools.json"
    record = json.loads(path.read_text())
    record["options"]["weights"] = weights
    path.write_text(json.dumps(record))
    report = unmerge(tmp_path / "merged", [adapter], tmp_path / "back")
    assert report.ok and (tmp_path / "back").exists()


def test_the_seed_of_a_merge_by_chance_is_an_option_of_taking_it_off(tmp_path: Path) -> None:
    """So that a run that was killed does not go on with other draws."""
    tensors = decoder(dtype=torch.bfloat16, layers=1)
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    for rounding in ("nearest", "stochastic"):
        merge(base, [adapter], tmp_path / rounding, rounding=rounding, seed=7)
        unmerge(tmp_path / rounding, [adapter], tmp_path / f"{rounding} off")
    seeds = [read_provenance(tmp_path / f"{rounding} off") for rounding in ("nearest", "stochastic")]
    assert [None if one is None else one.options["seed"] for one in seeds] == [None, 7]
