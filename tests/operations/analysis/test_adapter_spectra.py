"""The spectra of an adapter alone, against the product formed and decomposed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import loratools
from fixtures.lora_files import decoder, lora_factors, write_adapter
from loratools.engine.coverage import Action
from loratools.operations.analysis.adapter_spectra import powers_of_two

MODULE = "model.layers.0.self_attn.q_proj"


def adapter(folder: Path, *, rank: int = 6, alpha: float = 15.0) -> dict[str, np.ndarray]:
    """An adapter on disk, and s·BA of each of its modules."""
    factors = lora_factors(decoder(layers=1), rank=rank)
    write_adapter(folder, factors, alpha=alpha)
    return {name: alpha / rank * (B.double() @ A.double()).numpy() for name, (A, B) in factors.items()}


def test_every_figure_is_that_of_the_product(tmp_path: Path) -> None:
    products = adapter(tmp_path)
    report = loratools.analyze(tmp_path, ranks=[1, 3, 6])
    rows = report.details["spectra"]
    assert [row.module for row in rows] == sorted(products) and list(report.details) == ["spectra"]
    for row in rows:
        values = np.linalg.svd(products[row.module], compute_uv=False)[:6]
        energy = np.cumsum(values**2) / np.sum(values**2)
        shares = values / values.sum()
        assert (row.reference, row.complete, row.bounds) == (str(tmp_path), True, {})
        assert row.smaller_side == min(products[row.module].shape)
        np.testing.assert_allclose(row.singular_values, values, rtol=1e-9)
        assert row.norm == pytest.approx(np.linalg.norm(products[row.module]))
        assert row.energy_at_rank == pytest.approx({"1": energy[0], "3": energy[2], "6": 1.0})
        assert row.rank_at_energy == {
            key: int(np.argmax(energy >= float(key))) + 1 for key in ("0.5", "0.9", "0.99")
        }
        assert row.effective_rank == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))
        assert row.stable_rank == pytest.approx(np.sum(values**2) / values[0] ** 2)
        assert row.noise_floor is row.noise_rank is row.noise_note is None
    json.dumps(report.to_json(), allow_nan=False)


def test_energies_are_told_at_powers_of_two_by_default(tmp_path: Path) -> None:
    adapter(tmp_path)
    (row, *_) = loratools.analyze([tmp_path]).details["spectra"]
    assert list(row.energy_at_rank) == ["1", "2", "4", "6"]
    assert powers_of_two(1) == (1,) and powers_of_two(8) == (1, 2, 4, 8)


def test_one_rank_without_references_is_one_of_the_samples_adapters() -> None:
    report = loratools.analyze(ranks=[16])
    assert {row.reference for row in report.details["spectra"]} == {"loratools-sample/lora-r16"}
    assert report.coverage is not None
    assert {row.action for row in report.coverage} == {Action.APPLIED}


def test_a_product_that_is_zero_is_told_and_has_no_figures(tmp_path: Path) -> None:
    factors = lora_factors(decoder(layers=1))
    factors[MODULE] = factors[MODULE][0], torch.zeros_like(factors[MODULE][1])
    write_adapter(tmp_path, factors)
    report = loratools.analyze(tmp_path)
    (row,) = (one for one in report.details["spectra"] if one.module == MODULE)
    assert row.norm == 0.0 and row.effective_rank is row.stable_rank is None
    assert row.rank_at_energy == {"0.5": 0, "0.9": 0, "0.99": 0}
    assert set(row.energy_at_rank.values()) == {None}
    assert any(MODULE in line and "zero" in line for line in report.warnings)


def test_a_negative_scaling_changes_no_singular_value(tmp_path: Path) -> None:
    adapter(tmp_path / "plus", alpha=6.0)
    adapter(tmp_path / "minus", alpha=-6.0)
    plus, minus = (loratools.analyze(tmp_path / name).details["spectra"] for name in ("plus", "minus"))
    assert [row.singular_values for row in plus] == [row.singular_values for row in minus]
