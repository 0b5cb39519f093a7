"""`analyze` as a caller sees it: which question references ask, what is refused, and which keys come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import loratools
from fixtures.lora_files import decoder, lora_factors, write_adapter
from loratools.errors import LoratoolsError, UsageError
from loratools.operations.analysis.references import Mode, open_references

BASE, TUNED, R4, R8 = (f"loratools-sample/{name}" for name in ("base", "tuned", "lora-r4", "lora-r8"))

MODES: dict[str, tuple[tuple[str, ...], Mode]] = {
    "two adapters": ((R4, R8), Mode.SIMILARITY),
    "an adapter": ((R4,), Mode.SPECTRA),
    "an adapter on its base": ((BASE, R4), Mode.ADAPTERS),
    "the base last": ((R4, R8, BASE), Mode.ADAPTERS),
    "a pair": ((BASE, TUNED), Mode.PAIR),
    "a pair and an adapter": ((BASE, TUNED, R4), Mode.PAIR),
    "a pair around adapters": ((BASE, R4, TUNED, R8), Mode.PAIR),
}


@pytest.mark.parametrize("name", MODES)
def test_what_is_asked_is_told_by_what_is_named(name: str) -> None:
    references, mode = MODES[name]
    inputs = open_references(references, (1, 2))
    assert inputs.mode is mode and inputs.ranks == (1, 2)
    assert [one.reference for one in inputs.checkpoints] == [
        one for one in references if one in (BASE, TUNED)
    ]
    assert [one.reference for one in inputs.adapters] == [one for one in references if one in (R4, R8)]


SAMPLES = {
    None: ["lora-r4", "lora-r8"],
    (8,): ["lora-r8"],
    (8, 8): ["lora-r8", "lora-r8-seed2"],
    (64, 4, 16): ["lora-r64", "lora-r4", "lora-r16"],
}


@pytest.mark.parametrize("ranks", SAMPLES, ids=str)
def test_ranks_choose_among_the_samples_adapters(ranks: tuple[int, ...] | None) -> None:
    inputs = open_references((), ranks)
    assert [one.name for one in inputs.adapters] == SAMPLES[ranks]
    assert inputs.ranks is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one checkpoint": ({"references": [BASE]}, "one checkpoint alone"),
    "three checkpoints": ({"references": [BASE, TUNED, BASE]}, "3 checkpoints"),
    "a weight": ({"references": [f"{R4}=0.5", R8]}, "takes no weights"),
    "an adapter twice among three": ({"references": [R4, R8, R4]}, "named twice"),
    "an adapter twice beside a base": ({"references": [BASE, R4, R4]}, "named twice"),
    "a rank that the sample lacks": ({"ranks": [5]}, "4, 8 (2 seeds), 16, 64"),
    "more of a rank than the sample has": ({"ranks": [8, 8, 8]}, "only 2 of rank 8"),
    "rank zero": ({"ranks": [0, 4]}, "less than 1"),
    "directions": ({"directions": "both"}, "factor, product"),
    "spectrum": ({"spectrum": "half"}, "leading, full"),
    "nothing asked of a base": ({"references": [BASE, R4], "amplification": False}, "amplification"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_wrong_usage_in_one_line(name: str) -> None:
    options, told = REFUSED[name]
    with pytest.raises(UsageError) as refused:
        loratools.analyze(**options)
    assert told in str(refused.value) and "\n" not in str(refused.value)


KEYS: dict[str, set[str]] = {
    "two adapters": {"similarity", "similarity_means"},
    "an adapter": {"spectra"},
    "an adapter on its base": {"amplification"},
    "a pair": {"spectra", "movement", "tokens", "amplification"},
    "a pair and an adapter": {"spectra", "movement", "tokens", "amplification", "overlap"},
}


@pytest.mark.parametrize("name", KEYS)
def test_a_report_has_the_keys_of_what_was_asked_and_covers_every_tensor(name: str) -> None:
    references, _ = MODES[name]
    report = loratools.analyze(references)
    assert set(report.details) == KEYS[name]
    assert report.coverage is not None
    opened = [loratools.open_checkpoint(reference) for reference in references]
    assert len(report.coverage) == sum(map(len, opened))
    printed = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert printed["command"] == "analyze" and set(printed) >= KEYS[name]
    planned = loratools.analyze(references, dry_run=True)
    assert planned.dry_run and planned.coverage is not None
    assert len(planned.coverage) == len(report.coverage)


def test_one_reference_may_stand_alone(tmp_path: Path) -> None:
    write_adapter(tmp_path, lora_factors(decoder(layers=1)))
    alone, listed = loratools.analyze(tmp_path), loratools.analyze([tmp_path])
    assert alone.details == listed.details


def test_other_formats_and_adapters_without_factors_are_refused_by_name(tmp_path: Path) -> None:
    factors = lora_factors(decoder(layers=1))
    write_adapter(tmp_path / "saved", {}, more={"lm_head.weight": next(iter(factors.values()))[0]})
    with pytest.raises(LoratoolsError, match="no low-rank factors"):
        loratools.analyze(tmp_path / "saved")
    for name, key in (("kohya", "lora_unet_a.lora_down.weight"), ("prompt", "prompt_embeddings")):
        save_file({key: torch.ones(2, 4)}, tmp_path / f"{name}.safetensors")
        with pytest.raises(LoratoolsError, match=f"format {name} "):
            loratools.analyze(tmp_path / f"{name}.safetensors")
