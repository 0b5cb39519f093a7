"""How much of an update rounding takes: against float64 and numpy, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fixtures.lora_files import Factors, Tensors, decoder, lora_factors, write_adapter, write_decoder
from fixtures.peft_models import CASES, make_adapter, save_base
from loratools.checkpoints.provenance import read_provenance
from loratools.operations.merge import merge
from loratools.operations.rounded import sum_of_squares
from loratools.reports.report import Report


def float64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def expected_errors(
    before: Tensors, after: Tensors, *updates: tuple[dict[str, Factors], float]
) -> dict[str, float]:
    """||rounded - exact|| / ||update|| of each tensor that factors go to, from what was written."""
    added: dict[str, np.ndarray] = {}
    for factors, scaling in updates:
        for module, (A, B) in factors.items():
            name = f"{module}.weight"
            added[name] = added.get(name, 0.0) + scaling * (float64(B) @ float64(A))
    return {
        name: float(
            np.linalg.norm(float64(after[name]) - (float64(before[name]) + update)) / np.linalg.norm(update)
        )
        for name, update in added.items()
    }


def errors(report: Report) -> dict[str, float | None]:
    return {row.name: row.rounding_error for row in report.modules or ()}


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.3])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_it_is_what_float64_finds(dtype: str, size: float, rounding: str, tmp_path: Path) -> None:
    tensors = decoder(dtype=getattr(torch, dtype), hidden=64, ffn=96)
    base = write_decoder(tmp_path / "base", tensors)
    factors, more = lora_factors(tensors, size=size), lora_factors(tensors, size=size, seed=3, rank=2)
    adapters = [write_adapter(tmp_path / "one", factors), write_adapter(tmp_path / "two", more)]
    for count in (1, 2):
        target = tmp_path / f"out {count}"
        report = merge(base, adapters[:count], target, rounding=rounding)
        expected = expected_errors(
            tensors, load_file(target / "model.safetensors"), *[(factors, 1.0), (more, 1.0)][:count]
        )
        assert errors(report) == pytest.approx(expected, rel=2e-3 if dtype == "float32" else 1e-3)


@pytest.mark.parametrize("size", [1e-5, 1e-8, 1e-12])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_update_below_half_a_unit_vanishes(dtype: str, size: float, tmp_path: Path) -> None:
    """Also one that float32, in which it is added, cannot tell from nothing."""
    tensors = {name: tensor + 1.0 for name, tensor in decoder(dtype=getattr(torch, dtype)).items()}
    base = write_decoder(tmp_path / "base", tensors)
    adapters = [
        write_adapter(tmp_path / f"{seed}", lora_factors(tensors, size=size, seed=seed)) for seed in (0, 1)
    ]
    for count in (1, 2):
        report = merge(base, adapters[:count], tmp_path / f"out {count}")
        assert {row.changed for row in report.modules or ()} == {0.0}
        assert list(errors(report).values()) == pytest.approx([1.0] * 10, rel=1e-6)
        lines = [line for line in report.warnings if "swallows" in line]
        assert len(lines) == 1 and "in 10 of 10 tensors, up to 100 % of its norm in model.layers." in lines[0]
        assert f"rounding to {dtype} " in lines[0]
        assert "--rounding stochastic" in lines[0] and "--dtype float32" in lines[0]


def test_float32_keeps_what_16_bits_lose(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16)
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors, size=1e-3))
    narrow, wide = (merge(base, [adapter], tmp_path / dtype, dtype=dtype) for dtype in ("keep", "float32"))
    assert min(errors(narrow).values()) > 0.5 and max(errors(wide).values()) < 1e-3  # type: ignore[type-var]
    assert any("swallows most" in line for line in narrow.warnings)
    assert not any("swallows" in line for line in wide.warnings)


def test_rounding_by_chance_is_not_warned_of(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16)
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors, size=1e-3))
    report = merge(base, [adapter], tmp_path / "out", rounding="stochastic")
    assert min(errors(report).values()) > 1.0  # type: ignore[type-var]
    assert not any("swallows" in line for line in report.warnings)


def test_the_worst_of_few_is_named(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16, layers=1)
    factors = lora_factors(tensors, size=0.1)
    A, B = factors["model.layers.0.self_attn.k_proj"]
    factors["model.layers.0.self_attn.k_proj"] = (A, B * 1e-4)
    base = write_decoder(tmp_path / "base", tensors)
    report = merge(base, [write_adapter(tmp_path / "adapter", factors)], tmp_path / "out")
    (line,) = [line for line in report.warnings if "swallows" in line]
    assert "in 1 of 5 tensors" in line and "in model.layers.0.self_attn.k_proj.weight" in line


def test_nothing_added_has_no_error(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16)
    factors = {module: (A, torch.zeros_like(B)) for module, (A, B) in lora_factors(tensors).items()}
    base = write_decoder(tmp_path / "base", tensors)
    report = merge(base, [write_adapter(tmp_path / "zero", factors)], tmp_path / "out")
    assert set(errors(report).values()) == {None} and not report.warnings


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    """NaN and infinities of the base stay, and every figure is of the other elements."""
    tensors = decoder(dtype=torch.bfloat16, layers=1)
    name = "model.layers.0.self_attn.q_proj"
    one, two = lora_factors(tensors, modules=["q_proj"]), lora_factors(tensors, modules=["q_proj"], seed=2)
    tensors[f"{name}.weight"][0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    base = write_decoder(tmp_path / "base", tensors)
    adapters = [write_adapter(tmp_path / "one", one), write_adapter(tmp_path / "two", two)]
    for count in (1, 2):
        target = tmp_path / f"out {count}"
        row = (merge(base, adapters[:count], target).modules or ())[0]
        after = float64(load_file(target / "model.safetensors")[row.name])
        added = sum(float64(B) @ float64(A) for A, B in (one[name], two[name])[:count])
        finite = np.isfinite(after)
        with np.errstate(invalid="ignore"):
            lost = (after - (float64(tensors[row.name]) + added))[finite]
        expected = np.linalg.norm(lost) / np.linalg.norm(added if count == 1 else added[finite])
        assert row.rounding_error == pytest.approx(expected, rel=1e-3)
        assert row.norm is not None and np.isfinite(row.norm)


def test_what_is_replaced_is_rounded_too(tmp_path: Path) -> None:
    """A tensor that the adapter holds in the base's dtype loses nothing, one in float32 its last digits."""
    tensors = decoder(dtype=torch.bfloat16)
    base = write_decoder(tmp_path / "base", tensors)
    for dtype in (torch.bfloat16, torch.float32):
        saved = {"lm_head.weight": torch.randn(tensors["lm_head.weight"].shape, dtype=dtype)}
        adapter = write_adapter(tmp_path / str(dtype), lora_factors(tensors), more=saved)
        target = tmp_path / f"out {dtype}"
        found = errors(merge(base, [adapter], target))["lm_head.weight"]
        value, before = float64(saved["lm_head.weight"]), float64(tensors["lm_head.weight"])
        lost = float64(load_file(target / "model.safetensors")["lm_head.weight"]) - value
        assert found == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(value - before), rel=1e-4)
        assert (found == 0.0) == (dtype is torch.bfloat16)


def test_dora(tmp_path: Path) -> None:
    """Against the merge of the same base in float64, which rounds nothing to speak of."""
    case = next(case for case in CASES if case.name == "dora")
    bases = {
        dtype: save_base(case.model(), tmp_path / str(dtype), dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    }
    rough = load_file(bases[torch.bfloat16] / "model.safetensors")
    (tmp_path / "exact").mkdir()
    from safetensors.torch import save_file

    save_file({name: one.double() for name, one in rough.items()}, tmp_path / "exact/model.safetensors")
    make_adapter(case.model(), tmp_path / "adapter", **case.options)
    report = merge(bases[torch.bfloat16], [tmp_path / "adapter"], tmp_path / "merged")
    merge(tmp_path / "exact", [tmp_path / "adapter"], tmp_path / "other")
    after, exact = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "other"))
    for name, found in errors(report).items():
        added = np.linalg.norm(float64(exact[name]) - float64(rough[name]))
        lost = np.linalg.norm(float64(after[name]) - float64(exact[name]))
        assert found == pytest.approx(lost / added, rel=1e-3)


def test_provenance_and_json_hold_it(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.bfloat16)
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors))
    report = merge(base, [adapter], tmp_path / "one.safetensors")
    provenance = read_provenance(tmp_path / "one.safetensors")
    assert provenance is not None
    assert {row["name"]: row["rounding_error"] for row in provenance.modules} == errors(report)
    assert all(0 < row["rounding_error"] < 1 for row in report.to_json()["modules"])


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e15, 1e19])
def test_sums_of_squares_neither_vanish_nor_overflow(scale: float) -> None:
    values = (scale * np.random.default_rng(0).standard_normal((70, 50))).astype(np.float32)
    exact = float(np.square(values.astype(np.float64)).sum())
    assert sum_of_squares(values) == pytest.approx(exact, rel=1e-5)
    values[3, 4], values[5, 6] = np.nan, np.inf
    exact = float(np.square(values[np.isfinite(values)].astype(np.float64)).sum())
    assert sum_of_squares(values) == pytest.approx(exact, rel=1e-12)
