"""Distances of base and base + adapter to tuned, against float64 numpy; and that no tensor is skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures.lora_files import (
    Tensors,
    decoder,
    exact_sum,
    lora_factors,
    write_adapter,
    write_decoder,
)
from loratools import extract, verify
from loratools.checkpoints.spec import TensorSpec
from loratools.operations.verification import distance_job
from loratools.operations.verification.distance_job import DistanceJob
from loratools.reports.report import Report
from loratools.reports.verification import Check, ModuleDistance


def moved(tensors: Tensors, size: float = 0.02, seed: int = 7) -> Tensors:
    """A full fine-tune."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (value.double() + size * torch.randn(value.shape, generator=generator)).to(value.dtype)
        for name, value in tensors.items()
    }


def norm(tensor: torch.Tensor) -> float:
    return float(np.linalg.norm(tensor.double().numpy()))


def rows(report: Report) -> dict[str, ModuleDistance]:
    return {row.name: row for row in report.details["distances"]}


def check(report: Report, name: str) -> Check:
    (found,) = (one for one in report.details["checks"] if one.check == name)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_distance_is_float64_s(dtype: str, workers: int, tmp_path: Path) -> None:
    base = decoder(dtype=getattr(torch, dtype))
    tuned = moved(base)
    one, other = lora_factors(base), lora_factors(base, rank=2, seed=5, modules=("up_proj",))
    places = [
        write_decoder(tmp_path / "base", base, shards=2),
        write_decoder(tmp_path / "tuned", tuned),
        write_adapter(tmp_path / "one", one, alpha=6),
        write_adapter(tmp_path / "other", other),
    ]
    report = verify([*places[:3], f"{places[3]}=-0.5"], workers=workers)
    expected = exact_sum(base, (one, 1.5), (other, -0.5))
    found = rows(report)
    assert found.keys() == base.keys()
    for name, row in found.items():
        assert row.distance_base == pytest.approx(norm(tuned[name].double() - base[name].double()), rel=1e-12)
        assert row.distance_adapted == pytest.approx(norm(tuned[name].double() - expected[name]), rel=1e-12)
        assert row.remaining == row.distance_adapted / row.distance_base
    whole = report.details["distance"]
    assert whole.distance_base == pytest.approx(np.hypot.reduce([r.distance_base for r in found.values()]))
    assert whole.distance_adapted == pytest.approx(
        np.hypot.reduce([r.distance_adapted for r in found.values()])
    )
    assert (whole.tensors, whole.moved) == (len(base), len(base))
    assert whole.farther == sum(r.distance_adapted > r.distance_base for r in found.values())
    assert {row.kind for row in found.values()} == {None, "lora", "lora+lora"}


def test_blocks_do_not_change_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = decoder()
    factors = lora_factors(base)
    places = [
        write_decoder(tmp_path / "base", base),
        write_decoder(tmp_path / "tuned", moved(base)),
        write_adapter(tmp_path / "adapter", factors),
    ]
    whole = rows(verify(places))

    def small(spec: TensorSpec) -> object:
        return ((first, min(5, spec.rows - first)) for first in range(0, spec.rows, 5))

    monkeypatch.setattr(distance_job, "blocks", small)
    for name, row in rows(verify(places)).items():
        assert row.distance_adapted == pytest.approx(whole[name].distance_adapted, rel=1e-12)


def test_an_extracted_adapter_is_nearer_and_its_negative_is_worse(tmp_path: Path) -> None:
    base = decoder()
    places = [
        write_decoder(tmp_path / "base", base),
        write_decoder(tmp_path / "tuned", moved(base)),
    ]
    extract(*places, tmp_path / "adapter", rank=12, rest="drop")
    report = verify([*places, tmp_path / "adapter"])
    assert report.ok and check(report, "weights").ok is True
    assert report.details["distance"].farther == 0
    assert "adapter brings base nearer to tuned: in weights " in report.details["verdict"]
    worse = verify([*places, f"{tmp_path / 'adapter'}=-1"])
    assert not worse.ok and check(worse, "weights").ok is False
    assert worse.details["distance"].farther == 10
    assert "10 of 15 tensors lie farther off than without it" in check(worse, "weights").detail
    assert worse.details["verdict"].startswith(f"{tmp_path / 'adapter'}=-1 is worse than no adapter: ")


def test_base_and_tuned_in_the_other_order_are_found(tmp_path: Path) -> None:
    base = decoder(layers=1)
    places = [
        write_decoder(tmp_path / "base", base),
        write_decoder(tmp_path / "tuned", moved(base)),
    ]
    extract(*places, tmp_path / "adapter", rank=4, rest="drop")
    report = verify([*reversed(places), tmp_path / "adapter"])
    told = [one.detail for one in report.details["checks"] if one.ok is False]
    assert any(f"{places[0]} is its base: name that first" in detail for detail in told)
    assert "name that first" in report.details["verdict"]


def test_full_rank_leaves_rounding(tmp_path: Path) -> None:
    base = decoder(dtype=torch.bfloat16)
    places = [
        write_decoder(tmp_path / "base", base),
        write_decoder(tmp_path / "tuned", moved(base)),
    ]
    extract(*places, tmp_path / "adapter", rank=48)
    whole = verify([*places, tmp_path / "adapter"]).details["distance"]
    assert whole.remaining < 1e-6


def test_tuned_that_is_base_is_left_alone_by_nothing(tmp_path: Path) -> None:
    base = decoder()
    places = [
        write_decoder(tmp_path / "base", base),
        write_decoder(tmp_path / "same", base),
        write_adapter(tmp_path / "adapter", lora_factors(base)),
    ]
    report = verify(places)
    assert not report.ok and "tuned is base, and the adapter changes it" in check(report, "weights").detail
    assert report.details["distance"].remaining is None


class TestTies:
    """An embedding that is the head as well, in one tensor or in two."""

    base = decoder(tied=True)
    tuned = moved(base)
    embedding = "model.embed_tokens.weight"

    def places(self, folder: Path, **adapter: object) -> list[Path]:
        return [
            write_decoder(folder / "base", self.base),
            write_decoder(folder / "tuned", self.tuned),
            write_adapter(folder / "adapter", **adapter),  # type: ignore[arg-type]
        ]

    def test_a_head_written_apart_is_held_against_the_shared_tensor(self, tmp_path: Path) -> None:
        A, B = 0.1 * torch.randn(2, 32), 0.1 * torch.randn(40, 2)
        report = verify(self.places(tmp_path, factors={"lm_head": (A, B)}))
        head = rows(report)["lm_head.weight"]
        shared = self.tuned[self.embedding].double()
        exact = shared - self.base[self.embedding].double() - B.double() @ A.double()
        assert head.distance_adapted == pytest.approx(norm(exact), rel=1e-12)
        assert head.distance_base == pytest.approx(rows(report)[self.embedding].distance_base, rel=1e-12)
        assert rows(report)[self.embedding].kind is None

    def test_a_head_that_only_tuned_writes_is_held_against_base_s_embedding(self, tmp_path: Path) -> None:
        untied = {**self.tuned, "lm_head.weight": 2 * self.tuned[self.embedding]}
        places = self.places(tmp_path, factors=lora_factors(self.base))
        write_decoder(tmp_path / "untied", untied)
        report = verify([places[0], tmp_path / "untied", places[2]])
        exact = untied["lm_head.weight"].double() - self.base[self.embedding].double()
        assert rows(report)["lm_head.weight"].distance_base == pytest.approx(norm(exact), rel=1e-12)


class TestRows:
    """Tensors and rows that not all have."""

    base = decoder(layers=1)
    grown = moved(base) | {
        name: torch.cat([value, torch.ones(3, 32)])
        for name, value in base.items()
        if name.endswith(("embed_tokens.weight", "lm_head.weight"))
    }

    def places(self, folder: Path, more: Tensors | None = None, **config: object) -> list[Path]:
        return [
            write_decoder(folder / "base", self.base),
            write_decoder(folder / "tuned", self.grown),
            write_adapter(
                folder / "adapter",
                lora_factors(self.base),
                more=more,
                **config,  # type: ignore[arg-type]
            ),
        ]

    def test_rows_that_base_lacks_count_as_zeros(self, tmp_path: Path) -> None:
        head = rows(verify(self.places(tmp_path)))["lm_head.weight"]
        assert head.distance_base == head.distance_adapted == pytest.approx((3 * 32) ** 0.5, rel=1e-12)

    def test_rows_that_tuned_lacks_count_as_zeros(self, tmp_path: Path) -> None:
        places = self.places(tmp_path)
        cut = {**self.base, "lm_head.weight": self.base["lm_head.weight"][:37].clone()}
        report = verify([places[0], write_decoder(tmp_path / "cut", cut), places[2]])
        head = rows(report)["lm_head.weight"]
        gone = norm(self.base["lm_head.weight"][37:])
        assert head.distance_base == head.distance_adapted == pytest.approx(gone, rel=1e-12)

    def test_rows_that_an_adapter_brings_are_its_own(self, tmp_path: Path) -> None:
        names = ("model.embed_tokens", "lm_head")
        saved = {f"{name}.weight": self.grown[f"{name}.weight"] for name in names}
        found = rows(verify(self.places(tmp_path, saved, modules_to_save=list(names))))
        for name in names:
            row = found[f"{name}.weight"]
            assert (row.kind, row.distance_adapted) == ("replace", 0.0)
            assert row.distance_base == pytest.approx((3 * 32) ** 0.5, rel=1e-12)

    def test_what_one_side_lacks_is_told(self, tmp_path: Path) -> None:
        places = self.places(tmp_path)
        mine = {**self.base, "model.extra.weight": torch.ones(4, 4), "ids": torch.arange(3)}
        theirs = {**self.grown, "score.weight": torch.ones(2, 32), "ids": torch.arange(3)}
        places[0] = write_decoder(tmp_path / "mine", mine)
        places[1] = write_decoder(tmp_path / "theirs", theirs)
        report = verify(places)
        score = rows(report)["score.weight"]
        assert score.distance_base == score.distance_adapted == pytest.approx(8.0)
        assert report.coverage is not None
        fates = {(row.input, row.tensor): row for row in report.coverage}
        assert len(fates) == len(mine) + len(theirs) + 2 * len(lora_factors(self.base))
        assert fates["base", "model.extra.weight"].action.value == "dropped"
        assert "only base has it" in fates["base", "model.extra.weight"].reason
        assert fates["tuned", "ids"].reason == "no floating tensor, and so no weight"

    def test_shapes_that_cannot_be_compared_are_a_finding(self, tmp_path: Path) -> None:
        places = self.places(tmp_path)
        odd = {**self.grown, "model.norm.weight": torch.ones(2, 32)}
        report = verify([places[0], write_decoder(tmp_path / "odd", odd), places[2]])
        (found,) = (one for one in report.details["checks"] if one.check == "comparable")
        assert (found.ok, found.tensor) == (False, "model.norm.weight")
        assert "model.norm.weight" not in rows(report)


def test_dora_is_what_a_merge_makes_of_it(tmp_path: Path) -> None:
    """W' = m (W + BA) / ||W + BA||, by numpy."""
    base = decoder(layers=1)
    tuned = moved(base)
    factors = lora_factors(base)
    magnitudes = {module: torch.linspace(1, 2, len(B)) for module, (_, B) in factors.items()}
    adapter = write_adapter(
        tmp_path / "adapter",
        factors,
        more={f"{module}.lora_magnitude_vector": value for module, value in magnitudes.items()},
        use_dora=True,
    )
    places = [write_decoder(tmp_path / "base", base), write_decoder(tmp_path / "tuned", tuned), adapter]
    found = rows(verify(places))
    for module, (A, B) in factors.items():
        direction = (base[f"{module}.weight"].double() + B.double() @ A.double()).numpy()
        scaled = magnitudes[module].double().numpy()[:, None] * direction
        scaled /= np.linalg.norm(direction, axis=1)[:, None]
        exact = np.linalg.norm(tuned[f"{module}.weight"].double().numpy() - scaled)
        assert found[f"{module}.weight"].distance_adapted == pytest.approx(exact, rel=1e-6)
        assert found[f"{module}.weight"].kind == "dora"


def test_an_adapter_of_another_base_does_not_fit(tmp_path: Path) -> None:
    base = decoder(layers=1)
    wide = decoder(layers=1, hidden=64)
    report = verify(
        [
            write_decoder(tmp_path / "base", base),
            write_decoder(tmp_path / "tuned", moved(base)),
            write_adapter(tmp_path / "adapter", lora_factors(wide)),
        ]
    )
    assert not report.ok and "does not fit" in check(report, "fit").detail


def test_what_is_damaged_is_not_compared(tmp_path: Path) -> None:
    base = decoder(layers=1)
    tuned = moved(base)
    tuned["model.norm.weight"][0] = float("nan")
    report = verify(
        [
            write_decoder(tmp_path / "base", base),
            write_decoder(tmp_path / "tuned", tuned),
            write_adapter(tmp_path / "adapter", lora_factors(base)),
        ]
    )
    assert not report.ok and check(report, "weights").ok is None
    assert report.details["distance"] is None


def test_a_job_says_what_it_holds(tmp_path: Path) -> None:
    job = DistanceJob("w", None, TensorSpec("w", "float32", (4, 8), 128, tmp_path / "w", 0), 0, ())
    assert (job.bytes, job.memory) == (128, 5 * 8 * 32)


def test_a_dry_run_reads_nothing(tmp_path: Path) -> None:
    base = decoder(layers=1)
    places = [
        write_decoder(tmp_path / "base", base),
        write_decoder(tmp_path / "tuned", moved(base)),
        write_adapter(tmp_path / "adapter", lora_factors(base)),
    ]
    report = verify(places, dry_run=True)
    assert report.dry_run and report.coverage is not None
    assert {row.input for row in report.coverage} == {"base", "tuned", "adapter"}
    assert "checks" not in report.details
